"""Pages, web archives and dumps of sites: the text that a reader would see; what is damaged or hostile is named, in bounded time."""

from __future__ import annotations

import bz2
import gzip
import io
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reading import problem, texts, the_text
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from openbook.corpus.sources import mediawiki

PROSE = "The first sentence of an article says what it is about, at some length. " * 6

PAGE = f"""<!DOCTYPE html><html lang="en-GB"><head><title>A  page</title><meta charset="utf-8">
<script>document.write("never run")</script><style>p {{ color: red }}</style></head><body>
<nav><ul><li><a href="/">Home</a></li><li><a href="/x">Elsewhere</a></li></ul></nav>
<article><h1>A heading</h1><p>{PROSE}</p><p>Naïve &amp; café.</p><pre>x = 1
  y = 2</pre></article>
<footer><a rel="license" href="https://creativecommons.org/licenses/by-sa/3.0/">licence</a> All rights</footer></body></html>"""


def test_a_page_gives_its_main_text_and_its_licence(tmp_path: Path) -> None:
    (tmp_path / "x.html").write_text(PAGE, encoding="utf-8")
    raw = the_text(tmp_path / "x.html")
    assert PROSE.strip() in raw.text
    assert "Naïve & café." in raw.text
    assert "x = 1\n  y = 2" in raw.text
    for unwanted in ("never run", "color", "Elsewhere", "<p>"):
        assert unwanted not in raw.text
    assert raw.licence == "CC-BY-SA-3.0"
    assert dict(raw.meta) == {"title": "A page", "language": "en-gb"}


def test_a_page_is_decoded_as_it_says(tmp_path: Path) -> None:
    (tmp_path / "x.html").write_bytes(PAGE.replace("utf-8", "iso-8859-1").encode("latin-1"))
    assert "Naïve & café." in the_text(tmp_path / "x.html").text


@pytest.mark.parametrize("tag", ["<div>", "<ul><li>a", "<b>a"])
def test_a_page_nested_without_end_is_refused_at_once(tmp_path: Path, tag: str) -> None:
    (tmp_path / "x.html").write_text(tag * 60_000)
    began = time.process_time()
    assert problem(tmp_path / "x.html", limit=10**7) == ("unreadable", "HTML nested more than 1,000 levels deep")
    assert time.process_time() - began < 2
    (tmp_path / "y.html").write_text("<p>one<br>" * 5000)
    assert the_text(tmp_path / "y.html").text.count("one") == 5000


def warc(path: Path, pages: dict[str, bytes], head: dict[str, str] | None = None, compressed: bool = True) -> bytes:
    sink = io.BytesIO()
    writer = WARCWriter(sink, gzip=compressed)
    writer.write_record(writer.create_warcinfo_record("x", {"software": "test"}))
    for url, body in pages.items():
        fields = {"Content-Type": "text/html; charset=utf-8"} | (head or {})
        http = StatusAndHeaders("404 Gone" if "gone" in url else "200 OK", list(fields.items()), protocol="HTTP/1.1")
        extra = {"WARC-Date": "2021-03-04T05:06:07Z"}
        writer.write_record(writer.create_warc_record(url, "response", io.BytesIO(body), http_headers=http, warc_headers_dict=extra))
    writer.write_record(
        writer.create_warc_record("http://w/", "conversion", io.BytesIO("wet tëxt".encode()), warc_content_type="text/plain")
    )
    path.write_bytes(sink.getvalue())
    return sink.getvalue()


def test_what_warcio_writes_is_read_back(tmp_path: Path) -> None:
    pages = {f"http://x/{number}": PAGE.replace("A heading", f"Heading {number}").encode() for number in range(5)}
    warc(tmp_path / "x.warc.gz", pages | {"http://x/gone": b"<p>not found</p>"})
    found = texts(tmp_path / "x.warc.gz")
    assert [raw.meta["url"] for raw in found] == [*pages, "http://w/"]
    assert all(f"Heading {number}" in raw.text and PROSE.strip() in raw.text for number, raw in enumerate(found[:5]))
    assert found[0].meta["date"] == "2021-03-04"
    assert found[0].licence == "CC-BY-SA-3.0"
    assert found[5].text == "wet tëxt"


