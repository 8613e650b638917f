"""A tiny random assistant on disk for the commands that talk to one."""

from pathlib import Path

import pytest
import torch

from fledge.checkpoint.directory import save_model
from fledge.model.config import ModelConfig
from fledge.model.heads import LanguageModel
from fledge.text.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def run_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run")
    tokenizer = Tokenizer.train(["I love New York Zoo. What is it? héllo 你好\n" * 20], 350)
    torch.manual_seed(0)
    model = LanguageModel(ModelConfig.sized(1, tokenizer.vocab_size, 128))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.2)
    save_model(model, path / "sft", tokenizer=tokenizer)
    return path
