"""LaTeX sources, as arXiv gives them (a .tar.gz, or one gzipped file): the body of the paper as LaTeX, ready to read.

The main file is found, what it inputs is put in its place, remarks go, and macros without arguments are replaced by what they stand
for, so that a formula says the same in every paper. Formulas stay LaTeX. Nothing is run, and no file outside the archive is looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from openbook.corpus.raw import RawText, text_of, too_long
from openbook.corpus.sources.archives import tar_files
from openbook.corpus.sources.opened import Opened

ENDINGS = (".tex", ".ltx", ".latex")
MOST_INPUTS = 1000
"""Files put in the place of \\input, each as often as it is asked for."""
_REMARK = re.compile(r"(?<!\\)((?:\\\\){0,20})%[^\n]*(?:\n[ \t]*)?")
_INPUT = re.compile(r"\\(?:input|include|subfile)\s*\{([^{}\n]{1,300})\}|\\input\s+([\w./-]{1,300})")
_BEGIN, _END = "\\begin{document}", "\\end{document}"
_MACRO = re.compile(
    r"\\(?:(?:re)?newcommand|providecommand)\*?\s*\{?\s*(\\[a-zA-Z]{1,50})\s*\}?\s*(\[\d\])?\s*(?=\{)|\\def\s*(\\[a-zA-Z]{1,50})\s*(#\d)?\s*(?=\{)"
)
_NAMED = re.compile(r"\\(title|author)\s*(?:\[[^\[\]]{0,500}\])?\s*(?=\{)")
_CUT_ENVIRONMENTS = ("thebibliography", "comment")
_CUT_COMMANDS = re.compile(
    r"\\(?:bibliography|bibliographystyle|maketitle|tableofcontents|(?:new|clear)page|pagebreak)\b(?:\{[^{}\n]{0,300}\})?"
)
LONGEST_MACRO = 200
"""Characters of a macro's meaning; longer ones are layout, not notation."""


def read_latex(file: Opened) -> Iterator[RawText]:
    """One text: the paper. Raises READ_ERRORS where the archive is damaged."""
    start = file.stream.peek(512)[:512]
    if start[257:262] == b"ustar" or file.name.endswith((".tar", ".tgz")):
        yield _paper(file)
        return
    data = file.stream.read(file.most_markup + 1)
    if len(data) > file.most_markup:
        yield too_long(file.origin, len(data), file.limit)
    elif data.startswith((b"%PDF", b"%!PS")):
        yield RawText(file.origin, bytes=len(data), problem=("no text", "a PDF or PostScript file, not LaTeX"))
    else:
        yield _as_text({"": _decode(data)}, "", file)


def _paper(file: Opened) -> RawText:
    sources: dict[str, str] = {}
    size = 0
    for name, stream in tar_files(file.stream):
        if not name.lower().endswith(ENDINGS):
            continue
        data = stream.read(file.most_markup + 1 - size)
        size += len(data)
        if size > file.most_markup:
            return too_long(file.origin, size, file.limit)
        sources[name.removeprefix("./")] = _decode(data)
    main = main_file(sources)
    if main is None:
        return RawText(file.origin, bytes=size, problem=("no text", "no file in it has \\documentclass and \\begin{document}"))
    return _as_text(sources, main, file)


