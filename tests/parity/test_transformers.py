"""Our logits equal `transformers`', both ways, on tiny random configs of every family."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fledge.checkpoint.directory import load_model, save_model
from fledge.model.cache import Cache
from fledge.model.config import ModelConfig
from fledge.model.heads import build

transformers = pytest.importorskip("transformers")

SIZES = {
    "vocab_size": 97,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 80,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
CONFIGS = {
    "llama": lambda: transformers.LlamaConfig(**SIZES),
    "llama-tied-bias": lambda: transformers.LlamaConfig(
        **SIZES, tie_word_embeddings=True, attention_bias=True, mlp_bias=True, rms_norm_eps=1e-3
    ),
    "llama3-rope": lambda: transformers.LlamaConfig(**SIZES, rope_parameters=LLAMA3),
    "llama-linear-rope": lambda: transformers.LlamaConfig(
        **SIZES, rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0}
    ),
    "llama-head-size": lambda: transformers.LlamaConfig(**SIZES, head_dim=20, hidden_act="gelu"),
    "qwen3": lambda: transformers.Qwen3Config(**SIZES, head_dim=16),
    "qwen3-tied": lambda: transformers.Qwen3Config(**SIZES, head_dim=12, tie_word_embeddings=True),
    "qwen3-window": lambda: transformers.Qwen3Config(
        **SIZES, head_dim=12, sliding_window=5, use_sliding_window=True, max_window_layers=0
    ),
}


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """Weights large enough that a mistake shows, norms and biases included."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in name else 0.0, 0.2)
    return model.eval()


@pytest.fixture(params=list(CONFIGS))
def theirs(request: pytest.FixtureRequest) -> torch.nn.Module:
    return randomised(transformers.AutoModelForCausalLM.from_config(CONFIGS[request.param]()))


@torch.no_grad()
def test_we_read_what_they_write(theirs: torch.nn.Module, tmp_path: Path) -> None:
    theirs.save_pretrained(tmp_path)
    ours = load_model(tmp_path).eval()
    ids = torch.randint(1, 97, (3, 23))
    expected = theirs(ids).logits
    torch.testing.assert_close(ours(ids).logits(), expected, atol=1e-4, rtol=0)
    assert expected.std() > 0.3


@torch.no_grad()
def test_they_read_what_we_write_and_the_tensors_are_identical(theirs: torch.nn.Module, tmp_path: Path) -> None:
    theirs.save_pretrained(tmp_path / "theirs")
    save_model(load_model(tmp_path / "theirs"), tmp_path / "ours")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()
    ids = torch.randint(1, 97, (2, 17))
    torch.testing.assert_close(again(ids).logits, theirs(ids).logits, atol=1e-6, rtol=0)
    before, after = (load_file(tmp_path / side / "model.safetensors") for side in ("theirs", "ours"))
    assert set(before) == set(after)
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name


@torch.no_grad()
def test_right_padding_packing_and_cache_agree_with_them(theirs: torch.nn.Module, tmp_path: Path) -> None:
    theirs.save_pretrained(tmp_path)
    ours = load_model(tmp_path).eval()
    a, b = torch.randint(1, 97, (1, 9)), torch.randint(1, 97, (1, 14))
    expected = torch.cat([theirs(a).logits, theirs(b).logits], 1)

    positions = torch.cat([torch.arange(9), torch.arange(14)])[None]
    documents = torch.tensor([[1] * 9 + [2] * 14])
    packed = ours(torch.cat([a, b], 1), positions, documents).logits()
    torch.testing.assert_close(packed, expected, atol=1e-4, rtol=0)

    padded = torch.cat([torch.cat([a, torch.zeros(1, 5, dtype=torch.int64)], 1), b])
    mask = torch.tensor([[1] * 9 + [0] * 5, [1] * 14])
    with_padding = ours(padded, torch.arange(14).expand(2, 14), mask.int()).logits()
    torch.testing.assert_close(with_padding[mask.bool()], expected[0], atol=1e-4, rtol=0)

    cache = Cache(ours.config, 2, 32, "cpu", torch.float32)
    first = ours(padded[:, :6], torch.arange(6).expand(2, 6), cache=cache).logits()
    steps = [ours(padded[:, t : t + 1], torch.full((2, 1), t), cache=cache).logits() for t in range(6, 14)]
    cached = torch.cat([first, *steps], 1)
    torch.testing.assert_close(cached[mask.bool()], expected[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["llama", "qwen3", "qwen3-tied"])
@torch.no_grad()
def test_reward_models_agree_with_their_sequence_classification(name: str, tmp_path: Path) -> None:
    config = CONFIGS[name]()
    config.num_labels = 1
    theirs = randomised(transformers.AutoModelForSequenceClassification.from_config(config))
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_model(tmp_path / "theirs").eval()
    ids = torch.randint(1, 97, (2, 12))
    ids[1, 7:] = 0
    expected = theirs(ids, attention_mask=(ids != 0).long()).logits[:, 0]
    values = ours(ids).values
    torch.testing.assert_close(torch.stack([values[0, 11], values[1, 6]]), expected, atol=1e-4, rtol=0)

    save_model(ours, tmp_path / "ours", extra={"reward_mean": 0.25, "pad_token_id": 0})
    again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "ours").eval()
    assert again.config.num_labels == 1
    torch.testing.assert_close(again(ids, attention_mask=(ids != 0).long()).logits[:, 0], expected, atol=1e-6, rtol=0)


@torch.no_grad()
def test_bfloat16_and_shards_are_read(tmp_path: Path) -> None:
    theirs = randomised(transformers.AutoModelForCausalLM.from_config(CONFIGS["qwen3"]())).to(torch.bfloat16)
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    ids = torch.randint(1, 97, (1, 8))
    torch.testing.assert_close(load_model(tmp_path)(ids).logits(), again(ids).logits, atol=1e-4, rtol=0)


@torch.no_grad()
def test_a_model_of_our_own_loads_there_as_qwen3(tmp_path: Path) -> None:
    ours = build(ModelConfig.sized(2, 97, 64)).eval()
    save_model(ours, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert type(theirs).__name__ == "Qwen3ForCausalLM"
    assert sum(p.numel() for p in theirs.parameters()) == ours.config.parameters()
    ids = torch.randint(0, 97, (2, 20))
    torch.testing.assert_close(ours(ids).logits(), theirs(ids).logits, atol=1e-4, rtol=0)
