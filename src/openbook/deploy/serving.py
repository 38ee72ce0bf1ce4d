"""Fills in the files that serve an exported model by vLLM, behind `openbook serve --upstream`."""

from __future__ import annotations

import json
from pathlib import Path

from openbook.deploy.render import filled, label_of
from openbook.errors import InputError

SERVING = {"vllm-kubernetes": "vllm-kubernetes.yaml.jinja", "vllm-slurm": "vllm-slurm.sh.jinja"}
IMAGE = "vllm/vllm-openai:latest"


def render_serving(weights: Path, target: str, nodes: int, gpus: int) -> str:
    """The file that serves a folder of exported weights with `gpus` GPUs for each of `nodes` engines.

    Raises InputError if the folder is no exported model, or if its heads cannot be shared by the GPUs.
    """
    path = weights / "config.json"
    if not str(weights).isprintable():
        raise InputError(f"{str(weights)!r}: a path with such characters cannot stand in a job file")
    try:
        heads = json.loads(path.read_bytes())["num_attention_heads"]
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; `openbook export RUN` makes RUN/weights, which is what to name here") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: is not the configuration of an exported model ({type(error).__name__}: {error})") from None
    if gpus < 1:
        raise InputError(f"--gpus-per-node {gpus}: vLLM needs at least 1; on processors, `openbook serve RUN` serves by itself")
    if heads % gpus:
        raise InputError(f"--gpus-per-node {gpus}: {path} has {heads} attention heads, which {gpus} GPUs cannot share equally")
    if target == "vllm-slurm" and nodes != 1:
        raise InputError(f"--nodes {nodes}: one job serves on one node; submit it several times and name each address with --upstream")
    name = weights.resolve().parent.name if weights.name == "weights" else weights.resolve().name
    facts = {"weights": str(weights), "name": name, "label": label_of(name), "replicas": nodes, "gpus": gpus, "image": IMAGE}
    return filled(SERVING[target], facts)
