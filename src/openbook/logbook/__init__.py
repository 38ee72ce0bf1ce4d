"""What happened: an append-only, hash-chained record, and the meters it is fed from."""

from openbook.logbook.attempts import Attempt, Event, Spent, attempts, spent
from openbook.logbook.book import Broken, Logbook, check, read
from openbook.logbook.environment import environment
from openbook.logbook.meter import Meter

__all__ = ["Attempt", "Broken", "Event", "Logbook", "Meter", "Spent", "attempts", "check", "environment", "read", "spent"]
