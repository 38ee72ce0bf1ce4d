"""Clients that are not among the development dependencies, untouched, each in an environment of its own: `make clients` builds those and
runs this. Each script is given an address and a model, and nothing else.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from serve.serving import NAME, Served

SCRIPTS = Path(__file__).with_name("clients")
PLACE = os.environ.get("OPENBOOK_CLIENTS")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not here")
def test_curl(chatty: Served) -> None:
    subprocess.run(["sh", SCRIPTS / "curl.sh", chatty.url, NAME], check=True, timeout=300)


@pytest.mark.skipif(PLACE is None, reason="needs the clients' own packages: run `make clients`")
@pytest.mark.parametrize("script", ["langchain.py", "semantic_kernel.py", "agent_framework.py", "node.mjs"])
def test_a_client_drives_the_server(chatty: Served, script: str) -> None:
    folder = Path(PLACE or "").resolve() / script.partition(".")[0]
    program = "node" if script.endswith(".mjs") else folder / "bin" / "python"
    told = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([program, SCRIPTS / script, chatty.url, NAME], check=True, timeout=300, cwd=folder, env=told)
