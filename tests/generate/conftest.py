"""A tiny random model and a tiny tokenizer for every test of generation."""

import pytest
import torch

from fledge.model.config import ModelConfig
from fledge.model.heads import LanguageModel
from fledge.text.tokenizer import Tokenizer

TEXT = "I love New York Zoo. The snowman ☃ says: héllo, 你好! def f(x):\n    return x + 1\n"


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([TEXT * 20], 400)


def tiny(vocab_size: int, seed: int = 0, **axes: object) -> LanguageModel:
    """A random model with logits spread enough to have likely tokens; norms and biases are random too."""
    shape = {"width": 32, "layers": 2, "heads": 4, "kv_heads": 2, "head_size": 16, "hidden": 48, "context": 96}
    torch.manual_seed(seed)
    model = LanguageModel(ModelConfig(vocab_size=vocab_size, **(shape | axes)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.uniform_(0.5, 1.5) if "norm" in name else parameter.normal_(0, 0.2)
            else:
                parameter.normal_(0, 0.25)
    return model


@pytest.fixture(scope="session")
def model(tokenizer: Tokenizer) -> LanguageModel:
    return tiny(tokenizer.vocab_size)
