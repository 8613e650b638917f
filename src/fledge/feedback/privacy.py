"""Private data in chats, masked before others see it: addresses, telephone, card and account numbers, names.

Patterns, not a model: they find what has a form. A name is known only where it is said to be one ("my name is …").
What looks like a number of a card or an account must also pass its check digits (ISO 7812, ISO 13616), so that
arithmetic and long identifiers stay as they are.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

EMAIL = re.compile(r"[\w.+%-]+@[\w-]+(?:\.[\w-]+)+")
CARD = re.compile(r"(?<![\w.])\d(?:[ -]?\d){11,18}(?![\w])")
ACCOUNT = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
TELEPHONE = re.compile(
    r"(?<![\w.:/-])(?:\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ ./-]?\d{2,5}){1,5}"  # +49 30 123456
    r"|\(\d{2,5}\)[ -]?\d{3,4}[ -]?\d{3,5}"  # (030) 123 4567
    r"|0\d{1,4}[ /-]\d{3,5}(?:[ -]?\d{2,5}){0,3}|0\d{9,11}"  # 030 123456, 01701234567
    r"|\d{3}[ .-]\d{3}[ .-]\d{4}"  # 555-123-4567
    r"|\d{3}-\d{4})(?![\w-])"  # 555-1234
)
CAPITAL = r"[A-ZÀ-ÖØ-Þ]"
LETTER = r"[\wÀ-ÿ'’-]"
FULL = rf"{CAPITAL}{LETTER}*(?:\s+(?:(?:van|von|de|der|den|la|bin|al)\s+)*{CAPITAL}{LETTER}*){{0,3}}"
MY = r"my (?:full |first |last )?name(?: is|['’]s)"
NAME = re.compile(
    rf"\b((?i:{MY}|i am called|call me))(\s+)({FULL})"
    rf"|\b((?i:{MY}))(\s+)(?!(?:not|the|on|in|a|an|very)\b)([a-zà-ÿ]{LETTER}+)"
)


def masked(words: str) -> str:
    """A text with private data replaced by what it was: [e-mail], [card number], [account], [telephone], [name]."""
    words = EMAIL.sub("[e-mail]", words)
    words = ACCOUNT.sub(replaced(is_account, "[account]"), words)
    words = CARD.sub(replaced(is_card, "[card number]"), words)
    words = TELEPHONE.sub(replaced(is_telephone, "[telephone]"), words)
    names = {found.group(3) for found in NAME.finditer(words)} - {None}
    words = NAME.sub(lambda found: "".join(filter(None, found.group(1, 2, 4, 5))) + "[name]", words)
    for name in sorted(names, key=len, reverse=True):  # the name again, further on
        words = re.sub(rf"\b{re.escape(name)}\b", "[name]", words)
    return words


def hidden(turns: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The turns of a conversation, masked."""
    return [{"role": str(turn["role"]), "content": masked(str(turn["content"]))} for turn in turns]


def replaced(is_one: Callable[[str], bool], sign: str) -> Callable[[re.Match[str]], str]:
    """What `re.sub` puts in place of a match: the sign, if it is one."""
    return lambda found: sign if is_one(found.group()) else found.group()


def is_telephone(words: str) -> bool:
    """Whether there are digits enough for a telephone number: not 01/2000."""
    return sum(sign.isdigit() for sign in words) >= 7


def is_card(words: str) -> bool:
    """Whether digits pass the check of ISO 7812 (Luhn)."""
    digits = [int(digit) for digit in words if digit.isdigit()]
    doubled = [digit if i % 2 == 0 else sum(divmod(2 * digit, 10)) for i, digit in enumerate(reversed(digits))]
    return len(set(digits)) > 1 and sum(doubled) % 10 == 0


def is_account(words: str) -> bool:
    """Whether letters and digits pass the check of ISO 13616 (IBAN)."""
    plain = words.replace(" ", "")
    return 15 <= len(plain) <= 34 and int("".join(str(int(sign, 36)) for sign in plain[4:] + plain[:4])) % 97 == 1
