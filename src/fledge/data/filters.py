"""Why a document is not worth learning from: rules of C4 (arXiv:1910.10683), Gopher (arXiv:2112.11446) and FineWeb
(arXiv:2406.17557), adapted by kind.

Prose, web prose and source code are held to different rules: a curly brace speaks against a web page, not against
code or its documentation. Left out: lists of bad words, and C4's editing of lines (a document is kept or dropped as a
whole). Statistics of a very long document are taken from its beginning.
"""

import re
from collections import Counter
from collections.abc import Callable

import py3langid

from fledge.core.config import Config

SAMPLE = 200_000  # characters
LONG = 50  # words from which on n-gram statistics say something
TERMINAL = (".", "!", "?", ":", ";", '"', "'", ")", "]", "”", "’", "…", "。", "！", "？")


class FilterConfig(Config):
    """The thresholds. A rule is switched off by a threshold that no document can miss."""

    min_words: int = 8
    min_mean_word: float = 2.5  # characters
    max_mean_word: float = 12.0
    max_symbols: float = 0.1  # "#" and "…" per word
    min_alphabetic: float = 0.6  # share of words with a letter in them
    min_terminal: float = 0.12  # share of paragraphs (of a web page: lines) that end in punctuation
    max_repeated_lines: float = 0.3  # share of characters in lines that came before
    max_repeated_ngrams: tuple[float, float, float] = (0.20, 0.18, 0.16)  # … in the most frequent 2-, 3-, 4-gram
    max_line: int = 1000  # of code, in characters
    max_mean_line: float = 100.0
    min_letters: float = 0.25  # share of a code's characters that are letters
    language: str | None = None  # keep only prose in this language, e.g. "en"
    code_kinds: tuple[str, ...] = ("code",)
    web_kinds: tuple[str, ...] = ("web", "html")


Rule = Callable[["Text", FilterConfig], bool]


class Text:
    """A document's text with the statistics that several rules share."""

    def __init__(self, text: str, kind: str) -> None:
        self.text, self.kind = text[:SAMPLE], kind
        self.words = self.text.split()
        self.lines = [line.strip() for line in self.text.splitlines() if line.strip()]

    @property
    def paragraphs(self) -> list[str]:
        return [part.strip() for part in re.split(r"\n\s*\n", self.text) if part.strip()]


def too_short(t: Text, c: FilterConfig) -> bool:
    """Fewer words than a thought needs."""
    return len(t.words) < c.min_words


def odd_words(t: Text, c: FilterConfig) -> bool:
    """Gopher: the mean word is too short or too long to be language."""
    mean = sum(map(len, t.words)) / max(1, len(t.words))
    return not c.min_mean_word <= mean <= c.max_mean_word


def many_symbols(t: Text, c: FilterConfig) -> bool:
    """Gopher: hash signs and ellipses per word."""
    return (t.text.count("#") + t.text.count("…") + t.text.count("...")) > c.max_symbols * max(1, len(t.words))


def few_letters(t: Text, c: FilterConfig) -> bool:
    """Gopher: too many words without a letter."""
    alphabetic = sum(any(map(str.isalpha, word)) for word in t.words)
    return alphabetic < c.min_alphabetic * len(t.words)


def no_sentences(t: Text, c: FilterConfig) -> bool:
    """FineWeb, after C4: too few lines (in prose: paragraphs) end in punctuation."""
    units = t.lines if t.kind in c.web_kinds else t.paragraphs
    return sum(unit.endswith(TERMINAL) for unit in units) < c.min_terminal * len(units)


def placeholder(t: Text, c: FilterConfig) -> bool:
    """C4: a page of filler."""
    return "lorem ipsum" in t.text.lower()


def boilerplate(t: Text, c: FilterConfig) -> bool:
    """C4: a script or a notice where text should be."""
    lower = t.text.lower()
    return "{" in lower or "enable javascript" in lower or "javascript is disabled" in lower


def repeated_lines(t: Text, c: FilterConfig) -> bool:
    """Gopher: too much of the text stands in lines that came before."""
    seen: Counter[str] = Counter(t.lines)
    repeated = sum(len(line) * (count - 1) for line, count in seen.items())
    return repeated > c.max_repeated_lines * max(1, sum(map(len, t.lines)))


def repeated_ngrams(t: Text, c: FilterConfig) -> bool:
    """Gopher: one phrase makes up too much of a long text."""
    if len(t.words) < LONG:
        return False
    total = sum(map(len, t.words))
    for n, most in zip((2, 3, 4), c.max_repeated_ngrams):
        (gram, count), *_ = Counter(zip(*(t.words[i:] for i in range(n)))).most_common(1)
        if count > 1 and count * sum(map(len, gram)) > most * total:
            return True
    return False


def long_lines(t: Text, c: FilterConfig) -> bool:
    """Codex (arXiv:2107.03374): lines as generators and minifiers write them."""
    lengths = [len(line) for line in t.lines]
    return max(lengths, default=0) > c.max_line or sum(lengths) > c.max_mean_line * max(1, len(lengths))


def data_not_code(t: Text, c: FilterConfig) -> bool:
    """Codex: tables of numbers rather than a program."""
    return sum(map(str.isalpha, t.text)) < c.min_letters * max(1, len(t.text))


def other_language(t: Text, c: FilterConfig) -> bool:
    """Not in the wanted language, by py3langid."""
    return c.language is not None and py3langid.classify(t.text)[0] != c.language


# In the order in which they are tried; what each means is what the table of a curation says.
ANY: dict[str, Rule] = {"too few words": too_short, "placeholder text (lorem ipsum)": placeholder}
CODE: dict[str, Rule] = {
    **ANY,
    "generated or minified (overlong lines)": long_lines,
    "data rather than code (few letters)": data_not_code,
}
PROSE: dict[str, Rule] = {
    **ANY,
    "words too short or too long on average": odd_words,
    "too many symbols": many_symbols,
    "too few words with letters": few_letters,
    "hardly a sentence (no final punctuation)": no_sentences,
    "repeated lines": repeated_lines,
    "repeated phrases": repeated_ngrams,
    "another language": other_language,
}
WEB: dict[str, Rule] = {**PROSE, "web boilerplate (curly braces, JavaScript)": boilerplate}
REASONS = tuple(dict.fromkeys([*WEB, *CODE]))


def reason_to_drop(text: str, kind: str, config: FilterConfig) -> str:
    """The first rule that a document of this kind breaks, in words; "" if it breaks none."""
    rules = CODE if kind in config.code_kinds else WEB if kind in config.web_kinds else PROSE
    facts = Text(text, kind)
    return next((reason for reason, broken in rules.items() if broken(facts, config)), "")
