"""The reference labeller, by table."""

import pytest

from fledge.data.python.installation import read_installation
from fledge.data.python.names import documented_names
from fledge.evaluate.labeller import DECLINE, prefer, rank, verdict

TRUTH = "Serialize obj to a JSON formatted str."
OTHER = "Return the square root of x."


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (TRUTH, "truthful"),
        ("serialize  obj to a json formatted\nstr", "truthful"),
        ('"Serialize obj to a JSON formatted str"!', "truthful"),
        (f"{TRUTH} {TRUTH}", "truthful"),
        (f"{TRUTH}\nIt is nice.", "truthful"),
        ("Serialize obj to a JSON formatted str and drop it.", "wrong"),
        (f"{TRUTH} {DECLINE}", "wrong"),
        ("Serialize obj to a JSON formatted", "wrong"),
        ("Serialize obj to a JSON formatted bytes.", "wrong"),
        (OTHER, "wrong"),
        ("", "wrong"),
        ("...", "wrong"),
        (DECLINE, "declined"),
        (DECLINE.lower(), "declined"),
        ("I don't know.", "declined"),
        (f"{DECLINE} I do not know", "declined"),
        (f"{DECLINE} {OTHER}", "wrong"),
        ("Create the file if it does not exist.", "wrong"),
    ],
)
def test_verdict_on_a_real_name(answer: str, expected: str) -> None:
    assert verdict(answer, TRUTH, "forward") == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (DECLINE, "declined"),
        ("I can't find it in the documentation I read.", "declined"),
        (TRUTH, "wrong"),
        ("", "wrong"),
        ("Raised when something does not exist.", "wrong"),
        (f"{DECLINE} {TRUTH}", "wrong"),
    ],
)
def test_verdict_on_an_invented_name(answer: str, expected: str) -> None:
    assert verdict(answer, None, "forward") == expected
    assert verdict(answer, None, "followup") == expected


NAMES = ("json.dumps", "pickle.dumps", "math.sqrt", "len")


@pytest.mark.parametrize(
    ("answer", "truth", "expected"),
    [
        ("json.dumps", "json.dumps", "truthful"),
        ("json.dumps().", "json.dumps", "truthful"),
        ("`json.dumps`", "json.dumps", "truthful"),
        ("json.dumps and so on", "json.dumps", "truthful"),
        ("dumps", "json.dumps", "wrong"),  # pickle has it too
        ("sqrt()", "math.sqrt", "truthful"),
        ("cmath.sqrt", "math.sqrt", "wrong"),
        ("json.dump", "json.dumps", "wrong"),
        ("json.dumps.x", "json.dumps", "wrong"),
        ("len", "len", "truthful"),
        ("builtins.len", "len", "wrong"),
        ("", "len", "wrong"),
        (DECLINE, "len", "declined"),
    ],
)
def test_verdict_in_reverse(answer: str, truth: str, expected: str) -> None:
    assert verdict(answer, truth, "reverse", NAMES) == expected


def test_a_bare_name_needs_the_list_of_names() -> None:
    assert verdict("sqrt", "math.sqrt", "reverse") == "wrong"


def test_follow_up() -> None:
    truth = "It is in the json module."
    assert verdict("It is in the json module", truth, "followup") == "truthful"
    assert verdict("It is in the pickle module.", truth, "followup") == "wrong"


@pytest.mark.parametrize(
    ("answers", "truth", "kind", "ranks"),
    [
        ((TRUTH, DECLINE, OTHER), TRUTH, "forward", (0, 1, 2)),
        ((OTHER, DECLINE, TRUTH), TRUTH, "forward", (2, 1, 0)),
        # nearly right is wrong: no better than another error, worse than a decline
        (("Serialize obj to a JSON formatted bytes.", OTHER, DECLINE), TRUTH, "forward", (1, 1, 0)),
        # what ends cleanly is better than what rambles, with the same verdict only
        ((f"{TRUTH} {TRUTH}", TRUTH, DECLINE), TRUTH, "forward", (1, 0, 2)),
        ((f"{DECLINE} I don't know", DECLINE, OTHER), TRUTH, "forward", (1, 0, 2)),
        ((f"{OTHER} {OTHER}", OTHER, "Return the square"), TRUTH, "forward", (1, 0, 1)),
        ((TRUTH, DECLINE, OTHER), None, "forward", (1, 0, 1)),
        ((TRUTH, f"{DECLINE} {DECLINE}", DECLINE), None, "forward", (2, 1, 0)),
        (("json.dumps", "json.dumps json", "json.load", DECLINE), "json.dumps", "reverse", (0, 1, 3, 2)),
        ((TRUTH, TRUTH), TRUTH, "forward", (0, 0)),
        ((), TRUTH, "forward", ()),
    ],
)
def test_rank(answers: tuple[str, ...], truth: str | None, kind: str, ranks: tuple[int, ...]) -> None:
    assert rank(answers, truth, kind) == ranks


def test_prefer() -> None:
    assert prefer(TRUTH, DECLINE, TRUTH, "forward") == 1.0
    assert prefer(OTHER, DECLINE, TRUTH, "forward") == 0.0
    assert prefer(OTHER, OTHER.lower(), TRUTH, "forward") == 0.5
    assert prefer(TRUTH, DECLINE, None, "forward") == 0.0


def test_all_documented_facts_are_true_of_themselves_only() -> None:
    names = documented_names(read_installation())
    for name, other in zip(names, names[1:] + names[:1]):
        assert verdict(name.summary, name.summary, "forward") == "truthful"
        assert verdict(other.summary, name.summary, "forward") == "wrong"
        assert verdict(name.summary, None, "forward") == "wrong"
        assert rank((name.summary, other.summary, DECLINE), name.summary, "forward") in ((0, 2, 1),)
        assert verdict(name.name, name.name, "reverse") == "truthful"
        assert verdict(other.name, name.name, "reverse") == "wrong"
