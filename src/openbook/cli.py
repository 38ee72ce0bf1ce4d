"""The commands: each parses its arguments, calls one function of one stage, and prints.

Results go to standard output, progress to standard error. `--json` makes the result one JSON object. Anything the user got wrong is
one line and exit status 2; a failure of the machine is one line and exit status 1.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from openbook.arguments import Json, RunArgument, show
from openbook.cli_audit import audit
from openbook.cli_chat import chat
from openbook.cli_corpus import corpus
from openbook.cli_evaluate import data, evaluate
from openbook.cli_export import export
from openbook.cli_import import import_command
from openbook.cli_keys import alias, keys, usage
from openbook.cli_logbook import logbook
from openbook.cli_models import inspect, models
from openbook.cli_scores import compare, curve
from openbook.cli_serve import serve
from openbook.cli_stages import Again, one_stage, tell, weights_of
from openbook.cli_tokens import tokens
from openbook.errors import AlreadyTold, InputError, OpenbookError, Stopped

app = typer.Typer(
    help="Train and use a GPT-class language model in the open, from raw text to a served model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(corpus, name="corpus", help="Build a corpus; what is in it, what is not, and why.")
app.command("import")(import_command)
app.command()(evaluate)
app.command()(data)
app.command()(audit)
app.command()(serve)
app.add_typer(keys, name="keys", help="Keys to a server: who may use which models, and how much.")
app.command()(usage)
app.add_typer(alias, name="alias", help="Names that stand for models, with a share of the traffic each; moved while a server runs.")
app.command()(compare)
app.command()(curve)
app.add_typer(logbook, name="logbook", help="What happened to a run, why, and what it cost; notes of people.")
app.add_typer(tokens, name="tokens", help="Where training tokens come from; token files of other programs.")
app.command()(models)
app.command()(inspect)
app.command()(export)
app.command()(chat)

Workers = Annotated[int | None, typer.Option(min=1, help="Processes that train together, on this machine; any number, same bits.")]
AcceptChange = Annotated[
    str | None, typer.Option("--accept-change", metavar="WHY", help="Go on under another numerics contract; the logbook keeps the reason.")
]


def main() -> None:
    """Entry point: turns every foreseen failure into one line and an exit status."""
    # Threads that spin for long while they wait are faster on an idle machine and far slower on a busy one (docs/experiments.md).
    # Read when torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    try:
        status = app(standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except typer.Abort:
        sys.exit(130)
    except typer.TyperException as error:
        fail(error.format_message(), 2)
    except AlreadyTold as error:
        sys.exit(error.status)
    except OpenbookError as error:
        fail(str(error), error.status)
    except KeyboardInterrupt:
        fail("interrupted; the same command continues", 130)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EIO, errno.EFBIG):
            raise
        where = f"{error.filename}: " if error.filename else ""
        fail(f"{where}{error.strerror}; nothing finished was lost: put it right and repeat the command", 1)


def fail(message: str, status: int) -> None:
    print(f"openbook: {message}", file=sys.stderr)
    sys.exit(status)


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe, such as recipes/pocket.toml.")],
    out: Annotated[Path | None, typer.Option(help="The run directory; runs/NAME by default.")] = None,
    until: Annotated[str | None, typer.Option(help="The last stage to carry out.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a value of the recipe.")] = None,
    workers: Workers = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Discard a training of another recipe in the same directory.")] = False,
    accept_change: AcceptChange = None,
    as_json: Json = False,
) -> None:
    """Bring a run up to date with its recipe: corpus, tokenize, mixture, train, evaluate, export, report."""
    from openbook.pipeline import up_to, update
    from openbook.progress import say
    from openbook.recipe import load_recipe
    from openbook.run import open_run

    names = up_to(until)
    loaded, derived = load_recipe(recipe, overrides or ())
    opened = open_run(out or Path("runs") / loaded.name, loaded, recipe, fresh)
    opened.accepted_change = _reason(accept_change)
    say(f"{recipe} -> {opened.path}" + (f"  (derived: {', '.join(derived)})" if derived else ""))
    tell(opened, update(opened, names, workers=workers or 1), as_json)


def _reason(given: str | None) -> str | None:
    """Why a change is accepted. Raises InputError if it says nothing."""
    if given is not None and not given.strip():
        raise InputError('--accept-change "": should say why, for those who read the logbook')
    return given


@app.command()
def tokenize(run: RunArgument, again: Again = False, as_json: Json = False) -> None:
    """Learn the vocabulary and pack the documents into token shards."""
    one_stage(run, "tokenize", again, as_json)


@app.command()
def mixture(run: RunArgument, again: Again = False, as_json: Json = False) -> None:
    """Work out how often training reads what: The Pile's table, from weights, tokens or epochs."""
    one_stage(run, "mixture", again, as_json)


