"""Licences by their names, addresses and texts."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest
from reading import MIT

from openbook.corpus.sources import licences


def test_licence_files_of_installed_packages_are_recognised() -> None:
    """The peers are the packages themselves, where they state one licence and bring one file."""
    seen: dict[str, tuple[str | None, str]] = {}
    for package in importlib.metadata.distributions():
        stated = package.metadata.get("License-Expression")
        files = [file for file in package.files or () if "info/" in str(file) and licences.is_licence_file(Path(str(file)).name)]
        if stated and " " not in stated and len(files) == 1:
            text = Path(str(package.locate_file(files[0]))).read_text(encoding="utf-8", errors="replace")
            seen[package.metadata["Name"]] = (licences.from_text(text), stated)
    right = [name for name, (found, stated) in seen.items() if found and found.split("-o")[0] == stated.split("-o")[0]]
    assert len(seen) >= 10
    assert len(right) >= 0.9 * len(seen), {name: pair for name, pair in seen.items() if name not in right}


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ("CC BY-SA 4.0", "CC-BY-SA-4.0"),
        ("mit", "MIT"),
        ("Apache License 2.0", "Apache-2.0"),
        ("MIT OR Apache-2.0", "MIT OR Apache-2.0"),
        ("GFDL 1.2", "GFDL-1.2-only"),
        ("LicenseRef-mine AND CC0 1.0", "LicenseRef-mine AND CC0-1.0"),
        ("CC BY", None),
        ("MIT-like", None),
        ("", None),
    ],
)
def test_names_of_licences(stated: str, expected: str | None) -> None:
    assert licences.spdx(stated) == expected


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("https://creativecommons.org/licenses/by-nc-sa/3.0/us/deed.en", "CC-BY-NC-SA-3.0"),
        ("http://creativecommons.org/publicdomain/zero/1.0/", "CC0-1.0"),
        ("https://example.org/licenses/by/4.0", None),
    ],
)
def test_addresses_of_licences(address: str, expected: str | None) -> None:
    assert licences.from_address(address) == expected


def test_texts_of_licences() -> None:
    bsd = "Redistributions of source code must retain the above copyright notice. Redistributions in binary form must reproduce the above"
    bsd += " copyright notice."
    assert licences.from_text(MIT) == "MIT"
    assert licences.from_text(bsd) == "BSD-2-Clause"
    assert licences.from_text(bsd + " Neither the name may be used to endorse or promote products derived from it.") == "BSD-3-Clause"
    assert licences.from_text("Attribution-ShareAlike 4.0 International\n\nCreative Commons Corporation") == "CC-BY-SA-4.0"
    assert licences.from_text("All rights reserved. Ask me.") is None
    assert licences.together(["Apache-2.0", "MIT", None]) == "MIT OR Apache-2.0"
    assert licences.together([None]) is None