def _decode(data: bytes) -> str:
    """UTF-8, or Latin-1, which LaTeX took for granted for thirty years and in which every byte is some letter."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def main_file(sources: Mapping[str, str]) -> str | None:
    """The file that LaTeX would be given: of those with a document in them, the longest; ties go to the first by name."""
    mains = [name for name, text in sources.items() if _BEGIN in text and re.search(r"\\document(?:class|style)", text)]
    return min(mains, key=lambda name: (-len(sources[name]), name), default=None)


def _as_text(sources: Mapping[str, str], main: str, file: Opened) -> RawText:
    whole = merge({name: without_remarks(text) for name, text in sources.items()}, main, file.most_markup)
    if whole is None:
        return too_long(file.origin, file.most_markup + 1, file.limit)
    if "\0" in whole:
        return RawText(file.origin, bytes=len(whole), problem=("binary", f"NUL character at {whole.index(chr(0))}"))
    preamble, begin, rest = whole.partition(_BEGIN)
    if not begin:
        preamble, rest = "", whole
    facts = {match[1]: _group(preamble + rest, match.end())[0] for match in _NAMED.finditer(preamble + rest)}
    body = rest.partition(_END)[0]
    for name in _CUT_ENVIRONMENTS:
        body = _cut_environment(body, name)
    body = _CUT_COMMANDS.sub("", expand(body, macros(whole)))
    body = re.sub(r"\n\s*\n\s*\n+", "\n\n", re.sub(r"[ \t]+$", "", body, flags=re.M)).strip()
    if not body:
        return RawText(file.origin, bytes=len(whole), problem=("no text", "nothing between \\begin{document} and \\end{document}"))
    title = re.sub(r"\\\\|\s+", " ", facts.get("title", "")).strip()
    head = f"\\title{{{title}}}\n\n" if title and "\\title" not in body else ""
    return text_of(file.origin, f"{head}{body}\n", file.limit, meta={"title": title[:300]} if title else {})


def without_remarks(text: str) -> str:
    """The source without what follows a % that is not \\%; a line of nothing but a remark goes whole."""
    text = re.sub(r"^[ \t]*%[^\n]*\n", "", text, flags=re.M)
    return _REMARK.sub(r"\1", text)


def merge(sources: Mapping[str, str], main: str, longest: int) -> str | None:
    """The main file with its inputs in their places; None if that becomes longer than `longest` characters."""
    pieces: list[str] = []
    length = inputs = 0
    todo = [(main, 0)]
    while todo:
        name, at = todo.pop()
        match = _INPUT.search(sources[name], at) if inputs < MOST_INPUTS else None
        piece = sources[name][at : match.start()] if match else sources[name][at:]
        pieces.append(piece)
        length += len(piece)
        if length > longest:
            return None
        if match:
            inputs += 1
            todo.append((name, match.end()))
            wanted = _known(sources, (match[1] or match[2]).strip())
            if wanted is not None and all(wanted != above for above, _ in todo):  # a file that inputs itself does so once
                todo.append((wanted, 0))
    return "".join(pieces)


def _known(sources: Mapping[str, str], name: str) -> str | None:
    name = name.removeprefix("./")
    return next((found for found in (name, *(name + ending for ending in ENDINGS)) if found in sources), None)


def macros(text: str) -> dict[str, str]:
    """What the macros without arguments stand for, as the last definition of each says."""
    found: dict[str, str] = {}
    for match in _MACRO.finditer(text):
        meaning, _ = _group(text, match.end())
        if not (match[2] or match[4]) and 0 < len(meaning) <= LONGEST_MACRO:
            found[match[1] or match[3]] = meaning
    return found


def expand(body: str, meanings: Mapping[str, str]) -> str:
    """Replaces macros by their meanings, once: a meaning that uses another macro keeps it, so that nothing can grow without end."""
    body = re.sub(_MACRO.pattern, lambda match: match[0].replace("\\", "\0"), body)
    if meanings:
        body = re.sub(r"\\[a-zA-Z]+(?![a-zA-Z])", lambda match: meanings.get(match[0], match[0]), body)
    return body.replace("\0", "\\")


def _group(text: str, start: int) -> tuple[str, int]:
    """What stands in the braces that open at `start`, and where they end; nothing if they do not end soon."""
    depth = 0
    for match in re.compile(r"\\.|[{}]", re.S).finditer(text, start, start + 5000):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0 and match[0] == "}":
            return text[start + 1 : match.start()], match.end()
    return "", start


def _cut_environment(text: str, name: str) -> str:
    begin, end = f"\\begin{{{name}}}", f"\\end{{{name}}}"
    pieces, at = [], 0
    while (start := text.find(begin, at)) >= 0:
        pieces.append(text[at:start])
        stop = text.find(end, start)
        at = len(text) if stop < 0 else stop + len(end)
    return "".join(pieces) + text[at:]
