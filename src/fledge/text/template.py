"""Chat templates: messages → ids, and a mask of what the assistant said.

Templates are Jinja2 as `transformers` writes them, in a sandbox, with its `{% generation %}` … `{% endgeneration %}`
around the assistant's words. Only the template can make special tokens: in a message they stay text (transformers
would parse them). The text on either side of a generation mark is encoded apart, so that the ids of a training
conversation are those of the inference prompt followed by those of the completion; `transformers` merges across the
mark, which makes a difference only where an answer begins with a line break. Tools and documents are left out.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from fledge.core.errors import FledgeError, one_line
from fledge.core.nouns import Message
from fledge.text import sandbox
from fledge.text.renderer import CLOSE, OPEN, rendered
from fledge.text.tokenizer import Tokenizer, named, own_template

# A noncharacter of Unicode, like OPEN and CLOSE: it never comes out of the rendering; in a message it is escaped.
ESCAPE = "\ufdd0"
ESCAPES = {ESCAPE: ESCAPE + "0", OPEN: ESCAPE + "1", CLOSE: ESCAPE + "2"}
SAID = 300  # characters quoted of what a template says
BREAK = ESCAPE + "3"  # put inside what spells a special token


class Rendered(NamedTuple):
    """`ids` [T] and `mask` [T]: whether the assistant said that token (its end of turn included)."""

    ids: list[int]
    mask: list[bool]


def render(tokenizer: Tokenizer, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> Rendered:
    """The ids and the mask of a conversation; the mask is all False if the template has no generation marks."""
    ids: list[int] = []
    mask: list[bool] = []
    said = False
    for part in parts(tokenizer, marked(tokenizer, messages, add_generation_prompt)):
        if part in (OPEN, CLOSE):
            said = part == OPEN
            continue
        special = tokenizer.special.get(part)
        new = tokenizer.encode(restore(part)) if special is None else [special]
        ids += new
        mask += [said] * len(new)
    return Rendered(ids, mask)


def render_text(tokenizer: Tokenizer, messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
    """The text of a conversation, special tokens spelt out."""
    text = marked(tokenizer, messages, add_generation_prompt)
    return restore(text.replace(OPEN, "").replace(CLOSE, ""))


def marks_assistant(tokenizer: Tokenizer) -> bool:
    """Whether the template says what the assistant's words are; without that nothing can be supervised."""
    return re.search(r"\{%-?\+?\s*generation\s*[-+]?%\}", tokenizer.chat_template) is not None


def marked(tokenizer: Tokenizer, messages: Sequence[Message], add_generation_prompt: bool) -> str:
    """The rendered text, with generation marks, and with escapes in what came from the messages."""
    if not tokenizer.chat_template:
        raise FledgeError("the tokenizer has no chat template", "put a chat_template.jinja beside its tokenizer.json")
    escaped = [{"role": message.role, "content": escape(tokenizer, message.content)} for message in messages]
    names = {
        key: named(tokenizer.config[key])
        for key in ("bos_token", "eos_token", "pad_token", "unk_token")
        if tokenizer.config.get(key)
    }
    values = {"messages": escaped, "tools": None, "documents": None, "add_generation_prompt": add_generation_prompt}
    run = rendered if tokenizer.chat_template == own_template() else sandbox.render
    answer = run(tokenizer.chat_template, values | names)
    if "text" in answer:
        text: str = answer["text"]
        return text
    if "syntax" in answer:
        raise FledgeError(
            f"the chat template is not valid Jinja: {one_line(answer['syntax'], SAID)}",
            "mend chat_template.jinja beside tokenizer.json",
        )
    roles = ", ".join(message.role for message in messages[:20]) or "none"
    raise FledgeError(
        f"the chat template refuses this conversation (turns: {roles}): {one_line(answer.get('refused', ''), SAID)}",
        "change the conversation, or the chat_template.jinja beside tokenizer.json",
    )


def escape(tokenizer: Tokenizer, content: str) -> str:
    """The content with our marks escaped and every special token broken."""
    if ESCAPE in content or OPEN in content or CLOSE in content:
        content = "".join(ESCAPES.get(character, character) for character in content)
    if tokenizer.special:
        content = special_pattern(tuple(tokenizer.special)).sub(
            lambda match: match[0][0] + BREAK + match[0][1:], content
        )
    return content


def restore(text: str) -> str:
    """Undoes `escape`."""
    if ESCAPE not in text:
        return text
    back = {"0": ESCAPE, "1": OPEN, "2": CLOSE, "3": ""}
    return re.sub(ESCAPE + "([0-3])", lambda match: back[match[1]], text)


def parts(tokenizer: Tokenizer, text: str) -> list[str]:
    """The text cut at special tokens and marks, which are parts of their own."""
    pattern = special_pattern((*tokenizer.special, OPEN, CLOSE))
    return [part for part in pattern.split(text) if part]


@lru_cache
def special_pattern(tokens: tuple[str, ...]) -> re.Pattern[str]:
    """Matches any of the tokens, the longest first."""
    return re.compile("(" + "|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) + ")")
