"""The commands: each parses its arguments, calls one function of one stage, and prints.

Results go to standard output, progress to standard error. `--json` makes the result one JSON object. Anything the user got wrong is
one line and exit status 2; a failure of the machine is one line and exit status 1.
"""

from __future__ import annotations

import errno
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from openbook.errors import InputError, OpenbookError

app = typer.Typer(
    help="Train and use a GPT-class language model in the open, from raw text to a served model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory, such as runs/pocket.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
Again = Annotated[bool, typer.Option("--again", help="Do it again even if nothing has changed.")]


def main() -> None:
    """Entry point: turns every foreseen failure into one line and an exit status."""
    try:
        status = app(standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except typer.Abort:
        sys.exit(130)
    except typer.TyperException as error:
        fail(error.format_message(), 2)
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


def show(value: Any, text: str, as_json: bool) -> None:
    """Prints a result for machines or for people."""
    print(json.dumps(value, ensure_ascii=False) if as_json else text, flush=True)


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe, such as recipes/pocket.toml.")],
    out: Annotated[Path | None, typer.Option(help="The run directory; runs/NAME by default.")] = None,
    until: Annotated[str | None, typer.Option(help="The last stage to carry out.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a value of the recipe.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Discard a training of another recipe in the same directory.")] = False,
    as_json: Json = False,
) -> None:
    """Bring a run up to date with its recipe: corpus, tokenize, train, evaluate, export, report."""
    from openbook.pipeline import up_to
    from openbook.progress import say
    from openbook.recipe import load_recipe
    from openbook.run import open_run

    names = up_to(until)
    loaded, derived = load_recipe(recipe, overrides or ())
    opened = open_run(out or Path("runs") / loaded.name, loaded, recipe, fresh)
    say(f"{recipe} -> {opened.path}" + (f"  (derived: {', '.join(derived)})" if derived else ""))
    _update(opened, names, as_json=as_json)


def _update(opened: Any, names: list[str], as_json: bool, again: bool = False) -> None:
    """Carries out stages, telling of each, and shows what came of it."""
    from openbook.pipeline import update
    from openbook.progress import say

    done = []
    for item in update(opened, names, again):
        say(f"{item.stage:9} {'unchanged' if item.skipped else f'done in {item.seconds:,.1f} s'}")
        done.append(item)
    result = {
        "run": str(opened.path),
        "stages": {item.stage: {"skipped": item.skipped, "seconds": item.seconds, **item.record["summary"]} for item in done},
    }
    show(result, _closing_words(opened.path, done), as_json)


def _closing_words(path: Path, done: list[Any]) -> str:
    lines = ["Nothing to do: every stage is up to date."] if all(item.skipped for item in done) else []
    for item in done:
        if item.stage == "evaluate":
            lines += _score_lines(item.record["summary"])
        if item.stage == "export":
            lines += [
                f"weights   {path / 'weights'}",
                f'try       openbook generate {path} "def fibonacci(n):"',
                f"          openbook serve {path}",
            ]
        if item.stage == "report":
            lines.append(f"report    {path / 'report.html'}")
    return "\n".join(lines) or f"{path} is up to date."


def _score_lines(scores: dict[str, Any]) -> list[str]:
    columns = {"model": "model", "xz": "xz -9e", "zstd": "zstd -19", "ngram": "n-gram", "xz_archive": "xz archive"}
    width = max(len(name) for name in (*scores["components"], "bits per byte"))
    lines = [f"{'bits per byte':{width}}" + "".join(f"{title:>12}" for title in columns.values())]
    for name, row in [*scores["components"].items(), ("all", scores["all"])]:
        lines.append(f"{name:{width}}" + "".join(f"{row[column]:12.3f}" for column in columns))
    return lines


def _one_stage(path: Path, name: str, again: bool, as_json: bool) -> None:
    from openbook.run import Run

    _update(Run(path), [name], as_json, again)


@app.command()
def corpus(run: RunArgument, again: Again = False, as_json: Json = False) -> None:
    """Gather, check, deduplicate and split the documents."""
    _one_stage(run, "corpus", again, as_json)


@app.command()
def tokenize(run: RunArgument, again: Again = False, as_json: Json = False) -> None:
    """Learn the vocabulary and pack the documents into token shards."""
    _one_stage(run, "tokenize", again, as_json)


@app.command()
def train(run: RunArgument, again: Again = False, as_json: Json = False) -> None:
    """Train from the newest checkpoint, or from the beginning, to the recipe's last step."""
    _one_stage(run, "train", again, as_json)


@app.command()
def evaluate(run: RunArgument, again: Again = False, as_json: Json = False) -> None:
    """Score the weights on held-out text, beside compressors and an n-gram model."""
    _one_stage(run, "evaluate", again, as_json)


@app.command()
def export(run: RunArgument, again: Again = False, as_json: Json = False) -> None:
    """Complete the weights to a Hugging Face folder with tokenizer and model card."""
    _one_stage(run, "export", again, as_json)


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
        _one_stage(run, "report", again=False, as_json=as_json)
    else:
        write_text(path, render(opened))
        show({"report": str(path), "bytes": path.stat().st_size}, f"report    {path}", as_json)


@app.command()
def verify(run: RunArgument, as_json: Json = False) -> None:
    """Check every artifact's hash and the logbook's chain."""
    from openbook.files import sha256_file
    from openbook.logbook import check
    from openbook.progress import track
    from openbook.run import Run

    opened = Run(run)
    artifacts = {name: entry for record in opened.manifest["stages"].values() for name, entry in record["artifacts"].items()}
    problems = []
    with track("verify", len(artifacts)) as bar:
        for index, (name, entry) in enumerate(artifacts.items()):
            bar.update(index, name)
            path = opened.path / name
            if not path.is_file():
                problems.append(f"{path}: is missing")
            elif sha256_file(path) != entry["sha256"]:
                problems.append(f"{path}: its bytes are not those in the manifest")
    broken = check(opened.logbook_path)
    if broken:
        problems.append(f"{opened.logbook_path}:{broken.line}: {broken.why}")
    verdict = f"{len(artifacts)} artifacts and the logbook's chain hold" if not problems else "\n".join(problems)
    show({"run": str(run), "artifacts": len(artifacts), "problems": problems}, verdict, as_json)
    if problems:
        raise typer.Exit(1)


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


@app.command()
def serve(
    run: RunArgument,
    host: Annotated[str, typer.Option(help="The address to listen on; the default is reachable from this machine only.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free port.")] = 8000,
    threads: Annotated[int | None, typer.Option(min=1)] = None,
    as_json: Json = False,
) -> None:
    """Serve the weights through an OpenAI-compatible API."""
    from openbook.serve import serve as serve_forever

    name = run.resolve().name

    def ready(url: str) -> None:
        body = json.dumps({"model": name, "prompt": "import"})
        show(
            {"url": f"{url}/v1", "model": name},
            f"{name} at {url}/v1 (Ctrl-C stops it)\ntry  curl {url}/v1/completions -d '{body}'",
            as_json,
        )

    serve_forever(weights_of(run), name, host, port, threads, ready)


def weights_of(path: Path) -> Path:
    """The weights of a run. Raises InputError if there are none yet."""
    from openbook.run import Run

    weights = Run(path).path / "weights"
    for name, stage in (("model.safetensors", "train"), ("tokenizer.json", "export")):
        if not (weights / name).is_file():
            raise InputError(f"{weights / name}: no such file; `openbook {stage} {path}` makes it")
    return weights


if __name__ == "__main__":
    main()
