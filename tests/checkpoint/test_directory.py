"""Damaged, incomplete and hostile checkpoints are refused in one line; good ones mean to transformers what they say."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fledge.checkpoint.directory import CHECKSUMS, FILES, load_model, read_config, save_model
from fledge.core.errors import FledgeError
from fledge.core.nouns import Message
from fledge.model.config import ModelConfig
from fledge.model.heads import LanguageModel, ScalarModel, build
from fledge.text.template import render_text
from fledge.text.tokenizer import Tokenizer

CONFIG = ModelConfig(vocab_size=300, width=32, layers=2, heads=4, kv_heads=2, head_size=8, hidden=48, context=64)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["I love New York Zoo. 你好 ☃ " * 20], 300)


@pytest.fixture
def directory(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    torch.manual_seed(0)
    save_model(build(CONFIG), tmp_path / "model", tokenizer=tokenizer)
    return tmp_path / "model"


def edit(directory: Path, **changes: Any) -> None:
    """Changes config.json as somebody who means it: without checksums."""
    (directory / CHECKSUMS).unlink(missing_ok=True)
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(directory: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    (directory / CHECKSUMS).unlink(missing_ok=True)
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")


def refusal(directory: Path, *mentioned: str, **options: Any) -> FledgeError:
    """The error on loading, which names what is `mentioned`, in one line with a remedy."""
    with pytest.raises(FledgeError) as caught:
        load_model(directory, **options)
    for text in mentioned:
        assert text in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.remedy
    return caught.value


def test_what_is_written_comes_back_bit_by_bit(directory: Path) -> None:
    torch.manual_seed(0)
    expected = build(CONFIG)
    loaded = load_model(directory)
    assert loaded.config == CONFIG
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in expected.state_dict().items())
    tensors = [*loaded.parameters(), *loaded.buffers()]
    assert {t.device.type for t in tensors} == {"cpu"}
    ids = torch.arange(20)[None]
    assert torch.equal(loaded(ids).logits(), expected(ids).logits())
    assert load_model(directory, dtype=torch.bfloat16).backbone.embedding.weight.dtype == torch.bfloat16


def test_loading_draws_no_random_numbers(directory: Path) -> None:
    before = torch.get_rng_state()
    load_model(directory, head="scalar")
    assert torch.equal(before, torch.get_rng_state())


def test_a_language_model_gets_a_score_head_of_zeros(directory: Path) -> None:
    model = load_model(directory, head="scalar")
    assert isinstance(model, ScalarModel)
    assert not model(torch.arange(9)[None]).values.any()
    save_model(model, directory.with_name("reward"))
    refusal(directory.with_name("reward"), "reward", head="language")


@pytest.mark.parametrize(
    ("head", "labels"), [("classifier", 3), ("tokens", 5), ("span", 2), ("pair", 2), ("embedding", 2)]
)
def test_an_encoder_gets_another_head_for_fine_tuning(head: Any, labels: int, tmp_path: Path) -> None:
    """The backbone keeps its weights, the head is new, and the result is written and read like any other."""
    before = build(ModelConfig.sized(1, 300, 32, "encoder", head="pretraining"))
    save_model(before, tmp_path / "before")
    model = load_model(tmp_path / "before", head=head, labels=None if labels == 2 else labels)
    assert (model.config.head, model.config.labels) == (head, labels)
    for name, tensor in before.backbone.state_dict().items():
        assert torch.equal(tensor, model.backbone.state_dict()[name]), name
    output = model(torch.arange(12).view(2, 6))
    shape = {"tokens": (2, 6, 5), "span": (2, 6, 2), "embedding": (2, 64)}.get(head, (2, labels))
    assert (output.vectors if head == "embedding" else output.values).shape == shape
    save_model(model, tmp_path / "after")
    again = load_model(tmp_path / "after")
    assert again.config.head == head
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())
    refusal(tmp_path / "after", head, "masked", head="masked")


@pytest.mark.parametrize("first", ["language", "span", "classifier"])
@pytest.mark.parametrize("then", ["span", "tokens", "embedding"])
def test_a_decoder_gets_another_head_whatever_its_tensors_are_called(first: Any, then: Any, tmp_path: Path) -> None:
    """`Qwen3ForQuestionAnswering` calls its base model otherwise than every other class does."""
    before = build(ModelConfig.sized(1, 300, 32, head=first))
    save_model(before, tmp_path)
    after = load_model(tmp_path, head=then, labels=3 if then == "tokens" else None)
    for name, tensor in before.backbone.state_dict().items():
        assert torch.equal(tensor, after.backbone.state_dict()[name]), name


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_under_checksums(directory: Path, name: str) -> None:
    path = directory / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    error = refusal(directory, name)
    assert "checksum" in error.message or name == "config.json"
    path.unlink()
    refusal(directory, "missing" if name != "config.json" else "no config.json")


@pytest.mark.parametrize("size", [0, 5, 8, 100, -1])
@pytest.mark.parametrize("checksums", [True, False])
def test_a_file_cut_short_is_damaged(directory: Path, size: int, checksums: bool) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    if not checksums:
        (directory / CHECKSUMS).unlink()
    refusal(directory, str(path), "damaged")


def test_missing_and_unknown_tensors_are_named(directory: Path) -> None:
    edit_weights(directory, lambda t: t.pop("model.layers.1.self_attn.k_proj.weight"))
    refusal(directory, str(directory), "1 missing tensors (e.g. model.layers.1.self_attn.k_proj.weight)")
    edit_weights(directory, lambda t: t.update({"model.layers.9.extra": torch.ones(1)}))
    refusal(directory, "1 missing", "1 unknown tensors (e.g. model.layers.9.extra)")


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("model.layers.0.self_attn.q_proj.weight", (16, 32)),
        ("model.layers.0.mlp.up_proj.weight", (48, 31)),
        ("model.norm.weight", (33,)),
        ("model.embed_tokens.weight", (32, 300)),
    ],
)
def test_a_tensor_of_the_wrong_shape_is_named(directory: Path, name: str, shape: tuple[int, ...]) -> None:
    edit_weights(directory, lambda t: t.update({name: torch.zeros(shape)}))
    refusal(directory, str(directory), name, str(list(shape)))


def test_parts_of_a_fused_projection_cannot_make_up_for_each_other(directory: Path) -> None:
    """A query part too short by what the key part is too long: the sum fits, the parts do not."""
    attention = "model.layers.0.self_attn."
    wrong = {f"{attention}q_proj.weight": torch.zeros(31, 32), f"{attention}k_proj.weight": torch.zeros(17, 32)}
    edit_weights(directory, lambda t: t.update(wrong))
    refusal(directory, "q_proj")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_type": "mamba"}, "'mamba' is not known"),
        ({"model_type": None}, "is not known"),
        ({"architectures": ["Qwen3ForMultipleChoice"]}, "Qwen3ForMultipleChoice"),
        ({"architectures": 7}, "malformed"),
        ({"hidden_size": -32}, "width"),
        ({"hidden_size": "wide"}, "width"),
        ({"num_attention_heads": 0}, "heads"),
        ({"num_attention_heads": 0, "head_dim": None}, "malformed"),
        ({"num_key_value_heads": 3}, "4 heads cannot share 3"),
        ({"num_hidden_layers": 10**9}, "impossible"),
        ({"hidden_size": 10**12}, "impossible"),
        ({"max_position_embeddings": 10**15}, "impossible"),
        ({"vocab_size": 10**15}, "impossible"),
        ({"head_dim": 7}, "head_size"),
        ({"hidden_act": "mish"}, "'mish' is not known"),
        ({"rope_parameters": {"rope_type": "spiral", "factor": 2}}, "'spiral' is not known"),
        ({"rope_parameters": {"rope_type": "linear"}}, "lacks 'factor'"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 0}}, "not finite"),
        ({"rope_parameters": {"rope_theta": 0}}, "not finite"),
        ({"rope_parameters": [1, 2]}, "malformed"),
        ({"quantization_config": {"bits": 4}}, "quantised"),
    ],
    ids=str,
)
def test_an_impossible_config_is_refused_before_anything_is_allocated(
    directory: Path, changes: dict[str, Any], says: str
) -> None:
    edit(directory, **changes)
    refusal(directory, str(directory / "config.json"), says)


@pytest.mark.parametrize("key", ["vocab_size", "hidden_size", "num_hidden_layers", "max_position_embeddings"])
def test_an_incomplete_config_names_what_it_lacks(directory: Path, key: str) -> None:
    values = json.loads((directory / "config.json").read_text())
    del values[key]
    (directory / "config.json").write_text(json.dumps(values))
    refusal(directory, "config.json", key)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '"text"', "\udcff"])
def test_a_config_that_is_no_object_is_refused(directory: Path, content: str) -> None:
    (directory / "config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    refusal(directory, "config.json")


def test_a_directory_without_model_or_weights_says_so(directory: Path, tmp_path: Path) -> None:
    refusal(tmp_path / "absent", "absent", "no config.json")
    (directory / CHECKSUMS).unlink()
    (directory / "model.safetensors").unlink()
    refusal(directory, str(directory), "no model.safetensors")


def sharded(directory: Path, weight_map: object) -> None:
    """Moves the weights into a file that an index names."""
    (directory / CHECKSUMS).unlink(missing_ok=True)
    (directory / "model.safetensors").rename(directory.parent / "outside.safetensors")
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize(
    "weight_map",
    [{"a": "../outside.safetensors"}, {"a": ".."}, {"a": "/etc/passwd"}, {"a": 1}, {}, None, ["a"], {"a": "x.bin"}],
    ids=str,
)
def test_an_index_cannot_reach_out_of_its_directory(directory: Path, weight_map: object) -> None:
    sharded(directory, weight_map)
    refusal(directory, "model.safetensors.index.json")


def test_a_missing_shard_is_named(directory: Path) -> None:
    sharded(directory, {"a": "model-00001-of-00002.safetensors"})
    refusal(directory, "model-00001-of-00002.safetensors", "missing")


def test_checksums_reach_no_other_directory(directory: Path) -> None:
    (directory.parent / "secret").write_text("x")
    (directory / CHECKSUMS).write_text(json.dumps({"../secret": "0"}))
    refusal(directory, str(directory / "secret"), "missing")
    (directory / CHECKSUMS).write_text("[]")
    refusal(directory, CHECKSUMS)


def test_a_crash_while_writing_never_leaves_something_that_loads_wrongly(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fills up while a model is overwritten by another one: what is left is refused, not mixed."""

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fledge.checkpoint.directory.save_file", full)
    with pytest.raises(FledgeError, match="disk is full"):
        save_model(build(CONFIG.model_copy(update={"norm_eps": 1e-3})), directory)
    refusal(directory, "config.json", "checksum")


