"""The job files: whole, of the shape that their readers want, and right about what an exit status means."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from openbook.deploy import render
from openbook.errors import InputError
from openbook.recipe import Recipe, load_recipe
from tiny import RECIPE

STUBS = {
    "scontrol": 'if [ "$1" = show ]; then echo node-1; else echo "$@" >> "$SEEN"; fi',
    "torchrun": 'echo "torchrun $*" >> "$SEEN"; exec bash -c "$WORKER"',
    # as srun does: runs the command that follows its options, and hands a signal on to every process of it
    "srun": 'shift; setsid "$@" & child=$!; trap \'kill -USR1 -"$child"\' USR1; wait "$child"; s=$?\n'
    'while kill -0 "$child" 2>/dev/null; do wait "$child"; s=$?; done; exit "$s"',
}
PYTHON = """#!{python}
import os, signal, sys, time
if sys.argv[3] == "run":
    os.makedirs(os.environ["RUN"], exist_ok=True)
    sys.exit(int(os.environ.get("STATUS_OF_RUN", 0)))
signal.signal(signal.SIGUSR1, lambda *_: sys.exit(75))
with open(os.environ["SEEN"], "a") as seen:
    seen.write("ready\\n")
time.sleep(float(os.environ.get("WAITS", 0)))
sys.exit(int(os.environ.get("STATUS", 0)))
"""
"""In place of `python -m openbook.cli`: ends as it is told to, with 75 when it is asked to stop."""


@pytest.fixture
def recipe(tmp_path: Path) -> tuple[Recipe, Path]:
    path = tmp_path / "it's tiny.toml"
    path.write_text(RECIPE.replace("microbatches = 2", "microbatches = 64").replace('device = "cpu"', ""))
    return load_recipe(path)[0], path


@pytest.mark.parametrize(("nodes", "gpus"), [(1, 0), (1, 8), (4, 8), (3, 0)])
def test_the_slurm_script_is_a_script(recipe: tuple[Recipe, Path], tmp_path: Path, nodes: int, gpus: int) -> None:
    text = render(*recipe, "slurm", nodes, gpus)
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    orders = dict(re.findall(r"^#SBATCH --([a-z-]+)=(.*)$", text, re.MULTILINE))
    assert (orders["nodes"], orders["signal"]) == (f"1-{nodes}" if nodes > 1 else "1", "B:USR1@120")
    assert orders.get("gpus-per-node") == (str(gpus) if gpus else None)
    assert "#SBATCH --requeue" in text and "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1" in text
    assert f"--nnodes 1:{nodes} --nproc-per-node {max(1, gpus)} " in text and "--standalone" not in text
    assert "{{" not in text and "{%" not in text


def _start(text: str, folder: Path, **extra: str) -> subprocess.Popen[bytes]:
    (folder / "bin").mkdir()
    programs = {name: f"#!/bin/bash\n{body}\n" for name, body in STUBS.items()}
    for name, text_of in {**programs, "python": PYTHON.format(python=sys.executable)}.items():
        (folder / "bin" / name).write_text(text_of)
        (folder / "bin" / name).chmod(0o755)
    (folder / "job.sh").write_text(text)
    facts = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node-[1-2]"}
    facts |= {"SLURM_CPUS_ON_NODE": "2", "SEEN": str(folder / "seen"), "HOME": str(folder), **extra}
    return subprocess.Popen(["bash", "job.sh"], cwd=folder, env=facts)


def _seen(folder: Path) -> str:
    return (folder / "seen").read_text() if (folder / "seen").exists() else ""


def test_a_job_that_is_asked_to_stop_is_requeued(recipe: tuple[Recipe, Path], tmp_path: Path) -> None:
    job = _start(render(*recipe, "slurm", 2, 0), tmp_path, WAITS="20")
    deadline = time.monotonic() + 30
    while "ready" not in _seen(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(30) == 75
    seen = _seen(tmp_path)
    assert "requeue 7" in seen and "--rdzv-endpoint node-1:20007" in seen
    assert not (tmp_path / "runs/tiny/.requeue").exists()


@pytest.mark.parametrize("status", [0, 1, 2])
def test_a_job_that_ends_by_itself_is_not_requeued(recipe: tuple[Recipe, Path], tmp_path: Path, status: int) -> None:
    assert _start(render(*recipe, "slurm", 1, 0), tmp_path, STATUS=str(status)).wait(30) == status
    assert "ready" in _seen(tmp_path) and "requeue 7" not in _seen(tmp_path)


def test_a_job_whose_corpus_fails_does_not_train(recipe: tuple[Recipe, Path], tmp_path: Path) -> None:
    assert _start(render(*recipe, "slurm", 1, 0), tmp_path, STATUS_OF_RUN="2").wait(30) == 2
    assert _seen(tmp_path) == ""


@pytest.mark.parametrize(("nodes", "gpus"), [(1, 0), (4, 8)])
def test_the_kubernetes_file_is_a_service_and_an_indexed_job(recipe: tuple[Recipe, Path], nodes: int, gpus: int) -> None:
    service, job = yaml.safe_load_all(render(*recipe, "kubernetes", nodes, gpus))
    assert (service["kind"], service["spec"]["clusterIP"], job["kind"]) == ("Service", "None", "Job")
    spec: dict[str, Any] = job["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", nodes, nodes)
    rules = spec["podFailurePolicy"]["rules"]
    assert [(rule["action"], rule.get("onExitCodes", {}).get("values")) for rule in rules] == [
        ("Ignore", [75]),
        ("Ignore", None),
        ("FailJob", [2]),
    ]
    assert rules[1]["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    pod = spec["template"]["spec"]
    [container] = pod["containers"]
    assert pod["restartPolicy"] == "Never"  # podFailurePolicy asks for it
    assert pod["subdomain"] == service["metadata"]["name"] and service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert rules[0]["onExitCodes"]["containerName"] == container["name"]
    assert container["resources"]["limits"].get("nvidia.com/gpu") == (str(gpus) if gpus else None)
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    assert environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] == "1" and environment["RECIPE"] == str(recipe[1])
    for script in (environment["WORKER"], *container["args"]):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert f"--nnodes 1:{nodes} --nproc-per-node {max(1, gpus)} " in container["args"][0]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


@pytest.mark.parametrize(
    ("target", "nodes", "gpus", "problem"),
    [
        ("pbs", 1, 1, "should be one of slurm, kubernetes"),
        ("slurm", 9, 8, "more than train.microbatches = 64"),
    ],
)
def test_what_cannot_be_rendered_is_said(recipe: tuple[Recipe, Path], target: str, nodes: int, gpus: int, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        render(*recipe, target, nodes, gpus)


def test_gpus_for_a_training_on_processors_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "cpu.toml"
    path.write_text(RECIPE)
    with pytest.raises(InputError, match="add --gpus-per-node 0"):
        render(load_recipe(path)[0], path, "slurm", 1, 1)
