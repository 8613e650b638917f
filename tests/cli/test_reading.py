"""`fledge embed`, `fledge fill` and beams, as a user calls them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from fledge.checkpoint.directory import save_model
from fledge.cli.main import app
from fledge.core.errors import FledgeError
from fledge.model.config import ModelConfig
from fledge.model.heads import build
from fledge.text.tokenizer import DENOISING, SPECIAL, Tokenizer

Call = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    tokenizer = Tokenizer.train(["the zebra sees the lion"] * 4, 380, special_tokens=SPECIAL + DENOISING)
    torch.manual_seed(0)
    for shape in ("encoder", "encoder_decoder"):
        model = build(ModelConfig.sized(1, tokenizer.vocab_size, 32, shape))  # type: ignore[arg-type]
        save_model(model, root / shape, tokenizer=tokenizer)
    return root


def call(*arguments: object, stdin: str = "") -> list[dict[str, Any]]:
    result = CliRunner().invoke(app, [*map(str, arguments)], input=stdin, catch_exceptions=False, standalone_mode=False)
    if result.exception:
        raise result.exception
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_embed_in_every_format(models: Path, tmp_path: Path) -> None:
    rows = call("embed", models / "encoder", "--text", "the zebra", "--text", "the lion", "--device", "cpu")
    vectors = np.array([row["embedding"] for row in rows])
    assert [row["text"] for row in rows] == ["the zebra", "the lion"]
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    source = tmp_path / "texts.jsonl"
    source.write_text('{"text": "the zebra", "id": 7}\n{"text": "the lion", "id": 8}\n')
    for name in ("out.jsonl", "out.npy", "out.parquet"):
        call("embed", models / "encoder", "--input", source, "--out", tmp_path / name, "--device", "cpu")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["id"] for row in lines] == [7, 8]
    np.testing.assert_allclose([row["embedding"] for row in lines], vectors, atol=1e-6)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), vectors, atol=1e-6)
    table = pq.read_table(tmp_path / "out.parquet").to_pylist()
    np.testing.assert_allclose([row["embedding"] for row in table], vectors, atol=1e-6)
    piped = call("embed", models / "encoder", "--raw", "--pooling", "cls", "--device", "cpu", stdin="a\n\nb\n")
    assert [row["text"] for row in piped] == ["a", "b"]


def test_fill(models: Path) -> None:
    (row,) = call("fill", models / "encoder", "--top", "2", "--device", "cpu", stdin="the [MASK] sees the [MASK]\n")
    assert [len(place) for place in row["candidates"]] == [2, 2]
    assert row["candidates"][0][0]["probability"] >= row["candidates"][0][1]["probability"]
    assert row["filled"].count("[MASK]") == 0


def test_generate_with_beams_and_from_sources(models: Path) -> None:
    common = (models / "encoder_decoder", "--prompt", "the zebra", "--max-new-tokens", 5, "--device", "cpu")
    (row,) = call("generate", *common, "--beams", 3)
    scores = [candidate["score"] for candidate in row["candidates"]]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)
    assert row["completion"] == row["candidates"][0]["text"]
    (judged,) = call("generate", *common, "--beams", 3, "--judge", models / "encoder_decoder")
    assert judged == row  # a model that agrees with itself changes nothing
    (drawn,) = call("generate", *common, "--temperature", 0)
    assert drawn["tokens"] <= 5


def test_mistakes_are_one_line(models: Path, tmp_path: Path) -> None:
    with pytest.raises(FledgeError, match="no known format"):
        call("embed", models / "encoder", "--text", "a", "--out", tmp_path / "out.csv")
    with pytest.raises(FledgeError, match="no texts given"):
        call("embed", models / "encoder")
    with pytest.raises(FledgeError, match="line 1: not valid JSON"):
        call("fill", models / "encoder", stdin="{broken\n")
    with pytest.raises(FledgeError, match="nothing is hidden"):
        call("fill", models / "encoder", "--text", "plain", "--device", "cpu")
