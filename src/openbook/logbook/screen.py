"""A run's account on one screen of a terminal, and its events as lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from openbook.logbook.account import Account
from openbook.logbook.attempts import Event
from openbook.logbook.bill import carbon_line
from openbook.logbook.telling import daily
from openbook.logbook.training import LOST, PARTS
from openbook.words import NOTHING, count, duration, energy, moment, percent, size

LISTED = 3
"""How many of the newest anomalies, actions, notes and changes are shown; --json has them all."""
TITLE = 13


def screen(account: Account, broken: str | None) -> str:
    """`broken` is what is wrong with the logbook's chain, if anything."""
    lines = [*_head(account), *_time(account), *_causes(account), *_changed(account.changes), *_seen(account)]
    lines += [*_verified(account), *_saved(account), *_cost(account), *_notes(account)]
    lines.append(_line("chain", f"BROKEN: {broken}" if broken else f"holds, {count(len(account.events))} events"))
    return "\n".join(lines)


def _line(title: str, text: str) -> str:
    return f"{title:{TITLE}} {text}"


def _listed(title: str, texts: Sequence[str]) -> Iterator[str]:
    """The newest few, under a title that counts them all."""
    if texts:
        yield _line(title, str(len(texts)) + (f", the last {LISTED}:" if len(texts) > LISTED else ""))
        yield from (_line("", text) for text in texts[-LISTED:])


def _head(account: Account) -> Iterator[str]:
    past = account.training
    planned = f" of {count(past.plan['steps'])}" if past.plan.get("steps") else ""
    if not past.tries:
        yield _line("training", "not begun")
        return
    yield _line(
        "training", f"step {count(past.last.get('step', 0))}{planned}, {count(past.last.get('tokens', 0))} tokens; {past.tries[-1].fate}"
    )
    attempts = f"{count(len(past.tries))} {'attempt' if len(past.tries) == 1 else 'attempts'}"
    effective = percent(past.effective) if past.effective is not None else NOTHING
    yield _line("time", f"{duration(past.elapsed)} in {attempts}; effective training time {effective}")


def _time(account: Account) -> Iterator[str]:
    parts = account.training.parts()
    shown = [f"{name} {duration(parts[part])}" for part, name in PARTS.items() if part not in LOST and parts[part]]
    for index in range(0, len(shown), 3):
        yield _line("", "; ".join(shown[index : index + 3]))


def _causes(account: Account) -> Iterator[str]:
    past, causes = account.training, account.training.causes()
    if not causes:
        yield _line("interruptions", "none")
        return
    yield _line("interruptions", f"{count(len(past.incidents))}; by cause, hours lost:")
    columns = "".join(f"{PARTS[part]:>18}" for part in LOST)
    yield _line("", f"{'cause':14}{'times':>6}{'hours':>10}{columns}")
    for cause, row in causes.items():
        spent = "".join(f"{duration(row[part]) if row[part] else NOTHING:>18}" for part in LOST)
        yield _line("", f"{cause:14}{count(row['times']):>6}{row['seconds'] / 3600:>10.3f}{spent}")
    kept = past.elapsed - sum(row["seconds"] for row in causes.values())
    yield _line("", f"{'not lost':14}{'':6}{kept / 3600:>10.3f}")
    yield _line("", f"{'elapsed':14}{'':6}{past.elapsed / 3600:>10.3f}")


def _changed(changes: Mapping[str, Sequence[str]]) -> Iterator[str]:
    yield from _listed("changed", [f"{what}: {change}" for what, each in changes.items() for change in each])


def _seen(account: Account) -> Iterator[str]:
    for title, events in (("anomalies", account.training.anomalies), ("actions", account.training.actions)):
        yield from _listed(title, [f"{moment(event['time'])}  {daily(event)[2]}" for event in events])


def _verified(account: Account) -> Iterator[str]:
    found = account.verified
    spans = ", ".join(f"{first}:{last}" for first, last in found["spans"])
    bad = [event for event in found["replays"] if event["verdict"] != "holds"]
    trained = account.training.last.get("step", 0)
    text = (
        f"steps {spans} hold ({count(found['steps'])} of {count(trained)})"
        if spans
        else "no step: `openbook verify RUN --steps A:B` replays"
    )
    yield _line("verified", text)
    for event in bad:
        where = f" from step {event['differs']['step']} ({event['differs']['what']})" if event["differs"] else ""
        yield _line("", f"{event['steps'][0]}:{event['steps'][1]} {event['verdict']}{where}")


def _saved(account: Account) -> Iterator[str]:
    facts = account.saving()
    if facts["count"]:
        waited = f"steps waited {duration(facts['blocking_seconds'])}, {percent(facts['blocking_share'], 2)} of the time"
        yield _line("checkpoints", f"{count(facts['count'])}, {size(facts['bytes'])}; {waited}")


def _cost(account: Account) -> Iterator[str]:
    joules = {source: sum(cost.joules.get(source, 0.0) for cost in account.costs) for cost in account.costs for source in cost.joules}
    yield _line("CPU time", duration(sum(cost.cpu_seconds for cost in account.costs)) + _wasted(account, "cpu_seconds", duration))
    for source, value in joules.items():
        yield _line("energy", f"{energy(value)} {source}{_wasted(account, source, energy)}")
    absent = account.carbon.absent_seconds
    if absent:
        yield _line("" if joules else "energy", f"absent for {duration(absent)} of work: no counter could be read, no watts are declared")
    yield _line("carbon", carbon_line(account.carbon))


def _wasted(account: Account, what: str, shown: Callable[[float], str]) -> str:
    wasted = account.waste.wasted.get(what)
    return f", of which training wasted {shown(wasted)}" if wasted else ""


def _notes(account: Account) -> Iterator[str]:
    events = [event for event in account.events if event["event"] == "note"]
    yield from _listed("notes", [f"{moment(event.get('written') or event['time'])}  {daily(event)[2]}" for event in events])


def event_lines(events: Sequence[Event]) -> str:
    """Every event on a line of its own."""
    told = [(moment(event.get("time")), *daily(event)[1:]) for event in events]
    return "\n".join(f"{time}  {what:18} {detail}" for time, what, detail in told)
