"""How long `openbook serve` takes until it answers: processor seconds for its imports, then from there to readiness, also by the wall.

    python benchmarks/startup.py RUN... [--times 3]

Each time in a process of its own. Processor seconds do not depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

PROGRAM = """
import importlib, json, os, signal, sys, time
from pathlib import Path
for name in ("cli", "engine", "serve.api", "serve.front", "serve.protocol", "serve.served", "serve.server"):
    importlib.import_module("openbook." + name)
import uvicorn
from openbook.cli_stages import weights_of
from openbook.serve import Options, serve
imports, begin = time.process_time(), time.monotonic()
def ready(url):
    print(json.dumps([imports, time.process_time() - imports, time.monotonic() - begin]), flush=True)
    os.kill(os.getpid(), signal.SIGINT)
serve({"m": weights_of(Path(sys.argv[1]))}, Options(port=0, threads=1), ready)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--times", type=int, default=3, help="the median counts")
    options = parser.parse_args()
    for run in options.runs:
        command = [sys.executable, "-c", PROGRAM, run]
        answers = [json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout) for _ in range(options.times)]
        imports, after, wall = (sorted(column)[options.times // 2] for column in zip(*answers, strict=True))
        print(f"{run}: imports {imports:.2f} CPU s; then {after:.2f} CPU s to readiness, {wall:.2f} s by the wall")


if __name__ == "__main__":
    main()
