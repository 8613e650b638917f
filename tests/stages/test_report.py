"""The report of a synthetic run: the right figures, all text escaped, nothing from outside, no step required."""

import importlib.util
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from fledge.core.errors import FledgeError
from fledge.core.log import Log
from fledge.stages.charts import Line, chart
from fledge.stages.report import ReportConfig, expectations, outcome, report
from fledge.stages.report_page import duration, last_question

spec = importlib.util.spec_from_file_location("synthetic_run", Path(__file__).with_name("synthetic_run.py"))
synthetic_run = importlib.util.module_from_spec(spec)
spec.loader.exec_module(synthetic_run)

VOID = {"meta", "link", "img", "br", "input", "hr"}
FIGURES = {
    "truthful", "over_declined", "hallucinated", "declined", "preferred_to_sft", "bits_per_byte", "calibration_error"
}  # fmt: skip


class Page(HTMLParser):
    """Checks that elements are closed in order; keeps tags, ids and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, Any]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, Any]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def written(run: Path, out: Path, **options: Any) -> tuple[str, dict[str, Any]]:
    out.mkdir(exist_ok=True)
    report(ReportConfig(run=run, **options), out, Log(quiet=True))
    return (out / "report.html").read_text(encoding="utf-8"), json.loads((out / "report.json").read_text())


def parsed(html: str) -> Page:
    page = Page()
    page.feed(html)
    assert page.open == []
    return page


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    root = tmp_path_factory.mktemp("whole")
    return written(synthetic_run.write_run(root / "pydoc"), root / "out")


def test_json_holds_exactly_the_named_figures(whole: tuple[str, dict[str, Any]]) -> None:
    result = whole[1]
    assert list(result["models"]) == ["base", "sft", "ppo", "ppo_without_ptx", "base_large"]
    expected = synthetic_run.evaluation()["models"]
    for name, figures in result["models"].items():
        assert set(figures) == FIGURES
        for key, figure in figures.items():
            assert figure == expected[name][key]
            assert set(figure) == {"value", "low", "high", "n"}


def test_json_holds_time_memory_environment_and_seeds(whole: tuple[str, dict[str, Any]]) -> None:
    result = whole[1]
    assert {name: step["seconds"] for name, step in result["steps"].items()} == synthetic_run.SECONDS
    assert result["seconds"] == pytest.approx(sum(synthetic_run.SECONDS.values()))
    assert result["peak_memory"] == max(step["peak_memory"] for step in result["steps"].values()) > 2**30
    assert result["environment"] == synthetic_run.ENVIRONMENT
    assert result["seeds"]["evaluate"] == 17
    assert "tokenizer" not in result["seeds"]


def test_steps_stand_in_the_order_of_life(whole: tuple[str, dict[str, Any]]) -> None:
    assert list(whole[1]["steps"]) == list(synthetic_run.SECONDS)


def test_the_page_is_well_formed_and_alone(whole: tuple[str, dict[str, Any]]) -> None:
    html = whole[0]
    page = parsed(html)
    assert len(html.encode()) < 1.5e6
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "img", "iframe", "object", "embed"}
    assert not re.search(r"https?://|url\(|@import|src=", html)
    headings = [attributes["id"] for tag, attributes in page.tags if tag == "h2"]
    assert headings == [f"h-{name}" for name in ("result", "samples", "story", "tax", "data", "cost", "next")]
    for tag, attributes in page.tags:
        if tag == "svg":
            assert attributes["role"] == "img"
            assert attributes["aria-label"]
        assert not any(key.startswith("on") for key in attributes)
    assert sum(tag == "svg" for tag, _ in page.tags) >= 10


def test_the_headline_says_the_numbers(whole: tuple[str, dict[str, Any]]) -> None:
    lead = " ".join(re.search(r'<p class="lead">(.*?)</p>', whole[0], re.DOTALL)[1].split())
    for figure in ("94.5 %", "7.8 %", "92.8 %", "8.5 %", "74.0 %", "86.7 %", "4.2 times"):
        assert figure in lead


def test_the_page_says_who_judged(whole: tuple[str, dict[str, Any]]) -> None:
    text = " ".join(parsed(whole[0]).text.split())
    assert "reference labeller: a program that knows the documentation and stands where people would" in text


def test_what_users_and_models_write_is_text(tmp_path: Path) -> None:
    run = synthetic_run.write_run(tmp_path / "<script>run")
    html, _ = written(run, tmp_path / "out", title="<script>alert('title')</script>")
    page = parsed(html)
    assert "script" not in {tag for tag, _ in page.tags}
    for said in (
        "<script>alert(1)</script>",
        "<script>alert('title')",
        "<script>x()",
        "<script>run",
        "<b>bold</b>",
        "<i>absolute",
    ):
        assert said in page.text
    assert "<b>bold</b>" not in html
    assert "<i>absolute" not in html


@pytest.mark.parametrize(
    "steps",
    [
        (),
        ("collect",),
        ("curate", "tokenizer", "pretrain"),
        ("pretrain", "sft"),
        ("sft", "reward", "ppo"),
        ("ppo_without_ptx",),
        ("evaluate",),
    ],
)
def test_steps_may_be_missing(tmp_path: Path, steps: tuple[str, ...]) -> None:
    run = synthetic_run.write_run(tmp_path / "run", steps)
    run.mkdir(exist_ok=True)
    html, result = written(run, tmp_path / "out")
    page = parsed(html)
    assert list(result["steps"]) == list(steps)
    assert ("reference labeller" in page.text) == ("evaluate" in steps)
    assert ("Held-out accuracy" in page.text) == ("reward" in steps)


def test_figures_without_interval_and_without_questions(tmp_path: Path) -> None:
    """n = 0 and n = 1 are NaN in evaluation.json; report.json stays JSON, the page says nothing of them."""
    run = synthetic_run.write_run(tmp_path / "run", ("evaluate",))
    path = run / "evaluate" / "evaluation.json"
    found = json.loads(path.read_text())
    nan = float("nan")
    found["models"]["ppo"]["hallucinated"] = {"value": nan, "low": nan, "high": nan, "n": 0}
    for model in found["models"].values():
        model["bits_per_byte"] |= {"low": nan, "high": nan, "n": 1}
    path.write_text(json.dumps(found))
    html, result = written(run, tmp_path / "out")
    assert "nan" not in parsed(html).text.lower().split()
    assert "no interval" in html
    assert result["models"]["ppo"]["hallucinated"] == {"value": None, "low": None, "high": None, "n": 0}
    assert not any("invented" in claim["claim"] for claim in result["expected"])
    assert "NaN" not in (tmp_path / "out" / "report.json").read_text()


def test_metrics_that_were_not_finite_are_left_out(tmp_path: Path) -> None:
    """The log writes NaN as null; a line may lack what another has."""
    run = synthetic_run.write_run(tmp_path / "run")
    with (run / "ppo" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9001, "iteration": 901, "kl": null, "reward": 1.0}\n')
        file.write('{"step": 9002, "iteration": 902, "kl": 2.0, "reward": null}\n')
        file.write('{"step": 9003, "iteration": 903, "kl": 3.0}\n')
    html, _ = written(run, tmp_path / "out")
    assert "PPO: 901, 1<" in html  # the last reward
    assert "PPO: 903, 3<" in html  # the last KL
    assert not re.search(r"\bnan\b|None|null", "".join(re.findall(r"<svg.*?</svg>", html, re.DOTALL)))


def test_an_evaluation_elsewhere(tmp_path: Path) -> None:
    run = synthetic_run.write_run(tmp_path / "run", ("pretrain",))
    other = synthetic_run.write_run(tmp_path / "other", ("evaluate",))
    assert written(run, tmp_path / "out", evaluation=other / "evaluate")[1]["models"]["ppo"]["truthful"]["n"] == 400


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    run = synthetic_run.write_run(tmp_path / "run", ("pretrain",))
    (run / "pretrain" / "summary.json").write_text("{")
    with pytest.raises(FledgeError, match=r"summary\.json"):
        written(run, tmp_path / "out")


def test_expectations_say_how_sure_one_can_be(whole: tuple[str, dict[str, Any]]) -> None:
    outcomes = {claim["claim"]: claim["outcome"] for claim in whole[1]["expected"]}
    assert outcomes["truthful: base below SFT"] == "held"
    assert outcomes["truthful: SFT below PPO"] == "held, within the uncertainty"
    assert outcomes["invented answers: PPO at most a third of SFT"] == "held"
    low, high = ({"value": v, "low": v - 0.1, "high": v + 0.1} for v in (0.2, 0.5))
    assert outcome(low, high) == "held"
    assert outcome(high, low) == "missed"
    near = {"value": 0.25, "low": 0.15, "high": 0.35}
    assert outcome(near, low) == "missed, within the uncertainty"
    assert outcome({"value": 0.2, "low": None, "high": None}, high) == "held, within the uncertainty"
    assert expectations({}, None) == []


def test_charts_place_points_on_their_axes() -> None:
    svg = chart("a <chart>", [Line("loss", "sft", [(0, 0.0), (1, 0.5), (2, float("nan")), (4, 1.0)])], x="x", y="y")
    assert "&lt;chart&gt;" in svg
    path = re.search(r'd="M([^"]+)"', svg)[1]
    points = [tuple(map(float, pair.split(","))) for pair in path.split("L")]
    assert len(points) == 3
    rules = {
        text: float(at)
        for at, text in re.findall(r'text-anchor="end" x="39" y="([\d.]+)">([^<]+)<', svg)
    }  # fmt: skip
    assert points[0][1] == pytest.approx(rules["0"] - 4, abs=0.2)
    assert points[2][1] == pytest.approx(rules["1"] - 4, abs=0.2)
    assert points[1][0] - points[0][0] == pytest.approx((points[2][0] - points[0][0]) / 4, abs=0.2)
    assert chart("empty", [Line("loss", "sft", [])], x="x", y="y") == ""
    constant = chart("constant", [Line("loss", "sft", [(3, 2.0)])], x="x", y="y")
    assert "nan" not in constant


def test_long_lines_are_thinned_to_their_end() -> None:
    svg = chart("long", [Line("loss", "sft", [(i, i) for i in range(10_000)])], x="x", y="y")
    assert len(svg) < 12_000
    assert "loss: 10k, 10k" in svg


def test_words() -> None:
    assert [duration(s) for s in (0.12, 42.4, 59.9, 61, 3_661)] == ["0.1 s", "42 s", "60 s", "1 min 01 s", "1 h 01 min"]
    assert last_question("<|im_start|>user\na<|im_end|>\n<|im_start|>user\nb\nc<|im_end|>\n") == "b\nc"
    assert last_question("plain") == "plain"
