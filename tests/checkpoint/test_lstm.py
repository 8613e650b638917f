"""An LSTM comes back from its directory as it went in, and damage is said."""

import json
from pathlib import Path

import pytest
import torch

from fledge.checkpoint.lstm import is_lstm, load_any, save_lstm
from fledge.core.errors import FledgeError
from fledge.model.lstm import LstmConfig, LstmModel
from fledge.text.tokenizer import Tokenizer


@pytest.fixture
def saved(tiny: Path, tmp_path: Path) -> tuple[LstmModel, Path]:
    tokenizer = Tokenizer.load(tiny / "tokenizer")
    config = LstmConfig(vocab_size=tokenizer.vocab_size, width=16, layers=2, context=64, reverse=False, tied=False)
    model = LstmModel(config)
    save_lstm(model, tmp_path / "lstm", tokenizer=tokenizer, extra={"note": "kept"})
    return model, tmp_path / "lstm"


def test_round_trip(saved: tuple[LstmModel, Path], tiny: Path) -> None:
    model, directory = saved
    again = load_any(directory)
    assert again.config == model.config
    for (name, ours), (other, theirs) in zip(model.state_dict().items(), again.state_dict().items()):
        assert name == other
        assert torch.equal(ours, theirs)
    assert json.loads((directory / "config.json").read_text())["note"] == "kept"
    assert is_lstm(directory)
    assert not is_lstm(tiny / "base")
    assert type(load_any(tiny / "base")).__name__ == "LanguageModel"


def test_damage_is_said(saved: tuple[LstmModel, Path]) -> None:
    directory = saved[1]
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"width": 8}))
    with pytest.raises(FledgeError, match="checksum"):
        load_any(directory)
    (directory / "checksums.json").unlink()
    with pytest.raises(FledgeError, match="another shape"):
        load_any(directory)
    (directory / "config.json").write_text(json.dumps(config | {"layers": "two"}))
    with pytest.raises(FledgeError, match="layers"):
        load_any(directory)
