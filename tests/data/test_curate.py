"""Curation: every document accounted for, each rule at its boundary, near-duplicates against brute force."""

import random
import re
import subprocess
import sys

import pytest

from fledge.core.errors import FledgeError
from fledge.core.nouns import Document
from fledge.data.curate import FEW, CurateConfig, curate, exact_duplicates, near_duplicates, place
from fledge.data.filters import REASONS, FilterConfig, reason_to_drop

WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in "nrslt"]
GOOD = "This is a sentence with enough ordinary words in it to be worth reading."


def prose(rng: random.Random, words: int = 120) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(words)) + "."


def document(text: str, number: int = 0, kind: str = "prose") -> Document:
    return Document(text, f"file{number}.txt", kind)


@pytest.mark.parametrize(
    ("text", "kind", "reason"),
    [
        (GOOD, "prose", ""),
        ("Seven words are one word too few.", "prose", "too few words"),
        ("But eight words are enough to be kept.", "prose", ""),
        (f"{GOOD} Lorem ipsum dolor sit amet.", "prose", "placeholder text (lorem ipsum)"),
        ("a b c d e f g h i j.", "prose", "words too short or too long on average"),
        ("incomprehensibilities " * 9 + ".", "prose", "words too short or too long on average"),
        ("# one two # three four # five six seven eight.", "prose", "too many symbols"),
        ("12.5 13.5 14.5 15.5 16.5 five six seven 17.5 18.5.", "prose", "too few words with letters"),
        (GOOD.rstrip("."), "prose", "hardly a sentence (no final punctuation)"),
        ("Home\n\nNews\n\nAbout us\n\nContact\n\n" + GOOD, "prose", ""),
        (
            "Home\nNews\nAbout\nContact\nShop\nCart\nBlog\nJobs\n" + GOOD,
            "web",
            "hardly a sentence (no final punctuation)",
        ),
        (f"{GOOD}\n{GOOD}\n{GOOD}", "prose", "repeated lines"),
        (f"{GOOD} It has {{braces}}.", "prose", ""),
        (f"{GOOD} It has {{braces}}.", "web", "web boilerplate (curly braces, JavaScript)"),
        (f"{GOOD} Please enable JavaScript now.", "web", "web boilerplate (curly braces, JavaScript)"),
        ("value = other + 1\n" * 20, "code", ""),
        ("x = [" + "abc, " * 300 + "]\ny = 1 2 3 4 5 6 7 8", "code", "generated or minified (overlong lines)"),
        ("0, 1, 2, 3, 4, 5, 6, 7, 8, 9,\n" * 9, "code", "data rather than code (few letters)"),
    ],
)
def test_rules(text: str, kind: str, reason: str) -> None:
    assert reason_to_drop(text, kind, FilterConfig()) == reason


def test_repeated_phrases_only_count_in_long_texts() -> None:
    rng = random.Random(0)
    text = " ".join("buy it now" if i % 3 == 0 else rng.choice(WORDS) for i in range(90)) + "."
    assert reason_to_drop(text, "prose", FilterConfig()) == "repeated phrases"
    assert reason_to_drop(prose(rng, 90), "prose", FilterConfig()) == ""
    assert reason_to_drop("Well, this here, this here, this here, this here.", "prose", FilterConfig()) == ""


def test_language() -> None:
    german = "Das ist ein deutscher Satz, und er ist lang genug, um seine Sprache zu erkennen."
    assert reason_to_drop(german, "prose", FilterConfig()) == ""
    assert reason_to_drop(german, "prose", FilterConfig(language="en")) == "another language"
    assert reason_to_drop(GOOD, "prose", FilterConfig(language="en")) == ""


def test_exact_duplicates_ignore_case_and_space() -> None:
    texts = ["One  two", "three", "one two", " ONE\ntwo ", "onetwo"]
    assert exact_duplicates(texts, [10, 11, 12, 13, 14]) == {12, 13}


def shingles(text: str, n: int = 5) -> set[tuple[str, ...]]:
    words = re.sub(r"[^\w\s]", "", text.lower()).split()
    return {tuple(words[i : i + n]) for i in range(max(1, len(words) - n + 1))}


def jaccard(a: str, b: str) -> float:
    first, second = shingles(a), shingles(b)
    return len(first & second) / len(first | second)


def test_near_duplicates_against_brute_force() -> None:
    rng = random.Random(5)
    texts: list[str] = []
    for _ in range(60):
        words = prose(rng, 200).split()
        texts.append(" ".join(words))
        for changes in (1, 2, 12):
            changed = list(words)
            for place_ in rng.sample(range(200), changes):
                changed[place_] = "changed"
            texts.append(" ".join(changed))
    ids = list(range(len(texts)))
    found = near_duplicates(texts, ids, CurateConfig())
    similar = [[jaccard(texts[a], texts[b]) for b in range(a)] for a in ids]
    sure = {a for a in ids if any(s >= 0.9 for s in similar[a])}
    possible = {a for a in ids if any(s >= 0.68 for s in similar[a])}
    assert len(sure) > 100
    assert sure <= found <= possible


