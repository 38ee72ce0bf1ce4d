"""Every format gives the text that a reader of it would see, with what it says of itself; what is damaged or hostile is named."""

from __future__ import annotations

import gzip
import io
import json
import mailbox
import re
import tarfile
from email.message import EmailMessage
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pypdf import PdfWriter
from reading import problem, texts, the_text

from openbook.corpus.sources import latex
from openbook.corpus.sources.mail import own_words
from openbook.errors import InputError


def mail(body: str, **heads: str) -> EmailMessage:
    message = EmailMessage()
    for name, value in ({"From": "A <a@x.org>", "Subject": "Grüße", "Date": "Mon, 14 May 2001 16:39:00 -0700"} | heads).items():
        message[name] = value
    message.set_content(body)
    return message


BODY = (
    "Hello,\n\nFrom here on my own words.\n\nOn Tue, 8 May 2001, B <b@x.org>\nwrote:\n> a quote\n> > another\n\nMy answer.\n-- \nA, of X\n"
)


def test_a_mailbox_that_the_standard_library_wrote(tmp_path: Path) -> None:
    box = mailbox.mbox(tmp_path / "x.mbox")
    html = mail("plain")
    html.clear_content()
    html.set_content("<p>In <b>HTML</b></p><script>no</script>", subtype="html")
    for message in (mail(BODY), html, mail("> only a quote\n")):
        box.add(message)
    box.close()
    first, second, third = texts(tmp_path / "x.mbox")
    head = "From: A <a@x.org>\nSubject: Grüße\nDate: Mon, 14 May 2001 16:39:00 -0700\n\n"
    assert first.text == f"{head}Hello,\n\nFrom here on my own words.\n\n\nMy answer.\n".replace("\n\n\n", "\n\n")
    assert dict(first.meta) == {"title": "Grüße", "date": "2001-05-14", "year": 2001}
    assert second.text.endswith("\n\nIn HTML\n")
    assert third.problem == ("no text", "no words of the sender's own")


def test_a_folder_of_single_messages(tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    for number in range(3):
        (tmp_path / "inbox" / f"{number}.").write_bytes(mail(f"message {number}").as_bytes())
    assert sorted(raw.text[-10:] for raw in texts(tmp_path, format="mail")) == [f"message {number}\n" for number in range(3)]


@given(st.binary(max_size=400))
def test_no_message_breaks_the_reader(data: bytes) -> None:
    from openbook.corpus.sources.mail import _message

    raw = _message(b"From: a\nContent-Type: multipart/mixed; boundary=" + data, "o", 1000)
    assert raw.problem or raw.text


@given(st.text(alphabet="ab >\n-:", max_size=200))
def test_own_words_are_lines_of_the_body(body: str) -> None:
    assert set(own_words(body).split("\n")) <= {line.strip() for line in body.split("\n")} | {
        line.rstrip() for line in body.split("\n")
    } | {""}


MAIN = r"""\documentclass{article}
\newcommand{\R}{\mathbb{R}}
\newcommand{\norm}[1]{\|#1\|}
\def\eps{\varepsilon}  % a remark
\title{On \emph{things}}
\begin{document}
\maketitle
% a line that goes
We take 5\% of \R and \eps, as \norm{x}.
\input{sections/two}
\include{missing}
\begin{thebibliography}{9} \bibitem{a} A. \end{thebibliography}
\end{document}
after the end
"""


def paper(path: Path, files: dict[str, str]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))


def test_a_paper_is_put_together_from_its_files(tmp_path: Path) -> None:
    files = {"fig.eps": "%!PS", "a-note.tex": "\\documentclass{x}\\begin{document}x\\end{document}", "main.tex": MAIN}
    paper(tmp_path / "0704.0001.tar.gz", files | {"sections/two.tex": "Section two, $\\eps \\in \\R$.\n\\input{main}"})
    raw = the_text(tmp_path / "0704.0001.tar.gz", format="latex")
    assert raw.text.startswith("\\title{On \\emph{things}}\n\nWe take 5\\% of \\mathbb{R} and \\varepsilon, as \\norm{x}.\n")
    assert "Section two, $\\varepsilon \\in \\mathbb{R}$." in raw.text
    for unwanted in ("remark", "a line that goes", "bibitem", "after the end", "maketitle"):
        assert unwanted not in raw.text
    assert raw.meta["title"] == "On \\emph{things}"


