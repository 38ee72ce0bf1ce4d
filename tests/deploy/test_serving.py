"""The files that serve an exported model by vLLM: whole, of the shape that their readers want, with no way past the front."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from openbook.deploy import render_serving
from openbook.errors import InputError

STUBS = {
    "vllm": 'echo "vllm key=${#VLLM_API_KEY} $*" >> "$SEEN"; [ -n "${DIES:-}" ] && exit 3; exec sleep 60',
    "curl": '[ -e "$SEEN.up" ] || { touch "$SEEN.up"; exit 22; }',
    "openbook": 'trap "echo stopped >> $SEEN; exit 0" TERM; echo "openbook $*" >> "$SEEN"; while true; do sleep 0.05; done',
    "scontrol": 'echo "scontrol $*" >> "$SEEN"',
    "sleep": 'exec /bin/sleep "$([ "$1" = 2 ] && echo 0.05 || echo "$1")"',
}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    folder = tmp_path / "it's My Model" / "weights"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"num_attention_heads": 8}))
    return folder


@pytest.mark.parametrize(("replicas", "gpus"), [(1, 1), (3, 8)])
def test_the_kubernetes_file_has_engines_that_only_the_front_reaches(weights: Path, replicas: int, gpus: int) -> None:
    documents = list(yaml.safe_load_all(render_serving(weights, "vllm-kubernetes", replicas, gpus)))
    found: dict[tuple[str, str], dict[str, Any]] = {(each["kind"], each["metadata"]["name"]): each["spec"] for each in documents}
    label = "it-s-my-model"
    engine, front = found["Deployment", f"{label}-engine"], found["Deployment", f"{label}-front"]
    assert (engine["replicas"], front["replicas"], front["strategy"]) == (replicas, 1, {"type": "Recreate"})
    (vllm,), (openbook,) = (spec["template"]["spec"]["containers"] for spec in (engine, front))
    assert vllm["command"][:5] == ["vllm", "serve", str(weights), "--served-model-name", "it's My Model"]
    assert vllm["command"][-2:] == ["--tensor-parallel-size", str(gpus)] and vllm["resources"]["limits"] == {"nvidia.com/gpu": str(gpus)}
    keys = [{entry["name"]: entry for entry in container["env"]} for container in (vllm, openbook)]
    assert keys[0]["VLLM_API_KEY"]["valueFrom"] == keys[1]["ENGINE_KEY"]["valueFrom"] == {"secretKeyRef": {"name": label, "key": "key"}}
    assert keys[1]["ENGINES"]["value"] == f"http://{label}-engine:8000/v1"
    subprocess.run(["bash", "-n"], input=openbook["args"][0], text=True, check=True)
    assert "--open" not in openbook["args"][0], "without a key it does not listen"
    policy = found["NetworkPolicy", f"{label}-engine"]
    assert policy["podSelector"]["matchLabels"] == engine["template"]["metadata"]["labels"] == engine["selector"]["matchLabels"]
    assert policy["ingress"][0]["from"] == [{"podSelector": {"matchLabels": front["template"]["metadata"]["labels"]}}]
    assert found["Service", label]["selector"] == front["selector"]["matchLabels"]
    assert found["Service", f"{label}-engine"]["selector"] == engine["selector"]["matchLabels"]
    for spec in (engine, front):
        pod = spec["template"]["spec"]
        (container,) = pod["containers"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


def start(text: str, folder: Path, **extra: str) -> subprocess.Popen[bytes]:
    (folder / "bin").mkdir()
    for name, body in STUBS.items():
        (folder / "bin" / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / "bin" / name).chmod(0o755)
    (folder / "job.sh").write_text(text)
    facts = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SEEN": str(folder / "seen"), "HOME": str(folder)}
    return subprocess.Popen(["bash", "job.sh"], cwd=folder, env={**facts, **extra})


def test_the_slurm_job_serves_until_it_is_moved(weights: Path, tmp_path: Path) -> None:
    text = render_serving(weights, "vllm-slurm", 1, 4)
    orders = dict(re.findall(r"^#SBATCH --([a-z-]+)=(.*)$", text, re.MULTILINE))
    assert (orders["nodes"], orders["gpus-per-node"], orders["signal"]) == ("1", "4", "B:USR1@60")
    job = start(text, tmp_path)
    address, deadline = tmp_path / "it-s-my-model.url", time.monotonic() + 30
    while not (address.exists() and "openbook" in (tmp_path / "seen").read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert address.read_text().endswith(":20007/v1\n")
    job.send_signal(signal.SIGUSR1)
    assert job.wait(30) == 75
    vllm, openbook, *rest = (tmp_path / "seen").read_text().splitlines()
    assert vllm.startswith(f"vllm key=43 serve {weights} --served-model-name it's My Model --host 127.0.0.1 --port 30007")
    assert openbook.startswith("openbook serve --upstream http://127.0.0.1:30007/v1,key=VLLM_API_KEY,kind=vllm --store")
    assert rest == ["stopped", "scontrol requeue 7"] and not address.exists()


def test_a_slurm_job_whose_engine_dies_ends_with_its_status(weights: Path, tmp_path: Path) -> None:
    job = start(render_serving(weights, "vllm-slurm", 1, 1).replace("curl --fail", "false --fail"), tmp_path, DIES="1")
    assert job.wait(30) == 3


def test_what_cannot_be_served_is_said(weights: Path, tmp_path: Path) -> None:
    for folder, target, nodes, gpus, problem in (
        (tmp_path, "vllm-slurm", 1, 1, "openbook export"),
        (weights, "vllm-slurm", 1, 3, "8 attention heads"),
        (weights, "vllm-slurm", 2, 1, "several times"),
        (weights, "vllm-kubernetes", 1, 0, "at least 1"),
    ):
        with pytest.raises(InputError, match=problem):
            render_serving(folder, target, nodes, gpus)
