"""`fledge objectives`, and that docs/objectives.md shows what it prints."""

import re
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from fledge.cli.main import app
from fledge.cli.objective_views import SENTENCE, View, views
from fledge.cli.objectives import COLOURS, SEED, SHARE, SPAN, STYLES, laid, lines, panel
from fledge.core.errors import FledgeError
from fledge.stages.objective import OBJECTIVES
from fledge.text.tokenizer import Tokenizer

PAGE = Path(__file__).parents[2] / "docs" / "objectives.md"
WIDTH = 112


@pytest.fixture(scope="module")
def shown() -> list[View]:
    return list(views(SENTENCE, None, [], "", SHARE, SPAN, SEED))


def block(name: str, shown: list[View]) -> str:
    """What the page shows under a heading."""
    mine = [view for view in shown if view.name.split()[0] == name]
    parts = []
    for view in mine:
        title = [view.name] if len(mine) > 1 else []
        parts.append("\n".join([*title, *(line.plain.rstrip() for line in lines(view, WIDTH))]))
    return "\n\n".join(parts)


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_the_page_shows_what_the_code_prints(name: str, shown: list[View]) -> None:
    found = re.search(rf"^### {name}\n.*?```text\n(.*?)\n```", PAGE.read_text(), re.S | re.M)
    assert found, f"docs/objectives.md has no block for {name}"
    assert found[1] == block(name, shown)


def test_the_page_names_each_with_what_it_says() -> None:
    page = PAGE.read_text()
    for name, objective in OBJECTIVES.items():
        row = next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        assert [cell.strip() for cell in row.split("|")[2:4]] == [
            objective.about, objective.shape.replace("_", "-"),
        ]  # fmt: skip


def test_every_word_of_the_sentence_is_one_token(shown: list[View]) -> None:
    read = dict(next(view for view in shown if view.name == "lm").strands)["reads"]
    assert [text for text, _ in read] == ["■", *SENTENCE.split(), "■"]


def test_all_of_them_are_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "90")
    result = CliRunner().invoke(app, ["objectives"])
    assert result.exit_code == 0, result.output
    for name, objective in OBJECTIVES.items():
        assert f"{name}" in result.output
        assert objective.about in result.output
    assert all(len(line) <= 90 for line in result.output.splitlines())


def test_a_text_of_one_s_own_with_a_tokenizer_of_one_s_own(tiny: Path, tmp_path: Path) -> None:
    from fledge.text.tokenizer import DENOISING, SPECIAL

    Tokenizer.train(["the lion sees the river"] * 4, 420, special_tokens=SPECIAL + DENOISING).save(tmp_path)
    result = CliRunner().invoke(
        app, ["objectives", "The lion sees. The river runs.", "--tokenizer", str(tmp_path), "--objective", "shuffling"]
    )
    assert result.exit_code == 0, result.output
    assert "lion" in result.output
    assert "mlm" not in result.output
    refused = CliRunner().invoke(app, ["objectives", "--tokenizer", str(tiny / "tokenizer"), "--objective", "mlm"])
    assert isinstance(refused.exception, FledgeError)
    assert "[MASK]" in str(refused.exception)


def test_what_cannot_be_shown_says_why() -> None:
    (tlm,) = views("Something else", None, ["tlm"], "", SHARE, SPAN, 0)
    assert "translation" in tlm.strands[0][1][0][0]
    (tlm,) = views("Something else", None, ["tlm"], "Etwas anderes", SHARE, SPAN, 0)
    assert "anderes" in [text for _, cells in tlm.strands for text, _ in cells]
    assert isinstance(CliRunner().invoke(app, ["objectives", "  "]).exception, FledgeError)
    unknown = CliRunner().invoke(app, ["objectives", "--objective", "mml"]).exception
    assert "did you mean 'mlm'" in str(unknown)


def test_text_that_looks_like_markup_is_only_text() -> None:
    (view,) = views("[bold]not[/] markup [MASK]", None, ["lm"], "", SHARE, SPAN, 0)
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(panel("decoder", COLOURS["decoder"], [view], 90))
    text = re.sub(r"[\s│]+", "", console.export_text())
    assert "[bold]not[/]markup[MASK]" in text


@pytest.mark.parametrize("width", [20, 33, 80])
def test_cells_are_wrapped_together(width: int) -> None:
    top = [(f"word{n}", "plain") for n in range(9)]
    bottom = [("·", "nothing"), *[("longer-than-that", "said")] * 8]
    found = [line.plain for line in laid([("reads", top), ("says", bottom)], 7, width)]
    assert len(found) % 2 == 0
    assert "".join(found[0::2]).split() == ["reads", *(text for text, _ in top)]
    for above, below in zip(found[::2], found[1::2]):
        assert len(above) == len(below) <= max(width, 7 + 16)
        starts = [match.start() for match in re.finditer(r"(?<= )\S+", above[6:])]
        assert starts == [match.start() for match in re.finditer(r"(?<= )\S+", below[6:])]


def test_every_kind_of_cell_has_a_style(shown: list[View]) -> None:
    kinds = {kind for view in shown for _, cells in view.strands for _, kind in cells}
    assert kinds <= STYLES.keys()
    assert {"mask", "random", "said", "prefix", "sentinel0", "sentinel1", "label"} <= kinds


def test_a_picture(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["objectives", "--objective", "mlm", "--svg", str(tmp_path / "a.svg")])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "a.svg").read_text().startswith("<svg")
