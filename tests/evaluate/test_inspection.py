"""Internals against transformers' own outputs, a hand-made induction head and closed forms."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fledge.checkpoint.directory import load_model
from fledge.core.errors import FledgeError
from fledge.evaluate.anatomy import SHAPES, Shape, anatomy_of_model, anatomy_of_shape, named_shape, total
from fledge.evaluate.inspection import inspect_ids
from fledge.evaluate.internals import attention_of, induction, internals, logit_lens, prefix_matching
from fledge.model.config import ModelConfig
from fledge.model.heads import Output, build
from fledge.text.tokenizer import Tokenizer

transformers = pytest.importorskip("transformers")
SIZES = {
    "vocab_size": 97, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 80, "max_position_embeddings": 64,
}  # fmt: skip
CONFIGS = {
    "llama": lambda: transformers.LlamaConfig(**SIZES),
    "qwen3-window": lambda: transformers.Qwen3Config(
        **SIZES, head_dim=12, sliding_window=5, use_sliding_window=True, max_window_layers=0
    ),
}


@pytest.mark.parametrize("name", list(CONFIGS))
@torch.no_grad()
def test_hidden_states_attention_and_lens_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    theirs = transformers.AutoModelForCausalLM.from_config(CONFIGS[name](), attn_implementation="eager").eval()
    for parameter in theirs.parameters():
        if parameter.ndim > 1:
            parameter.normal_(0, 0.2)
    theirs.save_pretrained(tmp_path)
    ids = torch.randint(1, 97, (2, 23))
    expected = theirs(ids, output_attentions=True, output_hidden_states=True)
    model = load_model(tmp_path)
    found = internals(model, ids)
    assert found.places == [f"backbone.blocks.{i}.attention" for i in range(3)]
    for ours, other in zip(found.attention, expected.attentions, strict=True):
        torch.testing.assert_close(ours, other, atol=1e-5, rtol=0)
    assert len(found.hidden) == 4
    for ours, other in zip(found.hidden[:-1], expected.hidden_states[:-1], strict=True):
        torch.testing.assert_close(ours, other, atol=1e-4, rtol=0)  # their last one is normed already
    lens = list(logit_lens(model, found.hidden, ids))
    for ours, state in zip(lens[:-1], expected.hidden_states[:-1], strict=True):
        torch.testing.assert_close(ours, theirs.lm_head(theirs.model.norm(state)), atol=1e-4, rtol=0)
    assert torch.equal(lens[-1], found.output.logits())


def test_attention_is_what_the_fused_kernel_multiplies_with() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 5, 8), torch.randn(2, 2, 5, 8)
    mask = torch.randn(2, 1, 5, 5)
    for options in (
        {"is_causal": True},
        {"attn_mask": mask, "scale": 0.3},
        {"attn_mask": mask > -1},
        {},
    ):
        expected = F.scaled_dot_product_attention(q, k, v, enable_gqa=True, **options)
        ours = attention_of(q, k, v, enable_gqa=True, **options) @ v.repeat_interleave(2, 1)
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0, equal_nan=True)


class PlainAttention(nn.Module):
    """A model that writes its softmax out instead of calling the fused kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(4, 4)])

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.softmax(x[:, None] @ x[:, None].transpose(2, 3), -1)
        return self.blocks[0](weights[:, 0] @ x)


def test_a_plain_softmax_is_seen_too() -> None:
    x = torch.randn(2, 5, 4)
    found = internals(PlainAttention(), x)
    torch.testing.assert_close(found.attention[0][:, 0], (x @ x.transpose(1, 2)).softmax(-1))


class HandMade(nn.Module):
    """Two heads made by hand: head 0 looks at what followed the current token before, head 1 at the token itself."""

    def __init__(self, vocabulary: int, sharpness: float) -> None:
        super().__init__()
        self.vocabulary, self.sharpness = vocabulary, sharpness
        self.blocks = nn.ModuleList([nn.Identity()])
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, ids: Tensor) -> Output:
        now = F.one_hot(ids, self.vocabulary).float()
        before = F.pad(now[:, :-1], (0, 0, 1, 0))
        q, k = torch.stack([now, now], 1), torch.stack([before, now], 1)
        y = F.scaled_dot_product_attention(q * self.sharpness, k, torch.stack([now, now], 1), is_causal=True, scale=1.0)
        return Output(self.blocks[0](y[:, 0] * self.scale * 20), torch.eye(self.vocabulary))


def test_a_hand_made_induction_head_is_found() -> None:
    found = induction(HandMade(200, 30.0), torch.arange(1, 200), 0, period=20, rows=8)
    ((induces, looks_at_itself),) = found["scores"]
    assert induces > 0.9  # a token drawn twice within a period divides the attention
    assert looks_at_itself < 0.1
    assert found["loss_first"] > 5
    assert found["loss_again"] < 1


def test_the_score_of_a_head_without_the_skill_is_the_closed_form() -> None:
    period, start = 12, 1
    length = start + 2 * period
    uniform = torch.tril(torch.ones(length, length))
    uniform /= uniform.sum(-1, keepdim=True)
    expected = sum(1 / (t + 1) for t in range(start + period, length)) / period
    assert float(prefix_matching(uniform, period, start)) == pytest.approx(expected, rel=1e-6)
    perfect = torch.zeros(length, length)
    for t in range(start + period, length):
        perfect[t, t - period + 1] = 1
    assert float(prefix_matching(perfect, period, start)) == 1


