"""`fledge inspect` in the terminal, as JSON and as a page that a real browser shows without a network."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fledge.checkpoint.directory import load_model, save_model
from fledge.cli.main import app
from fledge.core.errors import FledgeError
from fledge.evaluate.inspection import inspect_ids
from fledge.evaluate.inspection_encoders import inspect_text
from fledge.model.config import ModelConfig
from fledge.model.heads import build
from fledge.stages.inspection_page import render_inspection
from fledge.text.tokenizer import DENOISING, SPECIAL, Tokenizer

TEXT = 'The zebra </script><b>sees</b> & "the lion" at the river.'


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small fresh model of each shape that no recipe makes."""
    root = tmp_path_factory.mktemp("shapes")
    tokenizer = Tokenizer.train([TEXT, "The zebra sees the lion."] * 30, 380, special_tokens=SPECIAL + DENOISING)
    made = {
        "encoder": ModelConfig.sized(1, tokenizer.vocab_size, 64, "encoder"),
        "classifier": ModelConfig.sized(1, tokenizer.vocab_size, 64, "encoder", head="classifier", labels=2),
        "both": ModelConfig.sized(1, tokenizer.vocab_size, 64, "encoder_decoder"),
        "experts": ModelConfig.sized(1, tokenizer.vocab_size, 64, experts=4, top_k=1),
    }
    for name, config in made.items():
        labels = {"id2label": {"0": "tame", "1": "wild"}} if name == "classifier" else {}
        save_model(build(config), root / name, tokenizer=tokenizer, extra=labels)
    return root


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["inspect", *arguments], catch_exceptions=False, env={"COLUMNS": "120"})
    return result.stdout


def test_the_terminal_shows_everything(tiny: Path) -> None:
    shown = invoke(str(tiny / "base"), TEXT)
    for title in (
        "bits a token",
        "what was expected after it",
        "logit lens",
        "induction",
        "feed-forward",
        " z 93 e 72 ",
    ):
        assert title in shown
    drawn = invoke(str(tiny / "base"), "The zebra", "--layer", "1", "--head", "1")
    first = next(line for line in drawn.splitlines() if "<|endoftext" in line and "██" in line)
    assert first.count("█") == 2  # the first token can look only at itself
    assert "logit lens" not in invoke(str(tiny / "reward"), "The zebra")
    with pytest.raises(FledgeError, match="there is no head 7 in layer 1"):
        invoke(str(tiny / "base"), "a", "--head", "7")
    with pytest.raises(FledgeError, match="a model and a text are needed"):
        invoke(str(tiny / "base"))


def test_the_terminal_shows_every_shape(shapes: Path) -> None:
    shown = invoke(str(shapes / "encoder"), "The [MASK] sees the lion.")
    for title in ("each found from the others", "what could stand in its place", "put in each place", "one after"):
        assert title in shown
    assert "induction" not in shown
    shown = invoke(str(shapes / "classifier"), "The zebra sees")
    assert re.search(r"^(tame|wild) +\d+\.\d%", shown, re.M)
    shown = invoke(str(shapes / "both"), "The zebra sees the lion.", "--target", "the lion")
    for title in ("reads ", "target ", "encoder's heads", "decoder's heads", "cross-attention"):
        assert title in shown
    assert "writes " in invoke(str(shapes / "both"), "The zebra")
    drawn = invoke(str(shapes / "both"), "The zebra", "--target", "lion", "--head", "1", "--stack", "cross")
    assert "attention of cross layer 1, head 1" in drawn
    with pytest.raises(FledgeError, match="this model has no stack 'sideways'"):
        invoke(str(shapes / "both"), "The zebra", "--head", "1", "--stack", "sideways")
    with pytest.raises(FledgeError, match="only a decoder is talked to"):
        invoke(str(shapes / "encoder"), "The zebra", "--chat")
    shown = invoke(str(shapes / "experts"), "The zebra")
    assert "active" in shown
    assert "active" not in invoke(str(shapes / "both"), "The zebra")


def test_shapes_need_no_model() -> None:
    assert "115,970,015,232" in invoke("--shape", "gpt3-175b")
    assert "gpt3-175b" in invoke("--shape", "all")
    assert "12.9 B" in invoke("--shape", "all")  # Mixtral's active weights
    assert "28,311,552" in invoke("--shape", "layers=12,width=768,biases=false")  # 12 · 4 · 768²


def test_json_is_what_the_function_found(tiny: Path) -> None:
    found = json.loads(invoke(str(tiny / "base"), "The zebra", "--json", "--top", "2"))
    tokenizer = Tokenizer.load(tiny / "base")
    ids = [tokenizer.document_id, *tokenizer.encode("The zebra")]
    assert found == json.loads(json.dumps(inspect_ids(load_model(tiny / "base"), tokenizer, ids, top=2)))
    asked = json.loads(invoke(str(tiny / "base"), "Where?", "--json", "--chat"))
    assert asked["tokens"][0]["text"] == "<|im_start|>"
    assert asked["tokens"][0]["special"]


def page_of(tiny: Path, shapes: Path, model: str) -> str:
    where = (tiny if model in ("base", "reward") else shapes) / model
    return render_inspection(inspect_text(load_model(where), Tokenizer.load(where), TEXT), f"a <{model}>")


PAGES = ["base", "reward", "encoder", "classifier", "both", "experts"]


@pytest.mark.parametrize("model", PAGES)
def test_the_page_is_self_contained_and_safe(tiny: Path, shapes: Path, model: str) -> None:
    page = page_of(tiny, shapes, model)
    assert not re.search(r"<(link|img|iframe)|\ssrc=|@import|url\(", page)
    assert page.count("</script>") == 2
    assert "<b>sees" not in page
    assert f"a &lt;{model}&gt;" in page
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    read = data["source"] or data["tokens"]
    assert "".join(token["text"] for token in read if not token["special"]) == TEXT
    assert ("of its 4 experts" in page) == (model == "experts")


@pytest.mark.parametrize("model", PAGES)
def test_a_browser_runs_the_page(tiny: Path, shapes: Path, tmp_path: Path, model: str) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium here")
    (tmp_path / "page.html").write_text(page_of(tiny, shapes, model))
    dom = subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1200,2000",
            f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", (tmp_path / "page.html").as_uri(),
        ],
        capture_output=True, text=True, timeout=120,
    ).stdout  # fmt: skip
    first = "encoder layer 1" if model == "both" else "layer 1"
    assert f'id="chosen">{first}, head 1<' in dom  # written by the script after all maps were drawn
    assert "looks most at" in dom


def test_installed_files() -> None:
    """The page's parts go into the wheel."""
    package_data = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    for ending in ("*.css", "*.js", "*.jinja"):
        assert f'"**/{ending}"' in package_data
