"""The errors a user sees: one line that says what is wrong, where, and what would be right."""


class OpenbookError(Exception):
    """The machine or a file failed; what was committed is safe. Exit status 1."""

    status = 1


class InputError(OpenbookError):
    """Something the user gave cannot be used. Exit status 2."""

    status = 2