@pytest.mark.parametrize("name", ["gpt2-124m", "gpt2-1.5b", "gpt3-125m", "gpt3-175b", "llama-7b", "llama3-8b"])
def test_known_shapes_have_the_size_that_transformers_builds(name: str) -> None:
    shape = SHAPES[name]
    sizes = {"vocab_size": shape.vocab_size}
    if shape.gated:
        config = transformers.LlamaConfig(
            hidden_size=shape.width, num_hidden_layers=shape.layers, num_attention_heads=shape.heads,
            num_key_value_heads=shape.kv_heads or shape.heads, intermediate_size=shape.hidden, **sizes,
        )  # fmt: skip
    else:
        config = transformers.GPT2Config(
            n_embd=shape.width, n_layer=shape.layers, n_head=shape.heads, n_positions=shape.context, **sizes
        )
    with torch.device("meta"):
        theirs = transformers.AutoModelForCausalLM.from_config(config)
    assert total(anatomy_of_shape(shape), "parameters") == sum(p.numel() for p in theirs.parameters())


def test_gpt3s_parameters_sit_in_the_feed_forward() -> None:
    table = anatomy_of_shape(named_shape("gpt3-175b"))
    shares = {part: values["parameters"] / total(table, "parameters") for part, values in table.items()}
    assert total(table, "parameters") == pytest.approx(175e9, rel=0.005)
    assert 0.66 < shares["feed-forward"] < 0.67
    assert 0.33 < shares["attention"] < 0.34
    assert shares["embeddings"] < 0.004
    with pytest.raises(FledgeError, match="there is no shape 'gpt5'"):
        named_shape("gpt5")
    with pytest.raises(FledgeError, match="unknown key 'depth'"):
        named_shape("depth=3,width=4")


@pytest.mark.parametrize("tied", [True, False])
def test_a_counted_model_agrees_with_its_shape_and_with_the_estimate_of_training(tied: bool) -> None:
    config = ModelConfig.sized(2, 320, 128).model_copy(update={"tied": tied, "qk_norm": False})
    with torch.device("meta"):
        model = build(config)
    counted = anatomy_of_model(model, 100)
    shape = Shape(
        layers=2, width=128, heads=2, hidden=config.hidden, vocab_size=320, context=128, gated=True, biases=False,
        learned_positions=False, tied=tied,
    )  # fmt: skip
    assert counted == anatomy_of_shape(shape, 100)
    norms = counted["norms"]["parameters"]
    assert 3 * total(counted, "flops") == config.flops_per_token(100) - 6 * norms


@torch.no_grad()
def test_everything_of_a_text_as_json(tiny: Path) -> None:
    model, tokenizer = load_model(tiny / "base"), Tokenizer.load(tiny / "base")
    ids = [tokenizer.document_id, *tokenizer.encode("The zebra sees the lion.")]
    found = inspect_ids(model, tokenizer, ids, top=3)
    json.dumps(found, allow_nan=False)
    logs = model(torch.tensor([ids])).logits()[0].log_softmax(-1)
    assert [t["nats"] for t in found["tokens"][1:]] == pytest.approx(
        [-float(logs[t, i]) for t, i in enumerate(ids[1:])], abs=1e-5
    )
    assert found["loss"] == pytest.approx(float(F.nll_loss(logs[:-1], torch.tensor(ids[1:]))), abs=1e-5)
    said = len(b"The zebra sees the lion.")
    assert found["bits_per_byte"] == pytest.approx(found["loss"] * (len(ids) - 1) / math.log(2) / said)
    for t, token in enumerate(found["tokens"]):
        assert [n["id"] for n in token["next"]] == logs[t].topk(3).indices.tolist()
        assert 0 < token["entropy"] < math.log(len(logs[t]))
    assert "".join(t["text"] for t in found["tokens"][1:]) == "The zebra sees the lion."
    assert found["tokens"][0]["special"]
    assert not found["tokens"][1]["special"]
    assert len(found["lens"]) == 2
    for t, cell in enumerate(found["lens"][-1]["tokens"][:-1]):
        assert cell["truth"] == pytest.approx(math.exp(-found["tokens"][t + 1]["nats"]), abs=1e-3)
    rows = torch.tensor(found["attention"][0]["heads"])
    assert rows.shape == (1, len(ids), len(ids))
    torch.testing.assert_close(rows.sum(-1), torch.ones(1, len(ids)), atol=0.02, rtol=0)
    assert found["model"]["parameters"] == sum(p.numel() for p in model.parameters())
    with pytest.raises(FledgeError, match="the text has 129 tokens, at most 128 can be shown"):
        inspect_ids(model, tokenizer, [5] * 129)


def test_a_reward_model_has_values_instead_of_predictions(tiny: Path) -> None:
    model, tokenizer = load_model(tiny / "reward"), Tokenizer.load(tiny / "reward")
    ids = tokenizer.encode("A lion.")
    found = inspect_ids(model, tokenizer, ids)
    values = model(torch.tensor([ids])).values[0].tolist()
    assert [t["value"] for t in found["tokens"]] == pytest.approx(values, abs=1e-6)
    assert found["lens"] == []
    assert "loss_first" not in found["induction"]
