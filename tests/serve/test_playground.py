"""The playground in a real browser: types, streams, stops, compares; and what is hostile stays text."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from serve.chromium import Tab, chromium
from serve.serving import Served, running

IDLE = "document.querySelector('#stop').disabled"
TEXT = "[...document.querySelectorAll('.pane')[{}].querySelectorAll('.t')].map(t => t.textContent).join('')"
HOSTILE = "<img src=x onerror=document.title='broken'><script>document.title='broken'</script>"


@pytest.fixture(scope="module")
def paced(chatty_weights: Path) -> Iterator[Served]:
    """A server that takes 5 ms for a token, so that there is time to stop one."""
    with running(chatty_weights, slow=lambda: time.sleep(0.005)) as served:
        served.desk.models["other"] = served.desk.models["tiny"]  # type: ignore[index]
        yield served


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with chromium(tmp_path_factory.mktemp("chromium")) as tab:
        yield tab


@pytest.fixture
def tab(browser: Tab, paced: Served) -> Iterator[Tab]:
    browser.open(paced.url)
    yield browser
    assert browser.complaints == []


def ask(tab: Tab, text: str) -> None:
    tab.js("document.querySelector('#text').select()")
    tab.type(text)
    tab.press("Enter", control=True)


def put(tab: Tab, name: str, *values: object) -> None:
    for index, value in enumerate(values):
        tab.js(f"document.querySelectorAll('[name={name}]')[{index}].value = '{value}'")


def test_a_typed_text_is_continued_as_the_api_continues_it(tab: Tab, paced: Served) -> None:
    put(tab, "max_tokens", 40)
    put(tab, "seed", 3)
    ask(tab, "def fibonacci(n):\n")
    tab.until(f"{IDLE} && document.querySelector('.usage').textContent.includes('40 written')")
    same = {"max_tokens": 40, "temperature": 0.7, "top_p": 0.95, "seed": 3}
    choice = paced.client.completions.create(model="tiny", prompt="def fibonacci(n):\n", logprobs=5, **same).choices[0]  # type: ignore[call-overload]
    assert tab.js(TEXT.format(0)) == choice.text
    tab.js("document.querySelector('.out').focus()")
    tab.press("ArrowRight")
    tab.press("ArrowRight")
    shown = tab.js("[...document.querySelectorAll('.token tr')].map(r => r.lastChild.textContent)")
    percents = sorted({f"{100 * 2.718281828459045**value:.2f} %" for value in choice.logprobs.top_logprobs[1].values()})
    assert sorted(set(shown)) == percents and len(shown) >= 5


def test_escape_stops_the_answer_and_the_servers_work(tab: Tab, paced: Served) -> None:
    put(tab, "max_tokens", 900)
    before = paced.engine.tokens
    ask(tab, "def")
    tab.until("document.querySelectorAll('.t').length > 5")
    assert not tab.js(IDLE)
    tab.press("Escape")
    tab.until(f"{IDLE} && document.querySelector('.usage').textContent.includes('end: stopped')")
    end = time.monotonic() + 10
    while paced.engine.running and time.monotonic() < end:
        time.sleep(0.01)
    assert not paced.engine.running and paced.engine.tokens - before < 900


def test_two_models_and_two_settings_side_by_side(tab: Tab) -> None:
    tab.click("#compare")
    assert tab.js("[...document.querySelectorAll('[name=model]')].map(s => s.value)") == ["tiny", "other"]
    put(tab, "max_tokens", 12, 12)
    for seeds, same in (((1, 1), True), ((1, 2), False)):
        put(tab, "seed", *seeds)
        ask(tab, "return ")
        tab.until(f"{IDLE} && [...document.querySelectorAll('.usage')].every(u => u.textContent.includes('12 written'))")
        assert (tab.js(TEXT.format(0)) == tab.js(TEXT.format(1))) is same
        tab.click("#clear")


def test_a_chat_goes_on_and_is_shown_as_code(tab: Tab) -> None:
    tab.click("[value=chat]")
    put(tab, "max_tokens", 8)
    for turn in (1, 2):
        ask(tab, f"question {turn}")
        tab.until(f"{IDLE} && panes[0].messages.length === {2 * turn}")
    assert tab.js("panes[0].messages.map(m => m.role)") == ["user", "assistant"] * 2
    assert tab.js("document.querySelector('#text').value") == ""
    code = tab.js("document.querySelector('.python').textContent")
    compile(code, "code", "exec")
    assert "client.chat.completions.create(" in code and '"question 2"' in code
    tab.click("#clear")
    assert tab.js("panes[0].messages.length") == 0


def test_an_error_is_told_and_a_chats_message_is_not_lost(tab: Tab) -> None:
    tab.click("[value=chat]")
    ask(tab, "complain")
    tab.until(f"{IDLE} && document.querySelector('.usage.wrong')")
    assert "400" in tab.js("document.querySelector('.usage').textContent")
    assert tab.js("document.querySelector('#text').value") == "complain"
    tab.complaints = [said for said in tab.complaints if "400 (Bad Request)" not in said]


def test_hostile_text_stays_text(tab: Tab) -> None:
    tab.js(f"panes[0].add({HOSTILE!r}, []); panes[0].add({HOSTILE!r}, [{{token: {HOSTILE!r}, logprob: -1, top: [[{HOSTILE!r}, -1]]}}])")
    tab.js("panes[0].point(document.querySelector('.t')); panes[0].tell('<b>wrong</b>', true)")
    assert tab.js("document.querySelectorAll('main img, main script, main b').length") == 0
    assert tab.js("document.querySelector('.out').textContent") == HOSTILE * 2
    assert tab.js("document.title") == "openbook playground"
    assert tab.js("(() => { try { document.body.innerHTML = '<b>x</b>' } catch (error) { return error.name } })()") == "TypeError"
    assert tab.js("fetch('https://example.com').catch(error => error.name)") == "TypeError", "the page talks to its own server only"
    assert any("Content Security Policy" in said for said in tab.complaints)
    tab.complaints = [said for said in tab.complaints if "Content Security Policy" not in said and "trusted" not in said.lower()]


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window(tab: Tab, paced: Served, width: int) -> None:
    tab.open(paced.url, width, 900, dark=width == 390)
    tab.click("#compare")
    tab.js("panes[0].add('x'.repeat(3000), [])")
    assert tab.js("document.documentElement.scrollWidth") <= width


def test_the_page_loads_nothing_from_elsewhere(paced: Served) -> None:
    answer = httpx.get(paced.url)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and policy.count("'sha256-") == 2
    assert "src=" not in answer.text.split("<script>")[0] and "http" not in answer.text.split("<script>")[0]
