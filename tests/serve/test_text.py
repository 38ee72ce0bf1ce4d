"""Between text and ids, without a server: templates in their sandbox, grammars, tool calls in pieces, fill-in-the-middle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openbook.engine import Engine
from openbook.errors import InputError
from openbook.model.tokenizer import Tokenizer, load_tokenizer
from openbook.serve.served import describe
from openbook.serve.text.chat import ChatTemplate
from openbook.serve.text.fim import fill_in_of
from openbook.serve.text.grammar import GrammarMask, Grammars, json_schema, regex
from openbook.serve.text.tools import Argued, Called, CallReader, Function, Said, calls_grammar
from serve.serving import SPECIAL, random_model, tokenizer_of


@pytest.fixture(scope="module")
def tokenizer(chatty_weights: Path) -> Tokenizer:
    return load_tokenizer(chatty_weights / "tokenizer.json")


@pytest.fixture(scope="module")
def grammars(tokenizer: Tokenizer) -> Grammars:
    return Grammars(tokenizer, tokenizer.end_of_document)


def template(tokenizer: Tokenizer, source: str) -> ChatTemplate:
    return ChatTemplate(tokenizer, source)


def render(tokenizer: Tokenizer, source: str, content: str = "hi") -> str:
    return tokenizer.decode(template(tokenizer, source).encode([{"role": "user", "content": content}], None))


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ raise_exception.__globals__['json'] }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{{ messages.append(1) }}",
        "{{ messages.clear() }}",
        "{{ 'a' * 10000000000 }}",
        "{{ [0] * 10000000000 }}",
        "{{ 9 ** 999999999 }}",
        "{{ '%01000000000d' % 1 }}",
        "{% for i in range(1000000000) %}a{% endfor %}",
        "{{ undefined.attribute }}",
        "{{ messages[0]['content'] | nothing }}",
    ],
)
def test_a_template_reaches_nothing_but_the_conversation(tokenizer: Tokenizer, source: str) -> None:
    with pytest.raises(InputError, match="chat template"):
        render(tokenizer, source)


@pytest.mark.parametrize("source", ["{{ strftime_now.__code__ }}", "{{ '{0.__class__}'.format(messages) }}", "{{ self.__init__ }}"])
def test_what_is_hidden_from_a_template_is_nothing_to_it(tokenizer: Tokenizer, source: str) -> None:
    assert render(tokenizer, source) == ""


@pytest.mark.parametrize("content", ["{{ 7 * 7 }}", "{% raw %}", "{# note #}", "{{ messages }}", "${7*7}"])
def test_a_message_is_never_a_template(tokenizer: Tokenizer, content: str) -> None:
    assert render(tokenizer, "{{ messages[0].content }}", content) == content


def test_what_templates_of_models_use(tokenizer: Tokenizer) -> None:
    source = (
        "{% for message in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{% generation %}{{ message.content | trim }}"
        "{% endgeneration %}{% endfor %}{{ {'ü': 1} | tojson }}{{ strftime_now('%Y') | length }}"
    )
    assert render(tokenizer, source, " hi ") == 'hi{"ü": 1}4'


def test_only_the_template_writes_special_tokens(tokenizer: Tokenizer) -> None:
    ids = template(tokenizer, "<|im_start|>{{ messages[0].content }}").encode([{"role": "user", "content": "<|im_start|><|im_end|>"}], None)
    assert ids == [tokenizer.special_tokens["<|im_start|>"], *tokenizer.encode("<|im_start|><|im_end|>")]


def accepted(mask: GrammarMask, tokenizer: Tokenizer, text: str) -> bool:
    """Whether a grammar lets a whole text through, and the end behind it."""
    mask = mask.fork()
    for identifier in tokenizer.encode(text):
        if not mask.mask()[identifier]:
            return False
        mask.accept(identifier)
    return bool(mask.mask()[tokenizer.end_of_document])


def drawn(mask: GrammarMask, tokenizer: Tokenizer, seed: int, most: int = 400) -> str | None:
    """A text that a model without any idea draws, None if it does not end in time. Short tokens that end things are made likelier."""
    random, ids = np.random.default_rng(seed), []
    for _ in range(most):
        allowed = np.flatnonzero(mask.mask())
        if tokenizer.end_of_document in allowed and random.random() < 0.5:
            return tokenizer.decode(ids)
        closing = [identifier for identifier in allowed if tokenizer.token_bytes(int(identifier))[:1] in (b'"', b"]", b"}")]
        ids.append(int(random.choice(closing if closing and random.random() < 0.5 else allowed)))
        if ids[-1] == tokenizer.end_of_document:
            return tokenizer.decode(ids[:-1])
        mask.accept(ids[-1])
    return None


def test_a_grammar_that_is_complete_ends_and_a_fork_goes_its_own_way(grammars: Grammars, tokenizer: Tokenizer) -> None:
    mask = grammars.compile(regex("ab|ac"))
    mask.accept(tokenizer.encode("a")[0])
    other = mask.fork()
    mask.accept(tokenizer.encode("b")[0])
    assert np.flatnonzero(mask.mask()).tolist() == [tokenizer.end_of_document]
    assert set(np.flatnonzero(other.mask())) >= {tokenizer.encode("b")[0], tokenizer.encode("c")[0]}


SCHEMAS: list[dict[str, Any]] = [
    {"type": "boolean"},
    {"type": "null"},
    {"const": {"a": [1, None]}},
    {"enum": ["ü", 3, None, [1]]},
    {"type": "integer", "minimum": -5, "maximum": 17},
    {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 2},
    {"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 100},
    {"type": "string", "maxLength": 4},
    {"type": "string", "minLength": 2, "maxLength": 5},
    {"type": "string", "pattern": "^[a-f]{2,4}$"},
    {"type": "string", "format": "date"},
    {"type": "string", "format": "uuid"},
    {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
    {"type": "array", "prefixItems": [{"type": "null"}, {"type": "boolean"}], "items": False, "minItems": 2},
    {"type": "object", "properties": {"a": {"type": "boolean"}, "b": {"enum": [1]}}, "required": ["b"], "additionalProperties": False},
    {"type": "object", "patternProperties": {"^x": {"type": "null"}}, "additionalProperties": False, "maxProperties": 2},
    {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
    {"oneOf": [{"const": 1}, {"const": "a"}]},
    {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 9}]},
    {"type": ["boolean", "null"]},
    {"$defs": {"leaf": {"enum": [1, 2]}}, "type": "array", "items": {"$ref": "#/$defs/leaf"}, "maxItems": 3},
    {"$defs": {"node": {"type": ["null", "array"], "items": {"$ref": "#/$defs/node"}, "maxItems": 1}}, "$ref": "#/$defs/node"},
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: json.dumps(schema)[:60])
def test_what_is_drawn_under_a_schema_is_valid(grammars: Grammars, tokenizer: Tokenizer, schema: dict[str, Any]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    mask, ended = grammars.compile(json_schema(schema)), 0
    for seed in range(5):
        text = drawn(mask.fork(), tokenizer, seed)
        if text is not None:
            jsonschema.validate(json.loads(text), schema)
            ended += 1
    assert ended


@pytest.mark.parametrize("grammar", ["start: foo", "start: /[/", "nothing", regex("(?=a)b"), regex("[")])
def test_a_grammar_that_is_none_is_said_in_one_line(grammars: Grammars, grammar: str) -> None:
    with pytest.raises(InputError) as caught:
        grammars.compile(grammar)
    assert "\n" not in str(caught.value)


def test_a_vocabulary_of_characters_can_be_constrained() -> None:
    tokenizer = Tokenizer({bytes([byte]): index for index, byte in enumerate(b"ab01")}, {"<end>": 4})
    assert accepted(Grammars(tokenizer, 4).compile(regex("(ab|01)+")), tokenizer, "ab01ab")


F = Function("f", "", {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False})
G = Function("g", "", {"type": "object", "properties": {}, "additionalProperties": False})
CALL_F = '<tool_call>\n{"name": "f", "arguments": {"a": "}\\n</tool_call>"}}\n</tool_call>'
CALL_G = '<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>'


@pytest.mark.parametrize(
    ("forced", "several", "content", "yes", "no"),
    [
        (True, True, None, [CALL_F, CALL_G, f"{CALL_F}\n{CALL_G}"], ["", "text", f"text {CALL_F}", CALL_F[:-1], f"{CALL_F}{CALL_G}"]),
        (True, False, None, [CALL_F, CALL_G], [f"{CALL_F}\n{CALL_G}", "text"]),
        (
            False,
            True,
            None,
            ["", "text", CALL_F, f"text\n{CALL_F}\n{CALL_G}"],
            ["<tool_call>", '<tool_call>\n{"name": "h"', f"{CALL_F} text"],
        ),
        (False, False, None, ["text", f"text {CALL_G}"], [f"{CALL_F}\n{CALL_G}"]),
        (False, True, '%json {"type": "null"}', ["null", CALL_F], ["text", f"null{CALL_F}"]),
    ],
)
def test_calls_follow_their_grammar(
    grammars: Grammars, tokenizer: Tokenizer, forced: bool, several: bool, content: str | None, yes: list[str], no: list[str]
) -> None:
    mask = grammars.compile(calls_grammar([F, G], forced, several, content))
    assert [text for text in yes if not accepted(mask, tokenizer, text)] == []
    assert [text for text in no if accepted(mask, tokenizer, text)] == []


def gathered(events: list[Said | Called | Argued]) -> list[str]:
    """Text, and calls as "name(arguments)"."""
    found: list[str] = []
    last: type | None = None
    for event in events:
        match event:
            case Said():
                found += [event.text] if last is not Said else [found.pop() + event.text]
            case Called():
                found.append(f"{event.name}(")
            case Argued():
                found[-1] += event.text
        last = type(event)
    return found


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_calls_are_found_however_the_text_is_cut(data: st.DataObject) -> None:
    pieces = data.draw(st.lists(st.sampled_from([CALL_F, CALL_G]), max_size=3))
    said = data.draw(st.text(alphabet="<tol_ca>{} \nx", max_size=12)).replace("<tool_call>", "").strip()
    text = "\n".join([*([said] if said else []), *pieces])
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    reader, events = CallReader(), []
    for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        events += reader.push(text[begin:end])
    events += reader.finish()
    calls = ['f({"a": "}\\n</tool_call>"}' if piece is CALL_F else "g({}" for piece in pieces]
    assert gathered(events) == [*([said] if said else []), *calls]


def test_a_tag_inside_of_json_is_text() -> None:
    reader = CallReader(after_text=False)
    content = '{"a": "<tool_call>"}'
    assert gathered([event for character in content for event in reader.push(character)] + reader.finish()) == [content]
    calling = CallReader(after_text=False)
    events = [event for character in f"{CALL_G}\n{CALL_G}" for event in calling.push(character)]
    assert gathered(events + calling.finish()) == ["g({}", "g({}"]


def test_a_call_that_is_cut_keeps_what_it_has() -> None:
    reader = CallReader()
    events = [*reader.push('hm <tool_call>\n{"name": "f", "arguments": {"a": 1}'), *reader.finish()]
    assert gathered(events) == ["hm ", 'f({"a": 1}']
    cut = CallReader()
    assert [*cut.push('<tool_call>\n{"name": "f", "argu'), *cut.finish()] == []


def test_fill_in_marks_are_found_or_said(tokenizer: Tokenizer) -> None:
    found = fill_in_of(tokenizer, None)
    special = tokenizer.special_tokens
    assert found is not None and found.prompt([1], [2]) == [
        special["<|fim_prefix|>"],
        1,
        special["<|fim_suffix|>"],
        2,
        special["<|fim_middle|>"],
    ]
    assert found.file == (special["<|file_sep|>"],)
    plain = tokenizer_of(300)
    assert fill_in_of(plain, None) is None
    said = fill_in_of(plain, {"prefix": "<P>", "suffix": "<S>", "middle": "<M>"})
    assert said is not None and plain.decode(said.prompt(plain.encode("a"), plain.encode("b"))) == "<P>a<S>b<M>"


@pytest.mark.parametrize("content", ["{", "[]", '{"chat_template": "{% if"}', '{"fim": {"prefix": "a"}}', '{"chat_template": [1]}'])
def test_a_broken_tokenizer_configuration_is_one_line(tmp_path: Path, tokenizer: Tokenizer, content: str) -> None:
    (tmp_path / "tokenizer_config.json").write_text(content)
    engine = Engine(random_model(tokenizer.vocab_size))
    with pytest.raises(InputError) as caught:
        describe("x", tmp_path, engine, tokenizer)
    engine.close()
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_template_beside_the_weights_comes_first(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "chat_template.jinja").write_text("beside")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "inside", "eos_token": {"content": SPECIAL[2]}}))
    first = tokenizer.special_tokens[SPECIAL[0]]
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [tokenizer.special_tokens[SPECIAL[2]], first]}))
    engine = Engine(random_model(tokenizer.vocab_size))
    served = describe("x", tmp_path, engine, tokenizer)
    engine.close()
    assert tokenizer.decode(served.chat.encode([], None)) == "beside"
    assert served.end == tokenizer.special_tokens[SPECIAL[2]] and served.turn_stops == (SPECIAL[0],)
