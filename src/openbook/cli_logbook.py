"""`openbook logbook`: what happened to a run, and notes of people."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from openbook.arguments import Json, RunArgument, show


class _ShowByDefault(TyperGroup):
    """`openbook logbook RUN` means `openbook logbook show RUN`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "-h", "--help"):
            args = ["show", *args]
        return super().parse_args(ctx, args)


logbook = typer.Typer(cls=_ShowByDefault, no_args_is_help=True, add_completion=False)


@logbook.command("show")
def show_logbook(
    run: RunArgument,
    events: Annotated[bool, typer.Option("--events", help="List every event instead.")] = False,
    as_json: Json = False,
) -> None:
    """The account on one screen: interruptions, causes, time, changes, verification, energy; `openbook logbook RUN` is short for it."""
    from openbook.logbook import Account, check, readable
    from openbook.logbook.screen import event_lines, screen
    from openbook.run import Run

    opened = Run(run)
    told = Account(readable(opened.logbook_path), opened.manifest["stages"], opened.recipe.energy)
    broken = check(opened.logbook_path)
    why = f"{opened.logbook_path}:{broken.line}: {broken.why}" if broken else None
    if events:
        show(list(told.events), event_lines(told.events), as_json)
    else:
        show({"run": str(run), **told.as_json(), "broken": why}, screen(told, why), as_json)
    if broken:
        raise typer.Exit(1)


@logbook.command("add")
def add_note(
    run: RunArgument,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What happened, or what was decided and why.")],
    author: Annotated[str | None, typer.Option(metavar="NAME", help="Who says so; the user's name by default.")] = None,
    as_json: Json = False,
) -> None:
    """Add a note to a run's logbook; while a command is writing the run, the note waits until that command enters it."""
    from openbook.logbook import leave
    from openbook.run import Busy, Run

    opened = Run(run)
    left = leave(opened.path, text, author or os.environ.get("USER") or "unknown")
    try:
        with opened.locked():  # opening the logbook enters the notes that wait
            entered = not left.exists()
    except Busy:
        entered = False
    result = "entered" if entered else "waits in notes/: the command that is writing this run enters it"
    show({"note": left.stem, "entered": entered}, f"note {result}", as_json)
