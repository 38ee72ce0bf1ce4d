"""Where text comes from: git repositories, addresses, the hub, and the recipes that name them."""

from __future__ import annotations

import hashlib
import http.server
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from reading import BESIDE, MIT

from openbook.corpus.raw import RawText
from openbook.corpus.sources import facts, licences, read, web
from openbook.errors import InputError, OpenbookError
from openbook.pipeline import update
from openbook.recipe import load_recipe
from openbook.recipe_corpus import GitComponent, HubComponent, UrlComponent
from openbook.run import open_run

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBOOK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(web, "PATIENCE", 0.01)


# git


def git(folder: Path, *arguments: str) -> str:
    names = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@x", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@x"}
    done = subprocess.run(["git", "-C", str(folder), *arguments], env=os.environ | names, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> tuple[Path, str]:
    """A repository and its first commit; a second one changed it."""
    folder = tmp_path / "project"
    (folder / "vendor").mkdir(parents=True)
    git(tmp_path, "init", "--quiet", str(folder))
    (folder / "LICENSE").write_text(MIT)
    (folder / "vendor" / "COPYING").write_text("GNU GENERAL PUBLIC LICENSE\nVersion 3, 29 June 2007\n")
    (folder / "main.py").write_text("print(1)\n")
    (folder / "own.py").write_text("# SPDX-License-Identifier: Apache-2.0\n")
    (folder / "vendor" / "lib.c").write_text("int x;\n")
    (folder / "picture.png").write_bytes(b"\x89PNG\0")
    (folder / "long.txt").write_text("x" * 5000)
    (folder / "rows.jsonl").write_text('{"text": "row"}\n{"text": "other", "license": "CC0-1.0"}\n')
    (folder / "link.txt").symlink_to("/etc/passwd")
    (folder / "naïve name.txt").write_text("named\n")
    git(folder, "add", "-A")
    git(folder, "commit", "--quiet", "-m", "one")
    first = git(folder, "rev-parse", "HEAD")
    (folder / "main.py").write_text("print(2)\n")
    git(folder, "commit", "--quiet", "-am", "two")
    return folder, first


def from_git(repository: Path | str, commit: str, **settings: Any) -> dict[str, RawText]:
    component = GitComponent(weight=1.0, source="git", repository=str(repository), commit=commit, **settings)
    return {raw.origin.partition(":")[2]: raw for raw in read(component, Path("/"), "corpus.components.c", 4000)}


def test_a_repository_at_a_commit_with_the_licence_of_each_folder(repository: tuple[Path, str]) -> None:
    folder, first = repository
    found = from_git(folder, first)
    assert found["main.py"].text == "print(1)\n"
    assert found["main.py"].origin == f"project@{first[:12]}:main.py"
    assert {name: found[name].licence for name in ("main.py", "own.py", "vendor/lib.c")} == {
        "main.py": "MIT",
        "own.py": "Apache-2.0",
        "vendor/lib.c": "GPL-3.0-only",
    }
    assert found["picture.png"].problem == ("binary", "NUL byte at 4")
    assert found["long.txt"].problem == ("too long", "5,000 bytes; corpus.max_document_bytes is 4,000")
    assert found["naïve name.txt"].text == "named\n"
    assert "link.txt" not in found
    assert list(from_git(folder, first, include=["*.py"])) == [name for name in found if name.endswith(".py")]


def test_files_of_a_repository_are_read_by_their_format(repository: tuple[Path, str]) -> None:
    found = from_git(*repository, format="jsonl")
    assert {name: (raw.text, raw.licence) for name, raw in found.items()} == {
        "rows.jsonl:1": ("row", "MIT"),
        "rows.jsonl:2": ("other", "CC0-1.0"),
    }


def test_a_remote_repository_is_fetched_once_at_its_commit(repository: tuple[Path, str], tmp_path: Path) -> None:
    folder, first = repository
    found = from_git(f"file://{folder}", first)
    assert found["main.py"].text == "print(1)\n"
    folder.rename(tmp_path / "gone")
    assert from_git(f"file://{folder}", first).keys() == found.keys()
    with pytest.raises(InputError, match=r"corpus\.components\.c: git fetch failed: "):
        from_git(f"file://{folder}", "0" * 40)


def test_what_a_repository_lacks_is_named(repository: tuple[Path, str]) -> None:
    folder, first = repository
    with pytest.raises(InputError, match="has no such commit"):
        from_git(folder, "1" * 40)
    with pytest.raises(InputError, match=r"no file of .* matches include = \['\*\.rs'\]"):
        from_git(folder, first, include=["*.rs"])


def test_nothing_of_a_repository_is_run(repository: tuple[Path, str], tmp_path: Path) -> None:
    folder, first = repository
    trap = tmp_path / "ran"
    for key in ("core.fsmonitor", "core.pager", "core.sshCommand", "diff.x.textconv", "filter.x.smudge", "uploadpack.packObjectsHook"):
        git(folder, "config", key, f"touch {trap}")
    (folder / ".git" / "info" / "attributes").write_text("* filter=x diff=x\n")
    from_git(folder, first)
    assert not trap.exists()


# addresses


class Server(http.server.ThreadingHTTPServer):
    """Serves `files`, with ranges; breaks a connection off after `break_after` bytes, so often as `breaks` says."""

    files: dict[str, bytes]
    break_after = 0
    breaks = 0
    asked: list[tuple[str, str | None]]


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.asked.append((self.path, asked))
        data = self.server.files.get(self.path)
        if data is None:
            self.send_error(503 if self.path == "/busy" else 404)
            return
        tag = f'"{hashlib.md5(data).hexdigest()}"'
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.headers.get("If-Range") == tag else 0
        self.send_response(206 if start else 200)
        self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(data) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if self.server.breaks:
            self.server.breaks -= 1
            self.wfile.write(data[start : start + self.server.break_after])
        else:
            self.wfile.write(data[start:])

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        server.files, server.asked = {}, []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def at(server: Server, path: str) -> str:
    return f"http://127.0.0.1:{server.server_port}{path}"


def from_web(server: Server, *paths: str, **settings: Any) -> list[str]:
    component = UrlComponent(weight=1.0, source="url", urls=[at(server, path) for path in paths], **settings)
    return [raw.text for raw in read(component, Path("/"), "corpus.components.c", 10_000_000)]


def test_files_are_fetched_once_and_held_to_their_digests(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.files = {"/a.txt": b"first", "/b.jsonl": b'{"text": "second"}\n'}
    digests = [hashlib.sha256(data).hexdigest() for data in server.files.values()]
    assert from_web(server, "/a.txt", "/b.jsonl", sha256=digests) == ["first", "second"]
    assert from_web(server, "/a.txt", "/b.jsonl", sha256=digests) == ["first", "second"]
    assert len(server.asked) == 2
    assert "recorded" not in capsys.readouterr().err
    with pytest.raises(InputError, match=rf"corpus\.components\.c: {at(server, '/a.txt')} has changed: its digest is {digests[0]}"):
        from_web(server, "/a.txt", sha256=["0" * 64])


def test_a_digest_that_is_not_declared_is_recorded_and_holds(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.files = {"/a.txt": b"first"}
    assert from_web(server, "/a.txt") == ["first"]
    assert hashlib.sha256(b"first").hexdigest() in capsys.readouterr().err
    (cached,) = (tmp_path / "cache").rglob("a.txt")
    cached.unlink()
    server.files = {"/a.txt": b"other"}
    with pytest.raises(InputError, match=r"a\.txt has changed: .* that of the first download"):
        from_web(server, "/a.txt")


def test_a_download_that_breaks_off_goes_on_where_it_ended(server: Server) -> None:
    data = os.urandom(50_000).hex().encode()
    server.files = {"/a.txt": data}
    server.breaks, server.break_after = 3, 30_000
    assert from_web(server, "/a.txt") == [data.decode()]
    assert [asked for _, asked in server.asked] == [None, "bytes=30000-", "bytes=60000-", "bytes=90000-"]


def test_a_file_that_changed_meanwhile_is_fetched_from_its_start(server: Server) -> None:
    server.files = {"/a.txt": b"x" * 1000}
    server.breaks, server.break_after = web.TRIES, 0
    with pytest.raises(OpenbookError, match="repeat the command to go on"):
        from_web(server, "/a.txt")
    server.breaks, server.break_after = web.TRIES, 1
    server.files = {"/a.txt": b"y" * 500}
    assert from_web(server, "/a.txt") == ["y" * 500]


def test_files_that_vanished_and_servers_that_fail_are_named(server: Server) -> None:
    with pytest.raises(InputError, match=r"/gone\.txt: HTTP status 404: it vanished upstream"):
        from_web(server, "/gone.txt")
    with pytest.raises(OpenbookError, match="/busy: HTTP status 503"):
        from_web(server, "/busy")
    assert len(server.asked) == 1 + web.TRIES


def test_an_address_that_does_not_tell_its_format_needs_one(server: Server) -> None:
    server.files = {"/download?year=2020": b"words", "/": b"words"}
    with pytest.raises(InputError, match="download: its name does not tell its format; set format to one of text, jsonl"):
        from_web(server, "/download?year=2020")
    assert from_web(server, "/download?year=2020", format="text") == ["words"]


def test_public_buckets_answer_https() -> None:
    assert web._address("s3://commoncrawl/a b/x.warc.gz") == "https://commoncrawl.s3.amazonaws.com/a%20b/x.warc.gz"


# the hub


def test_a_dataset_in_the_hubs_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's own client finds the snapshot in its cache, where files are links to blobs."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    commit = "a" * 40
    home = tmp_path / "hub" / "datasets--some--letters"
    (home / "blobs").mkdir(parents=True)
    (home / "snapshots" / commit / "data").mkdir(parents=True)
    for name, text in {"README.md": "---\nlicense: cc-by-4.0\n---\n# Letters\n", "data/x.jsonl": '{"text": "dear"}\n'}.items():
        blob = home / "blobs" / hashlib.sha256(text.encode()).hexdigest()
        blob.write_text(text)
        (home / "snapshots" / commit / name).symlink_to(blob)
    component = HubComponent(weight=1.0, source="hub", dataset="some/letters", revision=commit)
    (raw,) = read(component, Path("/"), "corpus.components.c", 1000)
    assert (raw.text, raw.licence, raw.origin) == ("dear", "CC-BY-4.0", "data/x.jsonl:1")
    missing = HubComponent(weight=1.0, source="hub", dataset="some/other", revision=commit)
    with pytest.raises(OpenbookError, match=r"corpus\.components\.c: some/other@aaaaaaaaaaaa is not in the hub's cache"):
        list(read(missing, Path("/"), "corpus.components.c", 1000))


# recipes


def test_the_recipe_of_the_pile_says_what_was_published() -> None:
    recipe, _ = load_recipe(RECIPES / "pile.toml")
    parts = recipe.corpus.components
    published = {name: part.published for name, part in parts.items() if part.published}
    assert len(parts) == len(published) == 22
    assert sum(part.raw_gib for part in published.values()) == pytest.approx(825.18, abs=0.02)
    assert sum(part.effective_gib for part in published.values()) == pytest.approx(1254.20, abs=0.02)
    for part in published.values():
        assert part.effective_gib == pytest.approx(part.raw_gib * part.epochs, rel=0.01)
        assert part.weight_percent == pytest.approx(part.effective_gib / 12.5420, abs=0.011)
    assert all(part.why for part in parts.values())
    assert all(bool(part.unavailable) != part.available for part in parts.values())
    assert not parts["books3"].available


def test_what_is_not_available_is_told_and_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(9):
        (tmp_path / f"{number}.txt").write_text(f"text {number}")
    (tmp_path / "r.toml").write_text(f"""
        name = "r"
        [corpus]
        holdout = 0.3
        [corpus.components.here]
        source = "files"
        path = "."
        weight = 1.0
        [corpus.components.gone]
        source = "files"
        path = "nowhere"
        weight = 1.0
        available = false
        unavailable = "it was withdrawn"
        {BESIDE}
    """)
    recipe, _ = load_recipe(tmp_path / "r.toml")
    assert facts(recipe.corpus.components["gone"], tmp_path, "w") == []
    run = open_run(tmp_path / "run", recipe, tmp_path / "r.toml")
    list(update(run, ["corpus"]))
    assert "gone: not available: it was withdrawn" in capsys.readouterr().err
    assert "| gone | it was withdrawn |" in (run.path / "corpus" / "DATASHEET.md").read_text()
    with pytest.raises(InputError, match=re.escape("available = false needs unavailable")):
        load_recipe(tmp_path / "r.toml", ["corpus.components.gone.unavailable="])


def test_the_mini_pile_loads_and_its_licences_are_in_spdxs_words() -> None:
    recipe, _ = load_recipe(RECIPES / "mini-pile.toml")
    mapped = [name for part in recipe.corpus.components.values() for name in getattr(part, "licences", {}).values()]
    assert len(recipe.corpus.components) == 18
    assert all(licences.spdx(name) == name or name == "NOASSERTION" for name in mapped)


def test_a_branch_is_no_commit(tmp_path: Path) -> None:
    text = (RECIPES / "folder.toml").read_text().replace('source = "files"', 'source = "git"\nrepository = "x"\ncommit = "main"')
    (tmp_path / "r.toml").write_text(text.replace('path = "../text"\n', ""))
    with pytest.raises(InputError, match=r"r\.toml:\d+: corpus\.components\.text\.commit = 'main': should be a whole commit"):
        load_recipe(tmp_path / "r.toml")


@pytest.mark.parametrize(
    ("kind", "settings", "expected"),
    [
        (GitComponent, {"source": "git", "repository": "x", "commit": "main"}, "pattern"),
        (HubComponent, {"source": "hub", "dataset": "a/b", "revision": "main"}, "pattern"),
        (UrlComponent, {"source": "url", "urls": ["file:///etc/passwd"]}, "urls should begin with https://"),
        (UrlComponent, {"source": "url", "urls": ["http://x/a", "http://x/b"], "sha256": ["0" * 64]}, "one digest for each"),
    ],
)
def test_places_that_are_not_fixed_are_refused(kind: Any, settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        kind(weight=1.0, **settings)
