"""How much a tokenizer.json may blow a text up: one from a stranger can ask for a text of any length.

Sixty replacements of "a" by "aa" make 2⁶⁰ characters of one. Real tokenizers replace a blank by one character, or put
one in front; Unicode's normal forms and SentencePiece's tables are bounded by themselves.
"""

from collections.abc import Iterator
from typing import Any

from fledge.core.errors import FledgeError

MOST = 64.0  # times as long
PREFIX = 64  # characters


def check_growth(spec: dict[str, Any]) -> None:
    """Refuses a tokenizer.json whose normaliser or decoder would make texts more than MOST times longer."""
    for name in ("normalizer", "decoder"):
        growth = 1.0
        for part in steps(spec.get(name)):
            growth *= growth_of(part)
        if growth > MOST:
            raise FledgeError(
                f"the {name} of its tokenizer.json makes a text {growth:.3g} times as long",
                "no honest tokenizer does that: do not use this one",
            )


def steps(part: Any) -> Iterator[dict[str, Any]]:
    """The steps of a (possibly nested) sequence."""
    if not isinstance(part, dict):
        return
    yield part
    for key in ("normalizers", "decoders"):
        inner = part.get(key)
        for each in inner if isinstance(inner, list) else ():
            yield from steps(each)


def growth_of(part: dict[str, Any]) -> float:
    """How many times as long one step can make a text."""
    content, pattern = part.get("content"), part.get("pattern")
    if part.get("type") == "Replace" and isinstance(content, str):
        replaced = pattern.get("String") if isinstance(pattern, dict) else None
        return max(1.0, len(content.encode("utf-8", "replace")) / max(1, len(str(replaced or ""))))
    before = part.get("prepend")
    return len(before) if isinstance(before, str) and len(before) > PREFIX else 1.0
