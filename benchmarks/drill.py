"""Everything that openbook says it survives, done to it: one table with a row for each claim, and a verdict.

    python benchmarks/drill.py [--only kills,worlds,...] [--small] [--json]

A tiny training is disturbed in every way: killed, hung, cut over other workers, poisoned, flipped; what it ends in is compared, to the bit,
with what an undisturbed process makes of the same recipe. Faults are those of chaos.py, and signals from outside. Processes are forks of
this one (warm.py), each a training with files of its own. Exit status 1 if a claim does not hold.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import drill_faults
import drill_worlds
from drill_rig import Claim, Rig

PARTS: dict[str, Callable[[Rig], Iterator[Claim]]] = {
    "kills": drill_faults.kills,
    "worlds": drill_worlds.worlds,
    "saves": drill_faults.saves,
    "stall": drill_faults.stall,
    "hot": drill_faults.hot_recovery,
    "anomalies": drill_faults.anomalies,
    "siege": drill_faults.siege,
    "verify": drill_worlds.verified,
    "cost": drill_worlds.cost,
}


def drill(parts: Sequence[str], small: bool, seed: int, tell: Callable[[Claim, float], None]) -> list[Claim]:
    """Carries out the parts; tells of each claim, with the seconds that it took, as soon as it is settled."""
    claims: list[Claim] = []
    with tempfile.TemporaryDirectory() as folder:
        rig, begin = Rig(Path(folder), small, seed), time.monotonic()
        for part in parts:
            for claim in PARTS[part](rig):
                tell(claim, time.monotonic() - begin)
                claims.append(claim)
                begin = time.monotonic()
    return claims


def line(claim: Claim, seconds: float) -> str:
    return f"{'holds' if claim.holds else 'FAILS':6}{claim.part:10}{claim.claim:92} {claim.measured:36}{seconds:6.0f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), help=f"parts, of {', '.join(PARTS)}")
    parser.add_argument("--small", action="store_true", help="the smallest form of everything")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one JSON object in place of the table")
    options = parser.parse_args()
    parts = options.only.split(",")
    if unknown := set(parts) - set(PARTS):
        sys.exit(f"drill: --only {', '.join(sorted(unknown))}: no such part; parts are {', '.join(PARTS)}")
    begin = time.monotonic()
    tell = (lambda claim, seconds: None) if options.json else (lambda claim, seconds: print(line(claim, seconds), flush=True))
    claims = drill(parts, options.small, options.seed, tell)
    failed = sum(not claim.holds for claim in claims)
    if options.json:
        print(json.dumps({"claims": [asdict(claim) for claim in claims], "failed": failed}, indent=2))
    else:
        print(f"{len(claims) - failed} of {len(claims)} claims hold; {time.monotonic() - begin:.0f} s, seed {options.seed}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