def test_a_paper_of_one_gzipped_file_and_papers_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "9901.0001.gz").write_bytes(gzip.compress(MAIN.encode("latin-1")))
    assert "5\\% of \\mathbb{R}" in the_text(tmp_path / "9901.0001.gz", format="latex").text
    (tmp_path / "x.gz").write_bytes(gzip.compress(b"%PDF-1.4"))
    assert problem(tmp_path / "x.gz", format="latex")[0] == "no text"
    paper(tmp_path / "y.tar.gz", {"main.txt": "x", "a.tex": "\\section{no document}"})
    assert problem(tmp_path / "y.tar.gz", format="latex") == ("no text", "no file in it has \\documentclass and \\begin{document}")


def test_inputs_and_macros_that_grow_without_end_are_bounded() -> None:
    assert latex.merge({"a": "x\\input{a}" * 3}, "a", 10**6) == "xxx"
    doubling = {f"f{number}": f"{number}\\input{{f{number + 1}}}\\input{{f{number + 1}}}" for number in range(60)}
    assert len(latex.merge(doubling, "f0", 10**6) or "") < 10_000
    assert latex.merge({"a": "\\input{b}" * 100, "b": "x" * 1000}, "a", 50_000) is None
    assert latex.expand("\\a", latex.macros("\\def\\a{\\b\\b}\\def\\b{\\a\\a}")) == "\\b\\b"


BOOK = """The Project Gutenberg EBook of A Book, by Somebody

Title: A Book
Author: Somebody
Release Date: May, 2001 [EBook #42]
Language: English

*** START OF THIS PROJECT GUTENBERG EBOOK A BOOK ***




Produced by Volunteers and
the Distributed Team


CHAPTER I

It was produced by night. ***

"""


@pytest.mark.parametrize(
    "end", ["*** END OF THIS PROJECT GUTENBERG EBOOK A BOOK ***\n\nlicence", "End of Project Gutenberg's A Book, by\n\nx", ""]
)
def test_a_book_without_the_projects_words(tmp_path: Path, end: str) -> None:
    (tmp_path / "42.txt").write_text(BOOK + end)
    raw = the_text(tmp_path / "42.txt", format="gutenberg")
    assert raw.text == "CHAPTER I\n\nIt was produced by night. ***\n"
    assert dict(raw.meta) == {"title": "A Book", "author": "Somebody", "language": "English", "ebook": 42}