def test_pages_are_unpacked_as_the_server_packed_them(tmp_path: Path) -> None:
    warc(tmp_path / "x.warc.gz", {"http://x/": gzip.compress(PAGE.encode())}, {"Content-Encoding": "gzip"})
    assert PROSE.strip() in texts(tmp_path / "x.warc.gz")[0].text
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(PAGE.encode()), PAGE.encode())
    warc(tmp_path / "y.warc", {"http://x/": chunked}, {"Transfer-Encoding": "chunked"}, compressed=False)
    assert PROSE.strip() in texts(tmp_path / "y.warc")[0].text
    warc(tmp_path / "z.warc", {"http://x/": gzip.compress(b"x" * 30_000_000)}, {"Content-Encoding": "gzip"}, compressed=False)
    assert texts(tmp_path / "z.warc")[0].problem[0] == "too long"  # type: ignore[index]


def test_a_damaged_web_archive_is_named(tmp_path: Path) -> None:
    data = warc(tmp_path / "x.warc", {f"http://x/{number}": PAGE.encode() for number in range(3)}, compressed=False)
    third = data.rindex(b"Naive") if b"Naive" in data else data.rindex("Naïve".encode())
    (tmp_path / "x.warc").write_bytes(data[:third])
    found = texts(tmp_path / "x.warc")
    assert [raw.problem and raw.problem[0] for raw in found] == [None, None, "unreadable"]
    assert "too early" in found[2].problem[1]  # type: ignore[index]
    (tmp_path / "y.warc").write_bytes(b"this is no archive\r\n\r\n" * 50)
    assert problem(tmp_path / "y.warc")[0] == "unreadable"


POSTS = """<?xml version="1.0" encoding="utf-8"?>
<posts>
  <row Id="1" PostTypeId="1" Score="3" Title="Why &lt;b&gt;?" Body="&lt;p&gt;Because of &lt;code&gt;x&lt;/code&gt;?&lt;/p&gt;"
    CreationDate="2012-01-01T00:00:00" />
  <row Id="5" PostTypeId="5" Score="0" Body="tag wiki" CreationDate="2012-01-01" />
  <row Id="2" PostTypeId="2" ParentId="1" Score="1" Body="&lt;p&gt;Second best&lt;/p&gt;" CreationDate="2019-01-01"
    ContentLicense="CC BY-SA 4.0" />
  <row Id="4" PostTypeId="1" Score="0" Title="Unanswered" Body="&lt;p&gt;?&lt;/p&gt;" CreationDate="2010-01-01" />
  <row Id="3" PostTypeId="2" ParentId="1" Score="7" Body="&lt;p&gt;Best&lt;/p&gt;" CreationDate="2012-02-01" />
  <row Id="9" PostTypeId="2" ParentId="8" Score="7" Body="orphan" CreationDate="2012-02-01" />
</posts>
"""


def test_a_question_and_its_answers_are_one_text_the_best_first(tmp_path: Path) -> None:
    (tmp_path / "coffee").mkdir()
    (tmp_path / "coffee" / "Posts.xml").write_text(POSTS)
    (tmp_path / "coffee" / "Votes.xml").write_text("<votes/>")
    first, second, third = texts(tmp_path, format="stackexchange")
    assert first.text == "Q:\n\nWhy <b>?\n\nBecause of x?\n\nA:\n\nBest\n\nA:\n\nSecond best\n"
    assert first.licence == "CC-BY-SA-3.0 AND CC-BY-SA-4.0"
    assert first.origin == "coffee/Posts.xml:1"
    assert (second.licence, second.meta["title"]) == ("CC-BY-SA-2.5", "Unanswered")
    assert third.problem == ("no text", "answers to a question that the dump lacks")


