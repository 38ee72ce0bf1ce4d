"""Files behind http, https and s3 addresses: fetched once into a cache, resumed where a download broke off, held to their digests."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from openbook.errors import InputError, OpenbookError
from openbook.files import aside_name, make_folder, sha256_file, sync_file, write_json
from openbook.progress import say
from openbook.recipe_corpus import UrlComponent

TRIES = 5
"""Connections that may fail one after the other without a byte gained."""
PATIENCE = 1.0
"""Seconds before the second try; doubled each time."""
TIMEOUT = 60
CHUNK = 1 << 20


def cache_folder() -> Path:
    """Where downloads are kept: OPENBOOK_CACHE, or openbook in the user's cache folder."""
    named = os.environ.get("OPENBOOK_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "openbook"


def download_all(component: UrlComponent, where: str) -> list[tuple[str, Path]]:
    """(address, file) for each address, in their order. Raises InputError for a file that is not what its digest says, or is gone."""
    digests: list[str | None] = [*component.sha256] or [None] * len(component.urls)
    return [(url, download(url, digest, where)) for url, digest in zip(component.urls, digests, strict=True)]


def download(url: str, sha256: str | None, where: str) -> Path:
    """The file behind an address, from the cache if it is there.

    Without a digest the first download's is recorded beside the file, and holds from then on.
    """
    name = urllib.parse.unquote(urllib.parse.urlsplit(url).path).rsplit("/", 1)[-1] or "index.html"
    folder = cache_folder() / "web" / hashlib.sha256(url.encode()).hexdigest()[:32]
    path, record = folder / name.replace("\0", "")[-200:], folder / "record.json"
    known = _recorded(record)
    expected = sha256 or known.get("sha256")
    if path.is_file():
        found = sha256_file(path)
        if found == expected:
            return path
        path.unlink()  # damaged in the cache, or the recipe asks for another version
        expected = sha256
    make_folder(folder)
    _fetch(url, aside_name(path), where)
    found = sha256_file(aside_name(path))
    if expected and found != expected:
        aside_name(path).unlink()
        declared = "sha256 in the recipe" if sha256 else f"the first download ({record})"
        raise InputError(f"{where}: {url} has changed: its digest is {found}, that of {declared} is {expected}")
    sync_file(aside_name(path))
    aside_name(path).replace(path)
    write_json(record, {"url": url, "sha256": found, "bytes": path.stat().st_size})
    if not sha256:
        say(f"  {where}: recorded sha256 of {url}: {found}; write it into the recipe, so that others get the same file")
    return path


def _recorded(record: Path) -> Mapping[str, str]:
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _address(url: str) -> str:
    """Where an address leads over the web; public s3 buckets answer https."""
    if not url.startswith("s3://"):
        return url
    bucket, _, key = url.removeprefix("s3://").partition("/")
    return f"https://{bucket}.s3.amazonaws.com/{urllib.parse.quote(key)}"


def _fetch(url: str, path: Path, where: str) -> None:
    """Downloads into `path`, going on where an earlier download of the same version ended."""
    failures, before = 0, -1
    while True:
        have = path.stat().st_size if path.exists() else 0
        failures = 0 if have > before else failures
        before = have
        try:
            if _fetch_from(url, path, have):
                return
            raise http.client.IncompleteRead(b"")
        except urllib.error.HTTPError as error:
            if error.code == 416 and have:  # what is there is longer than the file is now
                path.unlink()
            elif error.code < 500 and error.code not in (408, 429):
                gone = "it vanished upstream" if error.code in (404, 410) else error.reason
                raise InputError(f"{where}: {url}: HTTP status {error.code}: {gone}") from None
            problem = f"HTTP status {error.code}"
        except (OSError, http.client.HTTPException) as error:
            problem = str(error) or type(error).__name__
        failures += 1
        if failures >= TRIES:
            raise OpenbookError(f"{where}: {url}: {problem}; repeat the command to go on where it broke off")
        time.sleep(PATIENCE * 2 ** (failures - 1))


def _fetch_from(url: str, path: Path, have: int) -> bool:
    """One connection; whether the file is whole. A server that has another version than the one begun sends it from the start."""
    tag = path.with_name(path.name + ".tag")
    request = urllib.request.Request(_address(url), headers={"User-Agent": "openbook", "Accept-Encoding": "identity"})
    version = tag.read_text(encoding="utf-8") if have and tag.exists() else ""
    if have and version:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", version)
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        resumed = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        offered = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
        tag.write_text("" if offered.startswith("W/") else offered, encoding="utf-8")
        length = answer.headers.get("Content-Length")
        got = 0
        with path.open("ab" if resumed else "wb") as file:
            while data := answer.read(CHUNK):
                file.write(data)
                got += len(data)
    whole = length is None or got == int(length)
    if whole:
        tag.unlink()
    return whole
