"""Licences by their SPDX names: from what people call them, from addresses, and from the texts of licence files. No network.

A licence file is recognised by sentences that only it has, looked for in the text reduced to lower-case words; what is not
recognised has no licence, and a policy may refuse it. A GPL-like text alone does not say "or later", so it counts as `-only`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_IDS = """
0BSD AFL-3.0 AGPL-3.0-only AGPL-3.0-or-later Apache-2.0 Artistic-2.0 BSD-2-Clause BSD-3-Clause BSD-4-Clause BSL-1.0 CC0-1.0 CC-BY-1.0
CC-BY-2.0 CC-BY-2.5 CC-BY-3.0 CC-BY-4.0 CC-BY-SA-1.0 CC-BY-SA-2.0 CC-BY-SA-2.5 CC-BY-SA-3.0 CC-BY-SA-4.0 CC-BY-NC-1.0 CC-BY-NC-2.0
CC-BY-NC-2.5 CC-BY-NC-3.0 CC-BY-NC-4.0 CC-BY-NC-SA-1.0 CC-BY-NC-SA-2.0 CC-BY-NC-SA-2.5 CC-BY-NC-SA-3.0 CC-BY-NC-SA-4.0 CC-BY-ND-1.0
CC-BY-ND-2.0 CC-BY-ND-2.5 CC-BY-ND-3.0 CC-BY-ND-4.0 CC-BY-NC-ND-1.0 CC-BY-NC-ND-2.0 CC-BY-NC-ND-2.5 CC-BY-NC-ND-3.0 CC-BY-NC-ND-4.0
CC-PDDC EPL-1.0 EPL-2.0 EUPL-1.2 GFDL-1.1-only GFDL-1.2-only GFDL-1.2-or-later GFDL-1.3-only GFDL-1.3-or-later GPL-1.0-only GPL-2.0-only
GPL-2.0-or-later GPL-3.0-only GPL-3.0-or-later HPND ISC LGPL-2.0-only LGPL-2.1-only LGPL-2.1-or-later LGPL-3.0-only LGPL-3.0-or-later MIT
MIT-0 MPL-1.1 MPL-2.0 NCSA ODbL-1.0 ODC-By-1.0 OFL-1.1 PDDL-1.0 PSF-2.0 Unlicense WTFPL Zlib
""".split()  # noqa: SIM905


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "", name.lower())


_NAMES = {_plain(name): name for name in _IDS}
_NAMES |= {_plain(name.removesuffix("-only")): name for name in _IDS if name.endswith("-only")}
_NAMES |= {
    "mitlicense": "MIT",
    "apachelicense20": "Apache-2.0",
    "apachelicenseversion20": "Apache-2.0",
    "apache2": "Apache-2.0",
    "bsd3": "BSD-3-Clause",
    "bsd2": "BSD-2-Clause",
    "cc0": "CC0-1.0",
    "gplv2": "GPL-2.0-only",
    "gplv3": "GPL-3.0-only",
    "lgplv3": "LGPL-3.0-only",
    "agplv3": "AGPL-3.0-only",
    "pddl": "PDDL-1.0",
    "theunlicense": "Unlicense",
}
_JOINTS = re.compile(r"(\s+(?:AND|OR|WITH)\s+|[()])")
_REFERENCE = re.compile(r"LicenseRef-[A-Za-z0-9.-]+")


def spdx(stated: str) -> str | None:
    """The SPDX expression for what somebody calls a licence ("CC BY-SA 4.0", "MIT OR Apache 2.0"); None if it is not known."""
    parts = [part for part in _JOINTS.split(stated.strip()) if part.strip()]
    named = [part if _JOINTS.fullmatch(part) or _REFERENCE.fullmatch(part) else _NAMES.get(_plain(part)) for part in parts]
    return "".join(part for part in named if part) if named and None not in named else None


_CREATIVE_COMMONS = re.compile(r"creativecommons\.org/(?:licenses/([a-z-]+)/(\d\.\d)|publicdomain/(zero|mark)/1\.0)", re.IGNORECASE)


def from_address(address: str) -> str | None:
    """The licence that a Creative Commons address stands for. The public domain mark is no licence: `CC-PDDC` states the same."""
    match = _CREATIVE_COMMONS.search(address)
    if not match:
        return None
    if match[3]:
        return "CC0-1.0" if match[3].lower() == "zero" else "CC-PDDC"
    return spdx(f"CC-{match[1]}-{match[2]}")


_WARRANTY = "the software is provided as is"
_BSD_1 = "redistributions of source code must retain the above copyright"
_BSD_2 = "redistributions in binary form must reproduce the above copyright"
_BSD_3 = "endorse or promote products derived from"
_BSD_4 = "all advertising materials mentioning features"
_MIT = "permission is hereby granted free of charge to any person obtaining a copy"
_MIT_NOTICE = "the above copyright notice and this permission notice"
_ISC = "permission to use copy modify and or distribute this software for any purpose with or without fee is hereby granted"

_TEXTS: list[tuple[str, tuple[str, ...], tuple[str, ...]]] = [
    ("AGPL-3.0-only", ("gnu affero general public license version 3",), ()),
    ("LGPL-3.0-only", ("gnu lesser general public license version 3",), ()),
    ("LGPL-2.1-only", ("gnu lesser general public license version 2 1",), ()),
    ("LGPL-2.0-only", ("gnu library general public license version 2",), ()),
    ("GPL-3.0-only", ("gnu general public license version 3 29 june 2007",), ()),
    ("GPL-2.0-only", ("gnu general public license version 2 june 1991",), ()),
    ("GPL-1.0-only", ("gnu general public license version 1 february 1989",), ()),
    ("GFDL-1.3-only", ("gnu free documentation license version 1 3",), ()),
    ("GFDL-1.2-only", ("gnu free documentation license version 1 2",), ()),
    ("Apache-2.0", ("apache license version 2 0", "terms and conditions for use reproduction and distribution"), ()),
    ("Apache-2.0", ("licensed under the apache license version 2 0",), ()),
    ("MPL-2.0", ("mozilla public license version 2 0",), ()),
    ("MPL-1.1", ("mozilla public license version 1 1",), ()),
    ("EPL-2.0", ("eclipse public license v 2 0",), ()),
    ("EPL-1.0", ("eclipse public license v 1 0",), ()),
    ("EUPL-1.2", ("european union public licence v 1 2",), ()),
    ("OFL-1.1", ("sil open font license version 1 1",), ()),
    ("ODbL-1.0", ("open database license odbl",), ()),
    ("PDDL-1.0", ("public domain dedication license pddl",), ()),
    ("Artistic-2.0", ("the artistic license 2 0",), ()),
    ("PSF-2.0", ("python software foundation license version 2",), ()),
    ("Unlicense", ("this is free and unencumbered software released into the public domain",), ()),
    ("WTFPL", ("do what the fuck you want to public license",), ()),
    ("BSL-1.0", ("boost software license version 1 0",), ()),
    ("CC0-1.0", ("cc0 1 0 universal",), ()),
    ("Zlib", ("the origin of this software must not be misrepresented", "altered source versions must be plainly marked as such"), ()),
    ("NCSA", (_MIT, _BSD_1, "neither the names of"), ()),
    ("MIT", (_MIT, _MIT_NOTICE, _WARRANTY), (_BSD_1,)),
    ("MIT-0", (_MIT, _WARRANTY), (_MIT_NOTICE, _BSD_1)),
    ("BSD-4-Clause", (_BSD_1, _BSD_2, _BSD_4), ()),
    ("BSD-3-Clause", (_BSD_1, _BSD_2, _BSD_3), (_BSD_4, _MIT)),
    ("BSD-2-Clause", (_BSD_1, _BSD_2), (_BSD_3, _BSD_4, _MIT)),
    ("ISC", (_ISC, "provided that the above copyright notice and this permission notice appear in all copies"), ()),
    ("0BSD", (_ISC,), ("appear in all copies",)),
]
"""Licence, sentences that its text has, sentences that it does not have; the first that fits."""

_CC_TEXT = re.compile(r"(?:^| )(attribution(?: noncommercial| share ?alike| no ?deriv\w*)*) (\d) (\d) (?:international|unported|generic)")
_CC_PARTS = {"noncommercial": "NC", "sharealike": "SA", "noderiv": "ND"}
HEAD_WORDS = 400
"""Where in a licence file its title stands. A GPL names the LGPL further down, and many name each other."""


def from_text(text: str) -> str | None:
    """The licence that a licence file's text is; None if it is not known. Texts that hold several say the first one only."""
    words = re.sub(r"[^a-z0-9]+", " ", text[:200_000].lower().replace("(c)", " "))
    head = " ".join(words.split(" ", HEAD_WORDS)[:HEAD_WORDS])
    match = _CC_TEXT.search(head)
    if match:
        said = match[1].replace(" ", "")
        parts = "".join(f"-{short}" for long, short in _CC_PARTS.items() if long in said)
        return spdx(f"CC-BY{parts}-{match[2]}.{match[3]}")
    best: tuple[int, str] | None = None
    for licence, has, lacks in _TEXTS:
        at = words.find(has[0])
        fits = at >= 0 and all(sentence in words for sentence in has[1:]) and not any(sentence in words for sentence in lacks)
        if fits and (best is None or at < best[0]):
            best = (at, licence)
    return best[1] if best else None


_FILE_NAMES = re.compile(r"(un)?licen[sc]e|copying", re.IGNORECASE)
_DECLARED = re.compile(rb"SPDX-License-Identifier:[ \t]*([A-Za-z0-9 .+()-]+)")


def is_licence_file(name: str) -> bool:
    """Whether a file of this name states the licence of the folder it lies in."""
    return bool(_FILE_NAMES.match(name)) and not name.endswith((".py", ".c", ".js", ".h", ".go", ".rs", ".java"))


def declared(head: bytes) -> str | None:
    """The licence that a source file states in its first lines, as SPDX and REUSE ask for it."""
    match = _DECLARED.search(head)
    return spdx(match[1].decode().strip().removesuffix("*").strip()) if match else None


def together(licences: Iterable[str | None]) -> str | None:
    """The licence of a folder that holds several licence files: any of them, as the custom is; None if one is not known."""
    found = sorted({licence for licence in licences if licence}, key=lambda name: (name.startswith("Apache"), name))
    if "LGPL-3.0-only" in found and "GPL-3.0-only" in found:  # the LGPL 3 is written as an addition to the GPL 3
        found.remove("GPL-3.0-only")
    return " OR ".join(found) or None