LAUGHS = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;"><!ENTITY f SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("stackexchange", '<posts><row Id="1" PostTypeId="1" Title="t" Body="b&b;&f;"/></posts>'),
        ("mediawiki", "<mediawiki><page><title>t</title><text>b&b;&f;</text></page></mediawiki>"),
        ("jats", "<article><body><p>b&b;&f;</p></body></article>"),
        ("uspto", "<us-patent-grant><description><p>b&b;&f;</p></description></us-patent-grant>"),
    ],
)
def test_no_entity_is_expanded_and_no_file_is_fetched(tmp_path: Path, kind: str, source: str) -> None:
    (tmp_path / "Posts.xml").write_text(LAUGHS + source)
    found = texts(tmp_path / "Posts.xml", format=kind)
    assert found
    assert all("ha" not in raw.text and "root" not in raw.text for raw in found)


@pytest.mark.parametrize("kind", ["stackexchange", "mediawiki", "jats", "uspto"])
def test_xml_that_is_cut_or_without_end_is_named(tmp_path: Path, kind: str) -> None:
    (tmp_path / "Posts.xml").write_text("<page><text>unfinished")
    assert texts(tmp_path / "Posts.xml", format=kind)[-1].problem[0] == "unreadable"  # type: ignore[index]
    with (tmp_path / "Posts.xml").open("w") as file:
        file.write("<page>")
        for _ in range(300):
            file.write("<a><b>" + "words " * 1000 + "</b></a>")
    reason, detail = texts(tmp_path / "Posts.xml", format=kind, limit=100_000)[-1].problem  # type: ignore[misc]
    assert reason == ("too long" if kind == "uspto" else "unreadable")
    assert "within 800,000 bytes" in detail or kind == "uspto"


WIKI = """'''Ampere''' ([[SI unit|unit]] symbol: '''A'''),<ref name="x">A {{cite|url=y}}</ref> is
{{convert|5|km|mi}} &ndash; of {{lang|fr|le mot}}.<!-- no -->
{{Infobox
| name = {{nested|a}}
| x = [[y]]
}}
[[File:A.jpg|thumb|A [[caption]] here]]

== History ==
* One [http://x.org label] and [http://y.org]
* Two

{| class="wikitable"
|-
| cell {{x}}
|}

=== Empty ===

== References ==
{{reflist}}
* A book

== Use ==
Text<br />after. <math>x^2</math>

[[Category:Units]]"""


def dump(*pages: tuple[str, str, str]) -> str:
    body = "".join(
        f"<page><title>{title}</title><ns>{ns}</ns><revision><timestamp>2016-04-22T00:00:00Z</timestamp>"
        f'<text xml:space="preserve">{text.replace("&", "&amp;").replace("<", "&lt;")}</text></revision></page>'
        for title, ns, text in pages
    )
    return f'<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/">{body}</mediawiki>'


def test_articles_without_markup(tmp_path: Path) -> None:
    source = dump(("Ampere", "0", WIKI), ("Talk:Ampere", "1", "talk"), ("Amp", "0", "#REDIRECT [[Ampere]]"))
    (tmp_path / "x.xml.bz2").write_bytes(bz2.compress(source.encode()))
    raw = the_text(tmp_path / "x.xml.bz2", format="mediawiki", licence="CC-BY-SA-4.0")
    assert raw.text == (
        "Ampere\n\nAmpere (unit symbol: A), is\n5 km – of le mot.\n\nHistory\n\n- One label and\n- Two\n\nUse\n\nTextafter. x^2\n"
    )
    assert (raw.origin, raw.licence, raw.meta["year"]) == ("x.xml.bz2:Ampere", "CC-BY-SA-4.0", 2016)


@pytest.mark.parametrize("piece", ["[[", "{{", "{{a|", "\n{|", "<ref>", "<!--", "=", "[http://x ", "<a ", "]]", "'''", "&amp"])
def test_hostile_markup_takes_linear_time(piece: str) -> None:
    began = time.process_time()
    mediawiki.to_text(piece * (300_000 // len(piece)))
    assert time.process_time() - began < 3


@given(st.text(alphabet="[]{}|=<>ref/a!-'\n *:", max_size=120))
def test_markup_is_always_taken_off(markup: str) -> None:
    text = mediawiki.to_text(markup)
    assert "{{" not in text.replace("{{{", "") or markup.count("{{") > markup.count("}}") or "}}" not in text
    assert "'''" not in text
