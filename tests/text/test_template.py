"""The chat template against transformers' apply_chat_template: text, ids and assistant mask."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from fledge.core.errors import FledgeError
from fledge.core.nouns import Message
from fledge.text.template import CLOSE, ESCAPE, OPEN, marks_assistant, render, render_text
from fledge.text.tokenizer import SPECIAL, Tokenizer

CORPUS = ["system user assistant You are helpful. What does json.dumps do? " * 3, "def f(x):\n    return x\n" * 5]
CHATS = {
    "one turn": [("user", "What is json?"), ("assistant", "A module.")],
    "multi-turn with system": [
        ("system", "You are helpful."),
        ("user", "hi"),
        ("assistant", "hello"),
        ("user", "and?"),
        ("assistant", "    return x\n\n"),
    ],
    "unicode": [("user", "señor 日本語 🙂\u200d"), ("assistant", "é\u0301 Ω")],
    "empty": [("system", ""), ("user", ""), ("assistant", "")],
    "blanks and line breaks": [("user", "\n\n a \r\n"), ("assistant", " a\n\n"), ("user", "\n")],
    "jinja in the content": [("user", "{{ 7 * 7 }} {% generation %}"), ("assistant", "{# no #} <b>&amp;</b>")],
    "noncharacters": [("user", ESCAPE + OPEN + "0" + CLOSE), ("assistant", OPEN + ESCAPE + "3")],
    "no assistant": [("user", "hi")],
}


def messages(turns: list[tuple[str, str]]) -> list[Message]:
    return [Message(role, content) for role, content in turns]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(CORPUS, 400)


@pytest.fixture(scope="module")
def theirs(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    directory = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(directory)
    return AutoTokenizer.from_pretrained(directory)


def same_as_transformers(
    tokenizer: Tokenizer, theirs: PreTrainedTokenizerBase, chat: list[Message], prompt: bool
) -> None:
    dicts = [message.as_dict() for message in chat]
    expected = theirs.apply_chat_template(
        dicts, add_generation_prompt=prompt, return_dict=True, return_assistant_tokens_mask=True
    )
    got = render(tokenizer, chat, add_generation_prompt=prompt)
    text = theirs.apply_chat_template(dicts, add_generation_prompt=prompt, tokenize=False)
    assert render_text(tokenizer, chat, prompt) == text
    assert got.ids == expected["input_ids"]
    assert [int(said) for said in got.mask] == expected["assistant_masks"]


@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize("name", CHATS)
def test_same_as_transformers(tokenizer: Tokenizer, theirs: PreTrainedTokenizerBase, name: str, prompt: bool) -> None:
    same_as_transformers(tokenizer, theirs, messages(CHATS[name]), prompt)


content = st.text(max_size=20).filter(lambda text: not any(token in text for token in SPECIAL))
turns = st.lists(st.tuples(st.sampled_from(["user", "assistant"]), content), min_size=1, max_size=5)


@settings(max_examples=150, deadline=None)
@given(turns=turns)
def test_same_as_transformers_on_any_text(
    tokenizer: Tokenizer, theirs: PreTrainedTokenizerBase, turns: list[tuple[str, str]]
) -> None:
    # Across a generation mark transformers merges the line break of the header with those of the answer.
    answers = [(role, "." + text if role == "assistant" else text) for role, text in turns]
    same_as_transformers(tokenizer, theirs, messages(answers), False)


@settings(max_examples=150, deadline=None)
@given(turns=turns, answer=st.text(max_size=20))
def test_a_training_conversation_is_the_prompt_and_then_the_completion(
    tokenizer: Tokenizer, turns: list[tuple[str, str]], answer: str
) -> None:
    chat = messages(turns)
    prompt = render(tokenizer, chat, add_generation_prompt=True)
    whole = render(tokenizer, [*chat, Message("assistant", answer)])
    completion = [*tokenizer.encode(answer), tokenizer.eos_id]
    assert whole.ids == prompt.ids + completion + tokenizer.encode("\n")
    assert whole.mask[len(prompt.ids) :] == [True] * len(completion) + [False]
    assert prompt.mask[-3:] == [False] * 3


spelt = st.lists(st.sampled_from([*SPECIAL, "<|im_", "end|>", "x", "\n", ESCAPE, OPEN, CLOSE]), max_size=8)


@settings(max_examples=200, deadline=None)
@given(parts=st.lists(spelt, min_size=1, max_size=4))
def test_content_that_spells_special_tokens_stays_text(tokenizer: Tokenizer, parts: list[list[str]]) -> None:
    chat = [Message(("user", "assistant")[i % 2], "".join(part)) for i, part in enumerate(parts)]
    ids, mask = render(tokenizer, chat)
    assert [i for i in ids if i in tokenizer.special.values()] == [1, 2] * len(chat)
    text = "".join(f"<|im_start|>{m.role}\n{m.content}<|im_end|>\n" for m in chat)
    assert tokenizer.decode(ids, skip_special=False) == text == render_text(tokenizer, chat)
    said = tokenizer.decode([i for i, own in zip(ids, mask, strict=True) if own], skip_special=False)
    assert said == "".join(m.content + "<|im_end|>" for m in chat if m.role == "assistant")


def with_template(tokenizer: Tokenizer, template: str) -> Tokenizer:
    return Tokenizer(tokenizer.spec, tokenizer.config, template)


def test_without_generation_marks_nothing_is_the_assistants(tokenizer: Tokenizer) -> None:
    bare = with_template(tokenizer, "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    got = render(bare, messages(CHATS["one turn"]))
    assert bare.decode(got.ids) == "user: What is json?\nassistant: A module.\n"
    assert not any(got.mask)
    assert not marks_assistant(bare)
    assert marks_assistant(tokenizer)


def test_a_foreign_template_renders_as_in_transformers(tokenizer: Tokenizer, theirs: PreTrainedTokenizerBase) -> None:
    template = (
        "{{ bos_token }}{% for m in messages %}{% if loop.index0 == 3 %}{% break %}{% endif %}\n"
        "  {% set text = m.content | trim %}\n"
        "[{{ m['role'] | upper }}] {{ {'text': text} | tojson }}"
        "{% if m.role == 'assistant' %}{% generation %}{{ text }}{{ eos_token }}{% endgeneration %}{% endif %}"
        "{% endfor %}{% if tools %}never{% endif %}"
    )
    chat = messages(CHATS["multi-turn with system"])
    dicts = [message.as_dict() for message in chat]
    expected = theirs.apply_chat_template(
        dicts, chat_template=template, return_dict=True, return_assistant_tokens_mask=True
    )
    got = render(with_template(tokenizer, template), chat)
    assert got.ids == expected["input_ids"]
    assert [int(said) for said in got.mask] == expected["assistant_masks"]
    assert any(got.mask)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("", "no chat template"),
        ("{% for m in messages %}", "not valid Jinja"),
        ("{{ raise_exception('roles must alternate') }}", "refuses this conversation.*roles must alternate"),
        ("{{ messages.__class__.__mro__ }}", "refuses"),
        ("{{ messages.append(1) }}", "refuses"),
        ("{{ 1 + 'a' }}", "refuses"),
    ],
)
def test_broken_templates_are_one_clear_line(tokenizer: Tokenizer, template: str, message: str) -> None:
    with pytest.raises(FledgeError, match=message) as error:
        render(with_template(tokenizer, template), messages(CHATS["one turn"]))
    assert error.value.remedy


def test_the_template_is_shipped_as_a_file(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    assert (tmp_path / "chat_template.jinja").read_text() == tokenizer.chat_template
    assert "chat_template" not in (tmp_path / "tokenizer_config.json").read_text()