def test_a_book_with_no_marks_is_whole(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("CHAPTER I\n\nWords.\n")
    assert the_text(tmp_path / "x.txt", format="gutenberg").text == "CHAPTER I\n\nWords.\n"


def test_a_log_holds_what_was_said(tmp_path: Path) -> None:
    folder = tmp_path / "2008" / "01" / "02"
    folder.mkdir(parents=True)
    log = (
        "=== ann [n=a@host] has joined #ubuntu\n[18:55] <ann> hello <all>\n[18:56] * bob waves\n=== bob is now known as b\n[18:57] <b>  \n"
    )
    (folder / "#ubuntu.txt").write_text(log)
    raw = the_text(tmp_path, format="irc")
    assert raw.text == "<ann> hello <all>\n* bob waves\n"
    assert dict(raw.meta) == {"date": "2008-01-02", "channel": "#ubuntu", "year": 2008}
    (folder / "#ubuntu.txt").write_text("a letter\n")
    assert problem(tmp_path, format="irc")[0] == "no text"


def patent(number: int) -> str:
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE us-patent-grant SYSTEM "us-patent-grant-v40.dtd" [ <!ENTITY D1.TIF SYSTEM "D1.TIF" NDATA TIF> ]>
<us-patent-grant><us-bibliographic-data-grant><publication-reference><document-id><doc-number>{number:08}</doc-number><date>20050222</date>
</document-id></publication-reference><invention-title>A wheel {number}</invention-title></us-bibliographic-data-grant>
<abstract><p>It turns.</p></abstract><description><heading>BACKGROUND OF THE INVENTION</heading><p>Wheels were&#x2014;square.
<maths><math>x</math></maths></p><heading>Related Art</heading><p>None.</p><heading>SUMMARY</heading><p>Round.</p>
</description></us-patent-grant>
"""


def test_patents_lie_many_to_a_file(tmp_path: Path) -> None:
    (tmp_path / "ipg.xml").write_text(patent(1) + patent(2) + "<?xml version='1.0'?>\n<us-patent-grant><broken>\n" + patent(3))
    first, second, broken, third = texts(tmp_path / "ipg.xml", format="uspto")
    words = ["A wheel 1", "It turns.", "BACKGROUND OF THE INVENTION", "Wheels were—square.", "Related Art", "None.", "SUMMARY", "Round."]
    assert first.text == "\n\n".join(words) + "\n"
    assert dict(second.meta) == {"title": "A wheel 2", "patent": "00000002", "date": "2005-02-22", "year": 2005}
    assert broken.problem is not None
    assert third.text.startswith("A wheel 3")
    backgrounds = texts(tmp_path / "ipg.xml", format="uspto-background")
    assert backgrounds[0].text == "Wheels were—square.\n\nNone.\n"


ARTICLE = """<!DOCTYPE article PUBLIC "-//NLM//DTD" "http://nowhere.invalid/journal.dtd">
<article xmlns:xlink="http://www.w3.org/1999/xlink" xml:lang="EN"><front><article-meta><article-id pub-id-type="doi">10.1/x</article-id>
<title-group><article-title>Bones &amp; <italic>genes</italic></article-title></title-group><pub-date><year>2011</year></pub-date>
<permissions><license xlink:href="http://creativecommons.org/licenses/by/4.0/"><license-p>Open.</license-p></license></permissions>
<abstract><p>Short&mdash;indeed.</p></abstract></article-meta></front><body><sec><title>Methods</title><p>We <xref>[1]</xref> counted.</p>
<fig><caption><p>A figure</p></caption></fig><table-wrap><p>A table</p></table-wrap></sec></body>
<back><ref-list><p>Refs</p></ref-list></back></article>"""


def test_an_article_of_pubmed_central(tmp_path: Path) -> None:
    (tmp_path / "x.nxml").write_text(ARTICLE)
    raw = the_text(tmp_path, format="jats")
    assert raw.text == "Bones & genes\n\nShort—indeed.\n\nMethods\n\nWe [1] counted.\n"
    assert raw.licence == "CC-BY-4.0"
    assert dict(raw.meta) == {"title": "Bones & genes", "doi": "10.1/x", "date": "2011", "year": 2011, "language": "en"}


def test_abstracts_of_pubmed(tmp_path: Path) -> None:
    one = "<PubmedArticle><PMID>{0}</PMID><PubDate><Year>1999</Year></PubDate><ArticleTitle>Title {0}</ArticleTitle>{1}</PubmedArticle>"
    abstract = '<Abstract><AbstractText Label="AIM">To see.</AbstractText><AbstractText>Seen.</AbstractText></Abstract>'
    (tmp_path / "x.xml.gz").write_bytes(
        gzip.compress(f"<PubmedArticleSet>{one.format(1, abstract)}{one.format(2, '')}</PubmedArticleSet>".encode())
    )
    first, second = texts(tmp_path / "x.xml.gz", format="jats")
    assert first.text == "Title 1\n\nAim: To see.\n\nSeen.\n"
    assert (first.meta["pmid"], first.meta["year"]) == ("1", 1999)
    assert second.problem == ("no text", "a title without an abstract")


def pdf_of(words: str) -> bytes:
    """A page with a line of words, by hand: writers of text are no part of pypdf."""
    stream = f"BT /F1 12 Tf 72 700 Td ({words}) Tj ET"
    parts = [
        "<< /Type /Catalog /Pages 2 0 R /OpenAction << /S /JavaScript /JS (app.alert(1)) >> >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>",
        f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    body = "%PDF-1.4\n"
    places = []
    for number, part in enumerate(parts, 1):
        places.append(len(body))
        body += f"{number} 0 obj\n{part}\nendobj\n"
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    return f"{body}xref\n0 6\n0000000000 65535 f \n{table}trailer\n<< /Size 6 /Root 1 0 R >>\nstartxref\n{len(body)}\n%%EOF\n".encode()


def test_the_text_of_a_pdf_and_of_what_is_none(tmp_path: Path) -> None:
    (tmp_path / "x.pdf.gz").write_bytes(gzip.compress(pdf_of("Words on paper")))
    assert the_text(tmp_path / "x.pdf.gz", format="pdf").text == "Words on paper\n"
    (tmp_path / "y.pdf").write_bytes(b"%PDF-1.4 nothing")
    assert problem(tmp_path / "y.pdf", format="pdf")[0] == "unreadable"
    writer = PdfWriter()
    writer.add_blank_page(100, 100)
    writer.write(tmp_path / "z.pdf")
    assert problem(tmp_path / "z.pdf", format="pdf") == ("no text", "1 pages of pictures")


def test_a_missing_extra_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pypdf", None)
    (tmp_path / "x.pdf").write_bytes(pdf_of("x"))
    with pytest.raises(InputError, match=re.escape("x.pdf: reading PDF files needs pypdf; pip install 'openbook[corpus-pdf]'")):
        texts(tmp_path / "x.pdf", format="pdf")


def test_a_format_reads_only_its_own_files(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(json.dumps({"text": "x"}))
    with pytest.raises(InputError, match=r"holds no file that ends in \.html, \.htm"):
        texts(tmp_path, format="html")
