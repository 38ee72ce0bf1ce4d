"""What a piece of work cost: wall time, CPU time, peak memory, and energy where a counter measures it.

Energy is read from the RAPL counters of Linux and the total-energy counter of NVML. A counter that is missing or unreadable is
absent from the result: nothing is ever estimated here.
"""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

POWERCAP = Path("/sys/class/powercap")


class _Rapl:
    """One package's counter in microjoules, which wraps around at a known value."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "energy_uj"
        self.range = int((folder / "max_energy_range_uj").read_text())
        self.start = int(self.path.read_text())

    def joules(self) -> float:
        return ((int(self.path.read_text()) - self.start) % (self.range + 1)) / 1e6


class _Nvml:
    """One GPU's total-energy counter in millijoules (Volta and later)."""

    def __init__(self, nvml: Any, index: int) -> None:
        self.nvml, self.handle = nvml, nvml.nvmlDeviceGetHandleByIndex(index)
        self.start = nvml.nvmlDeviceGetTotalEnergyConsumption(self.handle)

    def joules(self) -> float:
        return float(self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.handle) - self.start) / 1e3


def _rapl_counters(root: Path) -> list[_Rapl]:
    counters = []
    for folder in sorted(root.glob("intel-rapl:?")) if root.is_dir() else []:
        try:
            counters.append(_Rapl(folder))
        except (OSError, ValueError):  # unreadable without root since CVE-2020-8694
            continue
    return counters


def _nvml_counters() -> list[_Nvml]:
    try:
        import pynvml

        pynvml.nvmlInit()
        return [_Nvml(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount())]
    except Exception:  # no library, no driver, or a GPU without the counter: absent, whatever the reason
        return []


class Meter:
    """`with Meter() as meter: …`, then `meter.cost()`; `cost` may also be called on the way."""

    def __init__(self, powercap: Path = POWERCAP) -> None:
        self._powercap = powercap
        self.elsewhere = 0.0
        """CPU seconds of other processes at the same work, as far as they have told."""

    def __enter__(self) -> Meter:
        self._wall = time.monotonic()
        self._cpu = _cpu_seconds()
        self._rapl = _rapl_counters(self._powercap)
        self._nvml = _nvml_counters()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._final = self.cost()

    def cost(self) -> dict[str, Any]:
        """Seconds, CPU seconds (with children), peak resident bytes of the process so far, and joules by counter if any."""
        if hasattr(self, "_final"):
            return self._final
        unit = 1 if sys.platform == "darwin" else 1024
        result: dict[str, Any] = {
            "seconds": round(time.monotonic() - self._wall, 3),
            "cpu_seconds": round(_cpu_seconds() - self._cpu + self.elsewhere, 3),
            "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        }
        joules = {}
        if self._rapl:
            joules["measured:rapl"] = round(sum(counter.joules() for counter in self._rapl), 3)
        if self._nvml:
            joules["measured:nvml"] = round(sum(counter.joules() for counter in self._nvml), 3)
        if joules:
            result["joules"] = joules
        return result


def _cpu_seconds() -> float:
    return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))
