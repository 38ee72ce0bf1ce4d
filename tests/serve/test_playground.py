"""The playground in a real browser: types, streams, stops, compares; and what is hostile stays text."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

import httpx
import pytest

from serve.chromium import Tab, chromium
from serve.fronts import guarded
from serve.serving import Served, running

IDLE = "document.querySelector('#stop').disabled"
TEXT = "[...document.querySelectorAll('.pane')[{}].querySelectorAll('.t')].map(t => t.textContent).join('')"
TOOL = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"enum": ["Riga", "Oslo"]}}, "required": ["city"]}}
SCHEMA = {"type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"], "additionalProperties": False}
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
        fill(tab, f"document.querySelectorAll('[name={name}]')[{index}]", value)


def fill(tab: Tab, field: str, value: object) -> None:
    tab.js(f"(() => {{ const e = {field}; e.value = {json.dumps(str(value))}; e.dispatchEvent(new Event('input', {{bubbles: true}})) }})()")


def shown_code_says(tab: Tab) -> tuple[str, dict[str, object]]:
    """What the shown Python code prints, and what the shown curl command answers."""
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(compile(tab.js("document.querySelector('.python').textContent"), "shown code", "exec"), {})
    curl = subprocess.run(["sh", "-c", tab.js("document.querySelector('.curl').textContent")], capture_output=True, check=True, timeout=60)
    return printed.getvalue(), json.loads(curl.stdout)["choices"][0]


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
    assert re.match(r"\d tokens read.* · \d+ written", tab.js("document.querySelector('.usage').textContent"))
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


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl, which the shown command runs, is not here")
def test_the_shown_code_runs_and_says_the_same(tab: Tab) -> None:
    for name, value in (
        ("max_tokens", 12),
        ("seed", 4),
        ("top_k", 40),
        ("min_p", 0.01),
        ("frequency_penalty", 0.5),
        ("stop", "zq\\n\n\\tx"),
    ):
        put(tab, name, value)
    fill(tab, "one('suffix')", "\n# it's ✓ done")
    ask(tab, "def f(a):\n    return 'ü'")
    tab.until(f"{IDLE} && document.querySelector('.usage').textContent.includes('end:')")
    text = tab.js("panes[0].answer.textContent")
    printed, choice = shown_code_says(tab)
    assert choice["text"] == text and printed == text + "\n"
    for field in ('"suffix":"', '"stop":["zq\\n","\\tx"]', '"top_k":40'):
        assert field in tab.js("document.querySelector('.curl').textContent")
    fill(tab, "one('suffix')", "")
    put(tab, "max_tokens", 60)
    fill(tab, "one('schema')", json.dumps(SCHEMA))
    tab.press("Enter", control=True)
    tab.until(f"{IDLE} && document.querySelector('.usage').textContent.includes('end: stop')")
    text = tab.js("panes[0].answer.textContent")
    assert json.loads(text)["yes"] in (True, False)
    assert shown_code_says(tab)[0] == text + "\n"


def test_a_call_of_a_function_and_its_result(tab: Tab) -> None:
    tab.click("[value=chat]")
    put(tab, "max_tokens", 200)
    put(tab, "seed", 1)
    fill(tab, "one('tools')", "[{")
    ask(tab, "How is the weather?")
    tab.until("one('note').textContent.startsWith('the functions: ')")
    assert tab.js("panes[0].out.textContent") == "" and tab.js(IDLE)
    fill(tab, "one('tools')", json.dumps(TOOL))
    tab.js("one('required').checked = true; arrange()")
    tab.press("Enter", control=True)
    tab.until(f"{IDLE} && document.querySelector('.usage').textContent.includes('written')")
    assert tab.js("one('text-label').textContent") == "Result of weather"
    assert "→ weather {" in tab.js("panes[0].answer.textContent")
    printed, choice = shown_code_says(tab)  # without a new text, that of the answer which is shown
    [call] = tab.js("panes[0].messages.at(-1).tool_calls")
    assert choice["message"]["tool_calls"][0]["function"] == call["function"]  # type: ignore[index]
    assert "weather" in printed
    ask(tab, "rain")
    tab.until(f"{IDLE} && panes[0].messages.length === 4")
    assert tab.js("panes[0].messages[2]") == {"role": "tool", "tool_call_id": call["id"], "content": "rain"}


def test_a_key_an_alias_and_a_model_elsewhere(browser: Tab, paced: Served, chatty_weights: Path, tmp_path: Path) -> None:
    with guarded(chatty_weights, tmp_path, paced.url, name="mine") as front:
        front.store.set_alias("prod", (("mine", 1),))
        key = front.key("ann")[1]
        browser.call("Page.navigate", url=front.url)
        browser.until("document.readyState === 'complete' && one('note').textContent.includes('401')")
        fill(browser, "one('key')", key)
        browser.js("one('key').dispatchEvent(new Event('change'))")
        browser.until("document.querySelector('option')")
        assert set(browser.js("[...document.querySelector('select').options].map(o => o.value)")) == {"mine", "prod", "tiny", "other"}
        put(browser, "max_tokens", 600)
        put(browser, "model", "tiny")
        ask(browser, "def")
        browser.until("document.querySelectorAll('.t').length > 5")
        browser.press("Escape")
        browser.until(f"{IDLE} && document.querySelector('.usage').textContent.includes('end: stopped')")
        assert "tokens read" in browser.js("document.querySelector('.usage').textContent")
        put(browser, "max_tokens", 8)
        put(browser, "model", "prod")
        assert not browser.js("one('suffix-label').hidden"), "whether it can, its models know"
        fill(browser, "one('suffix')", "return")
        ask(browser, "def")
        browser.until(f"{IDLE} && document.querySelector('.usage').textContent.startsWith('from mine · ')")
    assert all("401" in said for said in browser.complaints)
    browser.complaints = []


def test_a_suffix_is_for_models_that_fill_in(browser: Tab, served: Served) -> None:
    browser.open(served.url)
    assert browser.js("one('suffix-label').hidden")


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
