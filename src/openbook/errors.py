"""The errors a user sees: one line that says what is wrong, where, and what would be right."""


class OpenbookError(Exception):
    """The machine or a file failed; what was committed is safe. Exit status 1."""

    status = 1


class Stopped(OpenbookError):
    """Somebody asked a long piece of work to stop, by a signal; its state is saved.

    Exit status 130 where a person pressed Ctrl-C; else 75, "try again", on which schedulers start the work again.
    """

    INTERRUPTED, REQUEUE = 130, 75

    def __init__(self, message: str, cause: str) -> None:
        super().__init__(message)
        self.cause = cause
        self.status = self.INTERRUPTED if cause == "SIGINT" else self.REQUEUE


class AlreadyTold(OpenbookError):
    """Another process has said what is wrong; only the exit status is left to hand on."""

    def __init__(self, status: int) -> None:
        super().__init__(f"exit status {status}")
        self.status = status


class InputError(OpenbookError):
    """Something the user gave cannot be used. Exit status 2."""

    status = 2