def test_chains_of_near_duplicates_keep_their_first() -> None:
    rng = random.Random(2)
    words = prose(rng, 400).split()
    chain = []
    for _ in range(12):
        chain.append(" ".join(words))
        words[rng.randrange(400)] = "changed"
    assert near_duplicates(chain, list(range(12)), CurateConfig()) == set(range(1, 12))


def test_nothing_is_lost_unaccounted() -> None:
    rng = random.Random(1)
    documents = [document(prose(rng), i) for i in range(200)]
    documents += documents[:20]
    documents += [document(d.text.replace(".", " indeed."), 1000 + i) for i, d in enumerate(documents[20:40])]
    documents += [
        document("too short", 2000),
        document("lorem ipsum " * 10, 2001),
        document("1 2 3 4 5 6 7 8 9", 1, "code"),
    ]
    documents += [document("x -- fact", 3000 + i, "facts") for i in range(7)]
    rng.shuffle(documents)
    curated = curate(documents, CurateConfig(heldout_share=0.1))
    dropped = {row["step"]: row["dropped"] for row in curated.table}
    assert len(documents) == len(curated.train) + len(curated.heldout) + sum(dropped.values())
    assert list(dropped) == [*REASONS, "exact duplicate", "near duplicate"]
    assert dropped["exact duplicate"] == 20
    assert dropped["near duplicate"] == 20
    assert dropped["too few words"] == 1
    assert dropped["data rather than code (few letters)"] == 1
    kept = len(documents)
    for row in curated.table:
        kept -= row["dropped"]
        assert row["kept"] == kept
        assert bool(row["example"]) == bool(row["dropped"])
    assert sum(d.kind == "facts" for d in curated.train) == 7
    assert not any(d.kind == "facts" for d in curated.heldout)
    assert not {d.text for d in curated.train} & {d.text for d in curated.heldout}


def test_the_split_depends_on_text_and_seed_only() -> None:
    rng = random.Random(3)
    documents = [document(prose(rng), i) for i in range(400)]
    held = {d.text for d in curate(documents, CurateConfig(heldout_share=0.2)).heldout}
    again = {d.text for d in curate(documents[::-1][:300], CurateConfig(heldout_share=0.2)).heldout}
    other = {d.text for d in curate(documents, CurateConfig(heldout_share=0.2, seed=1)).heldout}
    assert 50 < len(held) < 110
    assert again == held & {d.text for d in documents[100:]}
    assert other != held
    assert all(0 <= place(text, 0) < 0.2 for text in held)


def test_there_is_always_something_held_out() -> None:
    rng = random.Random(4)
    documents = [document(prose(rng), i) for i in range(FEW + 5)]
    assert len(curate(documents, CurateConfig(heldout_share=1e-6)).heldout) == 1
    assert curate(documents, CurateConfig(heldout_share=0.0)).heldout == []


def test_few_documents_are_split_inside() -> None:
    rng = random.Random(6)
    text = "\n".join(prose(rng, 12) for _ in range(500))
    curated = curate([document(text)], CurateConfig(heldout_share=0.1))
    assert curated.train[0].text + curated.heldout[0].text == text
    assert curated.train[0].text.endswith("\n")
    assert len(curated.heldout[0].text) / len(text) == pytest.approx(0.1, abs=0.01)


def test_when_nothing_remains_it_says_why() -> None:
    with pytest.raises(FledgeError, match="nothing remains of 3 documents: 3 too few words"):
        curate([document("a b", i) for i in range(3)], CurateConfig())
    with pytest.raises(FledgeError, match="nothing remains of 0 documents"):
        curate([], CurateConfig())


def test_odd_text_is_no_obstacle() -> None:
    rng = random.Random(7)
    texts = ["", " \n ", "\x00" * 50, "é" * 5000, "漢字" * 500, "a" * 100_000, "🐍 " * 100, prose(rng), '{"a": "b"}']
    documents = [document(text, i) for i, text in enumerate(texts)]
    curated = curate(documents, CurateConfig(heldout_share=0.0))
    assert len(curated.train) + sum(row["dropped"] for row in curated.table) == len(texts)


def test_daft_reports_to_no_one_and_shows_no_bars() -> None:
    code = (
        "import socket, urllib.request\n"
        "def refuse(*a, **k): raise SystemExit('network')\n"
        "socket.create_connection = socket.getaddrinfo = urllib.request.urlopen = refuse\n"
        "from fledge.data.curate import *\n"
        "curate([Document(f'This is the document number {i} of many, and not like others. ' * 2) for i in range(30)],"
        " CurateConfig(max_repeated_lines=1))\n"
        "import os, time; time.sleep(0.5); assert os.environ['DAFT_ANALYTICS_ENABLED'] == '0'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