@app.command()
def train(
    run: RunArgument,
    workers: Workers = None,
    hot: Annotated[bool, typer.Option("--hot", help="Replace a worker that dies without a restart; needs openbook[hot].")] = False,
    spares: Annotated[int, typer.Option(min=0, help="With --hot: processes that stand by to replace a worker at once.")] = 0,
    accept_change: AcceptChange = None,
    again: Again = False,
    as_json: Json = False,
) -> None:
    """Train from the newest checkpoint, or from the beginning, to the recipe's last step; also under torchrun."""
    from openbook.pipeline import update
    from openbook.run import Run
    from openbook.train.workers import seat

    opened = Run(run)
    opened.accepted_change = _reason(accept_change)
    if _train_hot_as_worker(opened):
        return
    if spares and not hot:
        raise InputError(f"--spares {spares}: without --hot, all workers start again when one dies; add --hot")
    own = seat(os.environ)
    if own is None:
        tell(opened, update(opened, ["train"], again, workers or 1, spares if hot else None), as_json)
    elif hot:
        raise InputError("--hot: workers on one machine only, which openbook starts itself; leave out --hot, or torchrun")
    elif workers is None:
        _train_as_worker(opened, own, again, as_json)
    else:
        raise InputError(f"--workers {workers}: the environment already says WORLD_SIZE = {own.world}; leave --workers out, or torchrun")


def _train_hot_as_worker(opened: Any) -> bool:
    """Takes part in a crew, if that is what this process was started for."""
    from openbook.train.hot import hushed, place

    own = place(os.environ)
    if own is None:
        return False
    from openbook.pipeline import watched
    from openbook.train.hot_session import take_part
    from openbook.train.launch import end_with_supervisor

    watched(opened)
    with hushed():
        take_part(opened, own, end_with_supervisor(opened.path))
    os._exit(0)  # while the heart beats: the others would take a worker that cleans up for a dead one, and its work for theirs


def _train_as_worker(opened: Any, own: Any, again: bool, as_json: bool) -> None:
    """Takes part as one of several processes. Rank 0 speaks for all, and leaves the result to the process that started it, if any."""
    from openbook.pipeline import update_as_worker
    from openbook.train.audit import Corruption
    from openbook.train.launch import SUPERVISED, end_with_supervisor
    from openbook.train.session import NotFinite
    from openbook.train.workers import Disagreement, LostWorker

    supervised = SUPERVISED in os.environ
    if supervised:
        end_with_supervisor(opened.path)
    stages = update_as_worker(opened, own, again)
    try:
        if own.rank == 0 and not supervised:
            tell(opened, stages, as_json)
        else:
            list(stages)
    except (LostWorker, NotFinite, Disagreement, Corruption, Stopped) as error:  # all workers come to the same conclusion
        if own.rank == 0 and not (supervised and isinstance(error, LostWorker)):
            raise
        raise typer.Exit(error.status) from None


