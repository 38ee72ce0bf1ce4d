"""Fills in a job file: the same command that trains on one machine, on as many as there are, through whatever ends it.

The workers save and end with status 75 when they are asked to stop. torchrun would start a worker again that ends so; therefore the
worker's shell notes the wish in the run directory and ends well, and the job's shell, once torchrun is done, asks the scheduler to go on.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from openbook.errors import InputError
from openbook.recipe import Recipe

TEMPLATES = {"slurm": "slurm.sh.jinja", "kubernetes": "kubernetes.yaml.jinja"}
REQUEUE = 75
"""The exit status (EX_TEMPFAIL) of a training that has saved its state and wants to be started again."""
NOTICE_SECONDS = 120
"""How long before the time limit a training is asked to stop."""


def render(recipe: Recipe, path: Path, target: str, nodes: int, gpus: int) -> str:
    """The job file that trains a recipe on up to `nodes` machines with `gpus` each; one worker a GPU, or one a machine without.

    Raises InputError if there is no such scheduler, or more workers than microbatches.
    """
    if target not in TEMPLATES:
        raise InputError(f"--for {target}: should be one of {', '.join(TEMPLATES)}")
    workers = nodes * max(1, gpus)
    if workers > recipe.train.microbatches:
        raise InputError(
            f"{nodes} nodes of {max(1, gpus)} workers are more than train.microbatches = {recipe.train.microbatches}: "
            f"raise it in {path}, or take fewer"
        )
    if gpus and recipe.train.device == "cpu":
        raise InputError(f'{path}: train.device = "cpu" needs no GPU; add --gpus-per-node 0, or change it to "auto"')
    facts = {
        "name": recipe.name,
        "label": label_of(recipe.name),
        "recipe": str(path),
        "nodes": nodes,
        "gpus": gpus,
        "processes": max(1, gpus),
        "requeue": REQUEUE,
        "notice": NOTICE_SECONDS,
        "restarts": 10 * nodes,
    }
    return filled(TEMPLATES[target], facts)


def label_of(name: str) -> str:
    """A name as clusters take it: lower-case letters, digits and dashes, at most 50."""
    label = re.sub(r"[^a-z0-9]+", "-", name.lower())[:50].strip("-")
    if not label or not label[0].isalpha():
        label = f"model-{label}".strip("-")
    return label


def filled(template: str, facts: dict[str, object]) -> str:
    """A template of this folder with the facts in it; whatever it names and `facts` lacks is an error."""
    import jinja2

    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
    )
    environment.filters["quoted"] = shlex.quote
    return environment.get_template(template).render(**facts) + "\n"
