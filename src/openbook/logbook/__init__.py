"""What happened: an append-only, hash-chained record, the meters it is fed from, and the account that is rendered from it."""

from openbook.logbook.account import Account, readable
from openbook.logbook.attempts import Attempt, Event, Spent, attempts, spent
from openbook.logbook.book import Broken, Logbook, check, read
from openbook.logbook.causes import CAUSES
from openbook.logbook.environment import environment
from openbook.logbook.meter import Meter
from openbook.logbook.notes import leave

__all__ = [
    "CAUSES",
    "Account",
    "Attempt",
    "Broken",
    "Event",
    "Logbook",
    "Meter",
    "Spent",
    "attempts",
    "check",
    "environment",
    "leave",
    "read",
    "readable",
    "spent",
]
