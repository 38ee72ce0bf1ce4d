"""Source `machine`: the text that any machine with openbook on it has.

Each selection yields whole files as documents. What is not there (a slim image has no manual pages) yields nothing; the corpus stage
says so and gives the weight to the other components.
"""

from __future__ import annotations

import gzip
import sysconfig
import zlib
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

from openbook.corpus.raw import RawText, by_hash, decode, read_limited, too_long
from openbook.corpus.sources.roff import to_text

DOC_ENDINGS = (".md", ".rst", ".txt")
TEST_FOLDERS = {"test", "tests", "idle_test", "testing", "_testing"}
LICENCE_STEMS = ("licen", "copying", "copyright", "notice")
CLASSIFIER = "License :: OSI Approved :: "
SPDX_OF_CLASSIFIER = {
    "MIT License": "MIT",
    "BSD License": "BSD-3-Clause",
    "Apache Software License": "Apache-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "ISC License (ISCL)": "ISC",
    "The Unlicense (Unlicense)": "Unlicense",
}


def _is_test(path: Path) -> bool:
    return not TEST_FOLDERS.isdisjoint(path.parts)


def _is_licence(path: Path) -> bool:
    return path.name.lower().startswith(LICENCE_STEMS)


def _stdlib(limit: int) -> Iterator[RawText]:
    root = Path(sysconfig.get_paths()["stdlib"])
    skip = {"site-packages", "dist-packages"}
    found = ((str(path.relative_to(root)), path) for path in root.rglob("*.py"))
    for name, path in by_hash(pair for pair in found if skip.isdisjoint(Path(pair[0]).parts) and not _is_test(Path(pair[0]))):
        yield read_limited(path, limit, f"stdlib:{name}", "PSF-2.0")


def _installed(wanted: Callable[[Path], bool], limit: int) -> Iterator[RawText]:
    """Files of the installed distributions, with the licence that each distribution states."""
    found: dict[str, tuple[Path, str | None]] = {}
    for distribution in metadata.distributions():
        licence = _distribution_licence(distribution)
        name = distribution.metadata["Name"]
        for file in distribution.files or ():
            relative = Path(str(file))
            if ".." not in relative.parts and wanted(relative):
                found[f"package:{name}:{relative}"] = (Path(str(distribution.locate_file(file))), licence)
    for origin, path in by_hash((origin, path) for origin, (path, _) in found.items()):
        yield read_limited(path, limit, origin, found[origin][1])


def _distribution_licence(distribution: metadata.Distribution) -> str | None:
    facts = distribution.metadata
    if "License-Expression" in facts:
        return str(facts["License-Expression"])
    for classifier in facts.get_all("Classifier") or ():
        if classifier.startswith(CLASSIFIER):
            return SPDX_OF_CLASSIFIER.get(classifier.removeprefix(CLASSIFIER))
    return None


def _packages(limit: int) -> Iterator[RawText]:
    """Code and documents of the installed packages; a package's page, which lies in its metadata, is a document too."""
    endings = {".py", *DOC_ENDINGS}
    yield from _installed(lambda path: path.suffix in endings and not _is_test(path) and not _is_licence(path), limit)
    pages = {distribution.metadata["Name"]: distribution for distribution in metadata.distributions()}
    for name, distribution in sorted(pages.items()):
        text = distribution.metadata.get_payload()  # type: ignore[attr-defined]
        yield RawText(f"package:{name}:METADATA", text, len(text.encode(errors="replace")), _distribution_licence(distribution))


def _read_maybe_gzip(path: Path, limit: int, origin: str) -> RawText:
    if path.suffix != ".gz":
        return read_limited(path, limit, origin)
    try:
        with gzip.open(path) as file:
            data = file.read(limit + 1)
    except (OSError, EOFError, zlib.error) as error:
        return RawText(origin, problem=("unreadable", str(error)))
    return too_long(origin, len(data), limit) if len(data) > limit else decode(data, origin)


def _man(limit: int) -> Iterator[RawText]:
    root = Path("/usr/share/man")
    found = [(f"man:{path.relative_to(root)}", path) for path in root.glob("man[1-9]*/*") if path.is_file() and not path.is_symlink()]
    for origin, path in by_hash(found):
        raw = _read_maybe_gzip(path, limit, origin)
        if raw.text.startswith(".so "):  # an alias of another page
            continue
        yield raw if raw.problem else RawText(origin, to_text(raw.text), raw.bytes)


def _system_docs(limit: int) -> Iterator[RawText]:
    root = Path("/usr/share/doc")
    files = (path for path in root.rglob("*") if path.is_file() and not path.is_symlink() and not _is_licence(path))
    plain = [(f"doc:{path.relative_to(root)}", path) for path in files if path.name.removesuffix(".gz").endswith(DOC_ENDINGS)]
    readme = [(f"doc:{path.relative_to(root)}", path) for path in root.glob("*/README*") if path.is_file() and not path.is_symlink()]
    for origin, path in by_hash(dict(plain + readme).items()):
        yield _read_maybe_gzip(path, limit, origin)


def _licences(limit: int) -> Iterator[RawText]:
    root = Path("/usr/share")
    system = [*root.glob("common-licenses/*"), *root.glob("doc/*/copyright")]
    for origin, path in by_hash((f"licence:{path.relative_to(root)}", path) for path in system if path.is_file() and not path.is_symlink()):
        yield read_limited(path, limit, origin)
    yield from _installed(lambda path: _is_licence(path) and path.suffix in ("", *DOC_ENDINGS), limit)


SELECTIONS: dict[str, Callable[[int], Iterator[RawText]]] = {
    "stdlib": _stdlib,
    "packages": _packages,
    "man": _man,
    "system-docs": _system_docs,
    "licences": _licences,
}
