"""`fledge verify` and `fledge reproduce`, and inputs that are not what was made."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from fledge.cli.main import app
from fledge.core.errors import FledgeError
from fledge.core.log import Log
from fledge.recipes.proof import verified
from fledge.recipes.runner import plan, read_recipe, run_recipe

QUIET = Log(quiet=True)


@pytest.fixture
def run(tiny: Path, tmp_path: Path) -> Path:
    """A finished run of two steps."""
    steps = {
        "tokenizer": {"documents": str(tiny / "documents.jsonl"), "vocab_size": 300},
        "pretrain": {
            "documents": str(tiny / "documents.jsonl"), "tokenizer": "${tokenizer}", "depth": 1, "tokens": 256,
            "length": 64, "tokens_per_step": 128, "compile": "never", "dtype": "float32",
        },
    }  # fmt: skip
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"steps": steps}, sort_keys=False))
    raised(tmp_path)
    return tmp_path / "run"


def raised(home: Path) -> None:
    run_recipe(plan(read_recipe(str(home / "mine.yaml")), home / "run"), home / "run", QUIET)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def cli(*arguments: object) -> str:
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False, env={"COLUMNS": "200"}).stdout


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json", "summary.json"])
def test_a_flipped_bit_in_any_file_is_found(run: Path, file: str) -> None:
    assert [verdict.wrong for verdict in verified(run)] == [[], []]
    assert cli("verify", run).count("whole") == 2
    flip(run / "pretrain" / file)
    (verdict,) = [verdict for verdict in verified(run) if verdict.wrong]
    assert verdict.wrong == [f"{run / 'pretrain' / file} is damaged or was changed since it was made"]
    assert verdict.remedy.startswith(f"delete {run / 'pretrain'} and run the same command again")
    with pytest.raises(FledgeError, match="1 of 2 are damaged"):
        cli("verify", run)


def test_missing_files_and_broken_records_are_found(run: Path) -> None:
    (run / "tokenizer" / "chat_template.jinja").unlink()
    (run / "pretrain" / "artifact.json").write_text("{")
    wrong = [line for verdict in verified(run) for line in verdict.wrong]
    assert f"{run / 'tokenizer' / 'chat_template.jinja'} is missing" in wrong
    assert any("artifact.json is not valid JSON" in line for line in wrong)
    with pytest.raises(FledgeError, match="holds nothing with checksums"):
        verified(run / "configs")


def test_a_damaged_input_is_refused_and_made_anew_as_the_remedy_says(run: Path) -> None:
    whole = (run / "pretrain" / "model.safetensors").read_bytes()
    (run / "pretrain" / "artifact.json").unlink()
    for file in (run / "pretrain").iterdir():
        file.unlink()
    flip(run / "tokenizer" / "tokenizer.json")
    with pytest.raises(FledgeError) as caught:
        raised(run.parent)
    assert caught.value.message == f"{run / 'tokenizer' / 'tokenizer.json'} is damaged or was changed since it was made"
    assert f"delete {run / 'tokenizer'} and run the same command again" in caught.value.remedy
    for file in (run / "tokenizer").iterdir():
        file.unlink()
    (run / "tokenizer").rmdir()
    raised(run.parent)
    assert (run / "pretrain" / "model.safetensors").read_bytes() == whole


def test_a_finished_step_that_nothing_reads_again_is_not_taken_for_done_when_damaged(run: Path) -> None:
    whole = (run / "pretrain" / "model.safetensors").read_bytes()
    flip(run / "pretrain" / "model.safetensors")
    with pytest.raises(FledgeError, match=r"model\.safetensors is damaged") as caught:
        raised(run.parent)
    assert f"delete {run / 'pretrain'} and run the same command again" in caught.value.remedy
    shutil.rmtree(run / "pretrain")
    raised(run.parent)
    assert (run / "pretrain" / "model.safetensors").read_bytes() == whole


@pytest.mark.parametrize("damage", [b'{"step": "pre', b"[]", b'{"fingerprInt": "a"}', b"\xff\xfe"])
def test_a_damaged_record_is_refused_and_made_anew_as_the_remedy_says(run: Path, damage: bytes) -> None:
    whole = (run / "pretrain" / "model.safetensors").read_bytes()
    (run / "pretrain" / "artifact.json").write_bytes(damage)
    with pytest.raises(FledgeError) as caught:
        raised(run.parent)
    assert f"delete {run / 'pretrain'} and run the same command again" in caught.value.remedy
    shutil.rmtree(run / "pretrain")
    raised(run.parent)
    assert (run / "pretrain" / "model.safetensors").read_bytes() == whole


def test_a_model_from_elsewhere_is_verified_by_its_own_checksums(tiny: Path, tmp_path: Path) -> None:
    assert [verdict.kind for verdict in verified(tiny / "base")] == ["model"]


def test_a_step_is_made_again_to_the_same_bits(run: Path) -> None:
    before = sorted(path.name for path in run.iterdir())
    shown = cli("reproduce", run, "pretrain")
    assert "model.safetensors" in shown
    assert "have the same bits" in shown
    assert "different" not in shown
    assert sorted(path.name for path in run.iterdir()) == before


def test_a_step_that_comes_out_different_is_named(run: Path) -> None:
    record = json.loads((run / "pretrain" / "artifact.json").read_text())
    record["config"]["seed"] = 5
    record["environment"]["torch"] = "1.0"
    (run / "pretrain" / "artifact.json").write_text(json.dumps(record))
    runner = CliRunner().invoke(app, ["reproduce", str(run), "pretrain"], env={"COLUMNS": "200"})
    assert "torch: 1.0 then" in runner.stdout
    assert isinstance(runner.exception, FledgeError)
    assert "2 of 7 files came out different" in runner.exception.message
    assert "different model.safetensors" in runner.stdout
    with pytest.raises(FledgeError, match="is not a finished step"):
        cli("reproduce", run, "sft")
