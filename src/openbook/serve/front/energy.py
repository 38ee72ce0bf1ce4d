"""What a request's share of the machine's measured energy is: at each moment, the requests in flight share it equally.

With J(t) the counter and n(t) the requests in flight, a request costs the integral of dJ / n over its time. A clock that advances by
dJ / n gives it as a difference of two readings. Energy of idle time belongs to no request.
"""

from __future__ import annotations

from collections.abc import Sequence

from openbook.logbook.meter import Counter


class SharedEnergy:
    """`source` says where the joules come from; None where nothing measures them, or since a counter failed."""

    def __init__(self, counters: Sequence[Counter]) -> None:
        self._counters = counters
        self._running = 0
        self._clock = 0.0  # joules of a request that would have run all the time
        self._total = 0.0
        self.source = "+".join(sorted({counter.source for counter in counters})) + ", shared by requests in flight" if counters else None
        self._advance()

    def begin(self) -> float:
        """A mark, for `end`."""
        self._advance()
        self._running += 1
        return self._clock

    def end(self, mark: float) -> float | None:
        """Joules since the mark."""
        self._advance()
        self._running -= 1
        return None if self.source is None else self._clock - mark

    def _advance(self) -> None:
        if self.source is None:
            return
        try:
            total = sum(counter.joules() for counter in self._counters)
        except Exception:  # a file that vanished, a GPU that fell off the bus: a sum without it would say too little
            self.source = None
            return
        if self._running:
            self._clock += (total - self._total) / self._running
        self._total = total
