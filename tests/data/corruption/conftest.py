"""A small vocabulary with every special token, and texts of sentences in it."""

import numpy as np
import pytest

from fledge.data.corruption.marks import Marks
from fledge.text.tokenizer import DENOISING, SPECIAL, Tokenizer

TEXT = (
    'I am happy to join with you today. The sun is up, and the road is dry! "Why not?" she asked. Nobody knew… '
    "We walk on.\n\nA new paragraph begins here. It counts 1, 2, 3.14 birds. The end"
)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([TEXT] * 3, 480, special_tokens=SPECIAL + DENOISING)


@pytest.fixture(scope="session")
def marks(tokenizer: Tokenizer) -> Marks:
    return Marks.of(tokenizer)


@pytest.fixture(scope="session")
def ids(tokenizer: Tokenizer) -> np.ndarray:
    return tokenizer.array(TEXT)