def test_fresh_weights_have_no_file_to_be_mistaken_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fledge.checkpoint.directory.save_file", killed)
    with pytest.raises(KeyboardInterrupt):
        save_model(build(CONFIG), tmp_path)
    refusal(tmp_path, "no model.safetensors")


def test_extra_values_are_kept(tmp_path: Path) -> None:
    save_model(build(CONFIG), tmp_path, extra={"reward_mean": 0.5})
    assert read_config(tmp_path)[1]["reward_mean"] == 0.5


CONVERSATIONS = [
    (Message("user", "What is 你好?"),),
    (Message("system", "Be brief."), Message("user", " a\n"), Message("assistant", "b"), Message("user", "<|im_end|>")),
]


@pytest.mark.parametrize("messages", CONVERSATIONS, ids=["one", "many"])
def test_transformers_renders_the_template_identically(
    directory: Path, tokenizer: Tokenizer, messages: tuple[Message, ...]
) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(directory)
    turns = [{"role": m.role, "content": m.content} for m in messages]
    expected = theirs.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert render_text(tokenizer, messages, add_generation_prompt=True) == expected
    assert render_text(Tokenizer.load(directory), messages, add_generation_prompt=True) == expected
    assert (theirs.eos_token_id, theirs.pad_token_id) == (tokenizer.eos_id, tokenizer.pad_id)
    assert theirs.model_max_length == CONFIG.context


@pytest.mark.parametrize("end", ["eos_id", "document_id"])
@torch.no_grad()
def test_transformers_stops_where_a_turn_ends(tmp_path: Path, tokenizer: Tokenizer, end: str) -> None:
    """A model in which the token after `a` is `b` and after `b` the end; nothing is said about stopping."""
    from transformers import AutoModelForCausalLM

    a, b, stop = 200, 201, getattr(tokenizer, end)
    model = LanguageModel(CONFIG.model_copy(update={"tied": False, "width": 300, "layers": 1}))
    for block in model.backbone.blocks:
        block.attention.out.weight.zero_()
        block.feedforward.down.weight.zero_()
    model.backbone.embedding.weight.copy_(torch.eye(300))
    assert model.head is not None
    model.head.weight.zero_()
    model.head.weight[b, a] = model.head.weight[stop, b] = model.head.weight[a, stop] = 1.0
    save_model(model, tmp_path, tokenizer=tokenizer)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert theirs.generate(torch.tensor([[a]]), do_sample=False, max_new_tokens=9).tolist() == [[a, b, stop]]
