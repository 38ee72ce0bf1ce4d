"""What a user types, sees, and is told when it goes wrong: one line and the right exit status, never a traceback."""

from __future__ import annotations

import fcntl
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from openbook import cli
from openbook.run import Run
from tiny import RECIPE, write_recipe

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Result:
    status: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, object]:
        lines = self.out.splitlines()
        assert len(lines) == 1
        value: dict[str, object] = json.loads(lines[0])
        return value


Command = Callable[..., Result]


@pytest.fixture
def openbook(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs a command in this process."""

    def command(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["openbook", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capfd.readouterr()
        return Result(int(stopped.value.code or 0), out, err)

    return command


def complaint(result: Result, status: int = 2) -> str:
    """The one line of a failure."""
    assert result.status == status, result
    lines = [line for line in result.err.splitlines() if line.startswith("openbook: ")]
    assert len(lines) == 1, result.err
    assert "Traceback" not in result.err
    assert not result.out
    return lines[0]


@pytest.fixture
def copied(finished: Run, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished.path, tmp_path / "copied"))


def test_a_whole_run_then_nothing_to_do(openbook: Command, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    out = tmp_path / "out"
    first = openbook("run", recipe, "--out", out)
    assert first.status == 0, first.err
    assert "derived: model.heads = 2" in first.err
    for expected in ("bits per byte", f"weights   {out}/weights", f"report    {out}/report.html", "openbook generate"):
        assert expected in first.out
    begin = time.monotonic()
    second = openbook("run", recipe, "--out", out)
    assert time.monotonic() - begin < 5
    assert second.out.startswith("Nothing to do: every stage is up to date.")
    assert second.err.count("unchanged") == 7
    third = openbook("run", recipe, "--out", out, "--json")
    assert {name: stage["skipped"] for name, stage in third.json["stages"].items()} == dict.fromkeys(  # type: ignore[attr-defined]
        ["corpus", "tokenize", "mixture", "train", "evaluate", "export", "report"], True
    )


def test_stage_by_stage(openbook: Command, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    out = tmp_path / "out"
    assert openbook("run", recipe, "--out", out, "--until", "corpus").status == 0
    assert "tokenize needs" not in openbook("tokenize", out).err
    for stage in ("train", "evaluate", "export", "report"):
        result = openbook(stage, out, "--json")
        assert result.status == 0, result.err
        assert result.json
    assert openbook("verify", out).out.endswith("artifacts and the logbook's chain hold\n")
    again = openbook("tokenize", out, "--again", "--json").json["stages"]
    assert again["tokenize"]["skipped"] is False  # type: ignore[index]


def test_a_stage_without_what_it_needs_names_the_command(openbook: Command, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    openbook("run", recipe, "--out", tmp_path / "out", "--until", "corpus")
    assert "train needs tokenize first; `openbook tokenize" in complaint(openbook("train", tmp_path / "out"))
    assert "`openbook train" in complaint(openbook("generate", tmp_path / "out", "x"))


def test_a_stage_changed_alone_is_done_alone(openbook: Command, copied: Path, finished: Run) -> None:
    recipe = finished.recipe_folder / "tiny.toml"
    result = openbook("run", recipe, "--out", copied, "--set", "evaluate.sample_tokens=5", "--json")
    skipped = {name: stage["skipped"] for name, stage in result.json["stages"].items()}  # type: ignore[attr-defined]
    again = ("evaluate", "export", "report")
    assert skipped == {name: name not in again for name in ("corpus", "tokenize", "mixture", "train", *again)}


def test_generate_streams_and_repeats(openbook: Command, finished: Run) -> None:
    arguments = ("generate", finished.path, "def return", "--max-tokens", 12, "--seed", 3)
    first, second = openbook(*arguments), openbook(*arguments)
    assert first.status == 0, first.err
    assert first.out == second.out
    assert first.out.startswith("def return")
    assert openbook(*arguments, "--json").json["text"] == first.out.removeprefix("def return").removesuffix("\n")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "no.toml"], "no.toml: no such recipe"),
        (["run", "{recipe}", "--set", "train.stpes=3"], "--set train.stpes=3: train.stpes"),
        (["run", "{recipe}", "--until", "trian"], "no such stage; stages are corpus, tokenize"),
        (["run", "{recipe}", "--out", "{text}"], "holds something else"),
        (["train", "nowhere"], "nowhere: no such run directory"),
        (["report", "{text}"], "not a run directory"),
        (["generate", "nowhere", "x"], "no such run directory"),
        (["generate", "{run}", "x", "--max-tokens", "0"], "max-tokens"),
        (["generate", "{run}", "x", "--temperature", "nan"], "temperature"),
        (["generate", "{run}", "x", "--temperature", "hot"], "temperature"),
        (["generate", "{run}", "word " * 100], "leaves no room in the context of 32 tokens"),
        (["serve", "nowhere"], "no such run directory"),
        (["serve", "{run}", "--port", "99999"], "port"),
        (["frobnicate"], "frobnicate"),
        (["run"], "RECIPE"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    openbook: Command, finished: Run, recipe_path: Path, arguments: list[str], expected: str
) -> None:
    places = {"run": finished.path, "recipe": recipe_path, "text": recipe_path.parent / "prose"}
    assert expected in complaint(openbook(*(argument.format(**places) for argument in arguments)))


def test_a_port_in_use_is_told(openbook: Command, finished: Run) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"port {port}" in complaint(openbook("serve", finished.path, "--port", port))


def test_two_commands_do_not_write_one_run(openbook: Command, copied: Path) -> None:
    with (copied / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "another openbook command is writing this run" in complaint(openbook("evaluate", copied))


@pytest.mark.parametrize("victim", ["corpus/prose/train.parquet", "tokens/train/code.bin", "weights/model.safetensors", "logbook.jsonl"])
def test_verify_names_what_was_altered(openbook: Command, copied: Path, victim: str) -> None:
    path = copied / victim
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    result = openbook("verify", copied, "--json")
    assert result.status == 1
    problems = result.json["problems"]
    assert isinstance(problems, list)
    assert len(problems) == 1
    assert str(path) in problems[0]


@pytest.mark.parametrize(("victim", "stage"), [("tokens/train/code.bin", "train"), ("weights/model.safetensors", "evaluate")])
def test_a_flipped_byte_stops_the_stage_that_would_read_it(openbook: Command, copied: Path, victim: str, stage: str) -> None:
    path = copied / victim
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    assert f"{path}: its bytes are not those in the manifest" in complaint(openbook(stage, copied, "--again"), status=1)


def test_a_damaged_run_directory_is_named(openbook: Command, copied: Path) -> None:
    (copied / "manifest.json").write_text("{")
    assert "manifest.json is damaged" in complaint(openbook("report", copied))


def test_a_full_disk_loses_nothing_that_was_finished(tmp_path: Path) -> None:
    """For real: a file system of two megabytes, which the second stage overfills."""
    recipe = write_recipe(tmp_path, RECIPE.replace("width = 32", "width = 256"))
    mount = tmp_path / "small"
    mount.mkdir()
    script = f"""
        mount -t tmpfs -o size=2m tmpfs {mount} || exit 99
        {sys.executable} -m openbook.cli run {recipe} --out {mount}/run; echo "status $?"
        {sys.executable} -m openbook.cli verify {mount}/run
        mount -o remount,size=200m {mount}
        {sys.executable} -m openbook.cli run {recipe} --out {mount}/run > /dev/null; echo "then $?"
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(["unshare", "-rm", "bash", "-c", script], capture_output=True, text=True, env=environment, check=False)
    if done.returncode in (1, 99) and not done.stdout:
        pytest.skip(f"this machine lets nobody mount a file system: {done.stderr.strip()}")
    assert "status 1" in done.stdout, done.stderr
    assert re.search(r"openbook: .*No space left on device; nothing finished was lost", done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert "artifacts and the logbook's chain hold" in done.stdout
    assert "then 0" in done.stdout, done.stderr


def test_help_answers_at_once() -> None:
    """It takes 1.6 times as long as typer needs for a command that does nothing; torch alone would make that 10."""
    nothing = "import typer; app = typer.Typer(); app.command()(lambda: None); app(['--help'])"
    ours, least = zip(*((_seconds("-m", "openbook.cli", "--help"), _seconds("-c", nothing)) for _ in range(4)), strict=True)
    assert min(ours) < 3 * min(least)


def _seconds(*arguments: str) -> float:
    begin = time.monotonic()
    assert "--help" in subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True).stdout
    return time.monotonic() - begin


def test_a_chat_with_a_run_through_a_pipe(openbook: Command, finished: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("a\n/reset\n\nb\n/exit\nnever\n"))
    told = openbook("chat", finished.path, "--max-tokens", 3, "--seed", 1, "--json").json
    assert [turn["role"] for turn in told["messages"]] == ["user", "assistant"]  # type: ignore[attr-defined]
    assert told["messages"][0]["content"] == "b"  # type: ignore[index]
    monkeypatch.setattr(sys, "stdin", io.StringIO("/reste\n"))
    assert "/reste: is no command; /reset" in complaint(openbook("chat", finished.path))
    assert "--model other: a run has one model" in complaint(openbook("chat", finished.path, "--model", "other"))


def test_every_documented_command_exists(openbook: Command) -> None:
    """Each `openbook …` line of the README and the documents names a command and options that there are."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
    lines = set(re.findall(r"^(?:\$ )?openbook ([a-z]+)([^\n#]*)", text, re.MULTILINE))
    assert {"generate", "serve", "report"} <= {name for name, _ in lines}
    for name, rest in lines:
        first = rest.split()[0] if rest.strip() else ""
        inner = ["add" if first == "add" else "show"] if name == "logbook" else [first] if name == "corpus" and first.islower() else []
        shown = openbook(name, *inner, "--help")
        assert shown.status == 0, name
        for option in re.findall(r"(--[a-z][a-z-]*)", rest):
            assert option in shown.out, f"{name} {option}"


def test_tokens_are_traced_and_go_out_and_in(openbook: Command, finished: Run, tmp_path: Path) -> None:
    traced = openbook("tokens", "trace", finished.path, "--step", 2, "--row", 1, "--position", 5, "--json").json
    assert traced["done"] is True and traced["token"]["id"] == traced["ids"][5]  # type: ignore[index]
    assert "--step 99: the training has the steps 1 to 12" in complaint(
        openbook("tokens", "trace", finished.path, "--step", 99, "--row", 0)
    )
    out = tmp_path / "out"
    assert "train/prose.idx" in openbook("tokens", "export", finished.path, "--as", "megatron", "--out", out, "--json").json["files"]  # type: ignore[operator]
    assert "exists already" in complaint(openbook("tokens", "export", finished.path, "--as", "nanogpt", "--out", out))
    back = ("--as", "megatron", "--tokenizer", out / "tokenizer.json", "--out", tmp_path / "in")
    assert openbook("tokens", "import", out / "train" / "prose.bin", *back, "--json").json["differ"] == 0
    (out / "train" / "code.idx").write_bytes(b"MMIDIDX")
    assert "code.idx: not an index of Megatron's" in complaint(
        openbook("tokens", "import", out / "train" / "code.bin", *back[:-1], tmp_path / "x")
    )


def test_the_mixture_is_a_table(openbook: Command, copied: Path) -> None:
    told = openbook("mixture", copied, "--again")
    assert "effective" in told.out and "mean document" in told.out and "prose" in told.out
