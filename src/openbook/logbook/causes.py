"""Why a training was interrupted: one word of a short closed list, so that causes can be counted and compared."""

from __future__ import annotations

from openbook.logbook.attempts import Event

CAUSES = {
    "killed": "ended without a word: killed, out of memory, or the machine went down",
    "hang": "a worker or an exchange stood still",
    "lost-worker": "a worker went away",
    "stopped": "somebody, or the scheduler, asked it to stop",
    "disk-full": "no space was left",
    "not-finite": "loss or gradient were infinite or no number",
    "disagreement": "workers held different bits, or would round differently",
    "loss-spike": "the loss left its range",
    "norm-spike": "the gradient's norm left its range",
    "corruption": "a worker's result was not what another one computed",
    "straggler": "one worker was much slower than the others",
    "unknown": "none of these; the detail says what is known",
}
"""Interruptions and anomalies together, each with what it means."""

_SPOKEN = {
    "killed without a word": "killed",
    "ended without a word": "killed",
    "no word since": "killed",
    "SIG": "stopped",
    "Stopped": "stopped",
    "KeyboardInterrupt": "stopped",
    "LostWorker": "lost-worker",
    "NotFinite": "not-finite",
    "Disagreement": "disagreement",
    "OSError: [Errno 28]": "disk-full",
    "OSError: [Errno 122]": "disk-full",
}
"""How causes begin that were written before the list was closed, and how attempts end that said in words why."""


def cause_of(said: str) -> str:
    """The word for what was said of an interruption."""
    if said in CAUSES:
        return said
    return next((cause for beginning, cause in _SPOKEN.items() if said.startswith(beginning)), "unknown")


def detail_of(event: Event) -> str:
    """What is known beyond the cause: the detail given, or a cause that was said in other words than the list's."""
    said = str(event.get("cause", ""))
    return str(event.get("detail") or ("" if said in CAUSES else said))