@app.command()
def report(run: RunArgument, as_json: Json = False) -> None:
    """Write report.html, one self-contained page, for a run in any state."""
    from openbook.files import write_text
    from openbook.pipeline import STAGES
    from openbook.report import render
    from openbook.run import Run

    opened = Run(run)
    path = opened.path / "report.html"
    if set(STAGES) - {"report"} <= set(opened.manifest["stages"]):
        one_stage(run, "report", again=False, as_json=as_json)
    else:
        write_text(path, render(opened))
        show({"report": str(path), "bytes": path.stat().st_size}, f"report    {path}", as_json)


@app.command()
def verify(
    run: RunArgument,
    steps: Annotated[str | None, typer.Option(metavar="A:B", help="Also do the steps after A, up to B, again and compare.")] = None,
    as_json: Json = False,
) -> None:
    """Check every hash and the logbook's chain; with --steps, replay a part of the training, to the bit."""
    from openbook.integrity import inspect
    from openbook.run import Run

    opened = Run(run)
    asked = _span(opened, steps) if steps is not None else None
    findings = inspect(opened)
    problems = findings.problems(opened.path)
    counts = {"artifacts": findings.artifacts, "checkpoints": findings.checkpoints}
    result: dict[str, Any] = {"run": str(run), **counts, "problems": problems, "verdict": "damaged" if problems else "holds"}
    praise = [] if problems else [f"{findings.checkpoints} checkpoints, {findings.artifacts} artifacts and the logbook's chain hold"]
    if asked:
        from openbook.train.verify import replay

        again = replay(opened, findings, *asked)
        problems += again.problems()
        verdict = result["verdict"] if again.verdict == "holds" else again.verdict
        result |= {"replayed": list(asked), **again.event(), "verdict": verdict}
        praise += [again.praise()] if again.verdict == "holds" else []
    show(result, "\n".join(problems + praise), as_json)
    if problems:
        raise typer.Exit(1)


def _span(opened: Any, steps: str) -> tuple[int, int]:
    from openbook.train.verify import span

    return span(opened, steps)


@app.command()
def deploy(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE|WEIGHTS", help="A recipe to train, or a folder of exported weights to serve.")],
    target: Annotated[str, typer.Option("--for", metavar="TARGET", help="slurm or kubernetes; vllm-slurm or vllm-kubernetes to serve.")],
    nodes: Annotated[int, typer.Option(min=1, help="At most so many machines; a training goes on with fewer.")] = 1,
    gpus_per_node: Annotated[int, typer.Option(min=0, help="0 trains on processors.")] = 1,
    as_json: Json = False,
) -> None:
    """Print a job file for a cluster: trains the recipe, elastic and through every interruption; or serves exported weights by vLLM."""
    from openbook.deploy import SERVING, render, render_serving
    from openbook.recipe import load_recipe

    if target in SERVING:
        text = render_serving(recipe, target, nodes, gpus_per_node)
    else:
        text = render(load_recipe(recipe)[0], recipe, target, nodes, gpus_per_node)
    show({"for": target, "file": text}, text.rstrip("\n"), as_json)


@app.command()
def generate(
    run: RunArgument,
    prompt: Annotated[str, typer.Argument(help="The text to continue.")],
    max_tokens: Annotated[int, typer.Option(min=1)] = 200,
    temperature: Annotated[float, typer.Option(min=0, max=2)] = 0.7,
    top_p: Annotated[float, typer.Option(min=0, max=1)] = 0.95,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same text.")] = None,
    as_json: Json = False,
) -> None:
    """Continue a text, streaming as it goes."""
    from openbook.serve import complete

    pieces = []
    for piece in complete(weights_of(run), prompt, max_tokens, temperature, top_p, seed):
        pieces.append(piece)
        if not as_json:
            print((prompt if len(pieces) == 1 else "") + piece, end="", flush=True)
    show({"prompt": prompt, "text": "".join(pieces), "seed": seed}, "", as_json)


if __name__ == "__main__":
    main()
