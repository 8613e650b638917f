"""Our logits equal `transformers`', both ways, on tiny random configs of every family."""

from pathlib import Path
from typing import Any

import pytest
import torch
from cases import CASES, logits_of, randomised, theirs_of
from safetensors.torch import load_file
from torch import Tensor

from fledge.checkpoint.directory import load_model, save_model
from fledge.core.errors import FledgeError
from fledge.model.cache import Cache
from fledge.model.config import ModelConfig
from fledge.model.heads import build

transformers = pytest.importorskip("transformers")

TOLERANCE = 1e-4
DECODERS = [name for name, case in CASES.items() if not case.encodes]
OF_TOKENS = [name for name in CASES if name not in ("bert-pair", "bert-classifier", "bert-regression")]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[torch.nn.Module, Path]]:
    """Every case's model, and the directory transformers writes of it."""
    root = tmp_path_factory.mktemp("theirs")
    models = {name: theirs_of(name) for name in CASES}
    for name, model in models.items():
        model.save_pretrained(root / name)
    return {name: (model, root / name) for name, model in models.items()}


def asked(name: str, rows: int, length: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Random rows, as their keywords and as ours."""
    case = CASES[name]
    torch.manual_seed(2)
    ids = torch.randint(3, 97, (rows, length))
    if case.encodes:
        types = torch.randint(0, 2, (rows, length))
        return {"input_ids": ids, "token_type_ids": types}, {"ids": ids, "token_types": types}
    if case.reads:
        source = torch.randint(3, 97, (rows, length + 4))
        return {"input_ids": source, "decoder_input_ids": ids}, {"ids": ids, "source_ids": source}
    return {"input_ids": ids}, {"ids": ids}


def compare(record_property: Any, ours: Tensor, theirs: Tensor) -> None:
    """Ours against theirs; the difference goes into the table of docs/families.md."""
    record_property("difference", float((ours - theirs).abs().max()))
    torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_we_read_what_they_write(name: str, saved: dict[str, Any], record_property: Any) -> None:
    theirs, directory = saved[name]
    ours = load_model(directory).eval()
    their_inputs, our_inputs = asked(name, 3, 23)
    expected = theirs(**their_inputs)
    found = ours(**our_inputs)
    compare(record_property, logits_of(found), logits_of(expected))
    assert logits_of(expected).std() > 0.1
    if name == "bert-pretraining":
        torch.testing.assert_close(found.pair, expected.seq_relationship_logits, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_they_read_what_we_write_and_the_tensors_are_identical(
    name: str, saved: dict[str, Any], tmp_path: Path, record_property: Any
) -> None:
    theirs, directory = saved[name]
    save_model(load_model(directory), tmp_path)
    again = type(theirs).from_pretrained(tmp_path).eval()
    inputs, _ = asked(name, 2, 17)
    compare(record_property, logits_of(again(**inputs)), logits_of(theirs(**inputs)))
    before, after = (load_file(side / "model.safetensors") for side in (directory, tmp_path))
    assert set(before) == set(after)
    for tensor_name, tensor in before.items():
        assert torch.equal(tensor, after[tensor_name]), tensor_name


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_padding_agrees_with_them(name: str, saved: dict[str, Any], record_property: Any) -> None:
    """The second row is shorter; of an encoder-decoder, its source is."""
    theirs, directory = saved[name]
    ours = load_model(directory).eval()
    their_inputs, our_inputs = asked(name, 2, 14)
    padded = "source_ids" if CASES[name].reads else "ids"
    mask = torch.ones_like(our_inputs[padded])
    mask[1, 9:] = 0
    for inputs, key in ((their_inputs, "input_ids"), (our_inputs, padded)):
        inputs[key] = inputs[key].masked_fill(mask == 0, 0)
    documents = {padded.replace("ids", "documents"): mask.int()}
    expected = logits_of(theirs(**their_inputs, attention_mask=mask))
    found = logits_of(ours(**our_inputs, **documents))
    if name in OF_TOKENS and not CASES[name].reads:
        expected, found = expected[mask.bool()], found[mask.bool()]
    compare(record_property, found, expected)


@pytest.mark.parametrize("name", OF_TOKENS)
@torch.no_grad()
def test_packed_documents_agree_with_each_alone(name: str, saved: dict[str, Any], record_property: Any) -> None:
    theirs, directory = saved[name]
    ours = load_model(directory).eval()
    pairs = [asked(name, 1, length) for length in (9, 14)]
    expected = torch.cat([logits_of(theirs(**their_inputs)) for their_inputs, _ in pairs], 1)
    batch = {key: torch.cat([our_inputs[key] for _, our_inputs in pairs], 1) for key in pairs[0][1]}
    for kind in ("", "source_") if CASES[name].reads else ("",):
        lengths = [our_inputs[f"{kind}ids"].shape[1] for _, our_inputs in pairs]
        batch[f"{kind}positions"] = torch.cat([torch.arange(n) for n in lengths])[None]
        batch[f"{kind}documents"] = torch.tensor([[1] * lengths[0] + [2] * lengths[1]], dtype=torch.int32)
    compare(record_property, logits_of(ours(**batch)), expected)


@pytest.mark.parametrize("name", DECODERS)
@torch.no_grad()
def test_decoding_through_the_cache_agrees_with_them(name: str, saved: dict[str, Any], record_property: Any) -> None:
    """Our cache against their whole forward pass, and their cache against ours at the last step."""
    theirs, directory = saved[name]
    ours = load_model(directory).eval()
    their_inputs, our_inputs = asked(name, 2, 14)
    ids, memory = our_inputs["ids"], None
    if CASES[name].reads:
        memory = ours.encode(our_inputs["source_ids"])
    cache = Cache(ours.config, 2, 32, "cpu", torch.float32)
    first = ours(ids[:, :6], torch.arange(6).expand(2, 6), cache=cache, memory=memory).logits()
    steps = [ours(ids[:, t : t + 1], torch.full((2, 1), t), cache=cache, memory=memory).logits() for t in range(6, 14)]
    compare(record_property, torch.cat([first, *steps], 1), logits_of(theirs(**their_inputs)))


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3", "qwen3-tied", "neox", "bloom", "opt-350m", "mixtral"])
@pytest.mark.parametrize("labels", [1, 4])
@torch.no_grad()
def test_rewards_and_classes_agree_with_their_sequence_classification(name: str, labels: int, tmp_path: Path) -> None:
    config = CASES[name].config()
    config.num_labels = labels
    theirs = randomised(transformers.AutoModelForSequenceClassification.from_config(config))
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_model(tmp_path / "theirs").eval()
    assert ours.config.head == ("scalar" if labels == 1 else "classifier")
    ids = torch.randint(1, 97, (2, 12))
    ids[1, 7:] = 0
    documents = (ids != 0).int()
    expected = theirs(ids, attention_mask=documents.long()).logits
    values = ours(ids, documents=documents).values
    found = torch.stack([values[0, 11], values[1, 6]])[:, None] if labels == 1 else values
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)

    save_model(ours, tmp_path / "ours", extra={"reward_mean": 0.25, "pad_token_id": 0})
    again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "ours").eval()
    assert again.config.num_labels == labels
    torch.testing.assert_close(again(ids, attention_mask=documents.long()).logits, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["gpt2", "qwen3", "neox", "bloom"])
@torch.no_grad()
def test_tags_agree_with_their_token_classification(name: str, tmp_path: Path) -> None:
    config = CASES[name].config()
    config.num_labels = 3
    theirs = randomised(transformers.AutoModelForTokenClassification.from_config(config))
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_model(tmp_path / "theirs").eval()
    ids = torch.randint(1, 97, (2, 12))
    torch.testing.assert_close(ours(ids).values, theirs(ids).logits, atol=TOLERANCE, rtol=0)
    save_model(ours, tmp_path / "ours")
    again = transformers.AutoModelForTokenClassification.from_pretrained(tmp_path / "ours").eval()
    torch.testing.assert_close(again(ids).logits, theirs(ids).logits, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["llama", "qwen3", "qwen3-moe", "mixtral"])
def test_answers_agree_with_their_question_answering(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    kind = getattr(transformers, case.architecture.replace("ForCausalLM", "ForQuestionAnswering"))
    theirs = randomised(kind(case.config()))
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_model(tmp_path / "theirs").eval()
    assert ours.config.head == "span"
    ids = torch.randint(3, 97, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(ours(ids).values, logits_of(theirs(ids)), atol=1e-4, rtol=1e-4)
    save_model(ours, tmp_path / "ours")
    written, read = (load_file(tmp_path / side / "model.safetensors") for side in ("ours", "theirs"))
    assert written.keys() == read.keys()
    assert all(torch.equal(written[key], read[key]) for key in read)


@torch.no_grad()
def test_t5_classifies_at_the_last_token_of_its_decoder(tmp_path: Path) -> None:
    config = CASES["t5"].config()
    config.num_labels = 3
    theirs = randomised(transformers.T5ForSequenceClassification(config))
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_model(tmp_path / "theirs").eval()
    ids = torch.randint(3, 97, (2, 9))
    ids[:, -1] = 1  # eos
    shifted = torch.cat([torch.zeros_like(ids[:, :1]), ids[:, :-1]], 1)
    torch.testing.assert_close(ours(shifted, source_ids=ids).values, theirs(ids).logits, atol=TOLERANCE, rtol=0)
    save_model(ours, tmp_path / "ours", extra={"decoder_start_token_id": 0})
    again = transformers.T5ForSequenceClassification.from_pretrained(tmp_path / "ours").eval()
    torch.testing.assert_close(again(ids).logits, theirs(ids).logits, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["bert-masked", "llama", "gpt2"])
@torch.no_grad()
def test_a_base_model_saved_without_a_head_is_read_as_an_embedding(name: str, tmp_path: Path) -> None:
    theirs = randomised(transformers.AutoModel.from_config(CASES[name].config()))
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_model(tmp_path / "theirs").eval()
    ids = torch.randint(1, 97, (2, 12))
    hidden = theirs(ids).last_hidden_state
    torch.testing.assert_close(ours(ids).vectors, hidden.mean(1), atol=TOLERANCE, rtol=0)
    save_model(ours, tmp_path / "ours")
    again = transformers.AutoModel.from_pretrained(tmp_path / "ours").eval()
    torch.testing.assert_close(again(ids).last_hidden_state, hidden, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["qwen3", "mixtral", "t5", "bert-masked"])
@torch.no_grad()
def test_half_precisions_and_shards_are_read(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    theirs = theirs_of(name).to(dtype)
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    again = type(theirs).from_pretrained(tmp_path, dtype=torch.float32).eval()
    their_inputs, our_inputs = asked(name, 1, 8)
    found = logits_of(load_model(tmp_path)(**our_inputs))
    torch.testing.assert_close(found, logits_of(again(**their_inputs)), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    ("shape", "axes", "expected"),
    [
        ("decoder", {}, "Qwen3ForCausalLM"),
        ("decoder", {"experts": 4}, "Qwen3MoeForCausalLM"),
        ("decoder", {"experts": 4, "qk_norm": False, "router_z": 0.001}, "MixtralForCausalLM"),
        ("encoder", {}, "BertForMaskedLM"),
        ("encoder", {"head": "pretraining"}, "BertForPreTraining"),
        ("encoder_decoder", {"encoder_layers": 1}, "T5ForConditionalGeneration"),
    ],
    ids=str,
)
@torch.no_grad()
def test_a_model_of_our_own_loads_there(shape: Any, axes: dict[str, Any], expected: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    ours = build(ModelConfig.sized(2, 97, 64, shape, **axes)).eval()
    save_model(ours, tmp_path)
    theirs = getattr(transformers, expected).from_pretrained(tmp_path).eval()
    assert sum(p.numel() for p in theirs.parameters()) == ours.config.parameters()
    ids = torch.randint(3, 97, (2, 20))
    if shape == "encoder_decoder":
        found, theirs_found = ours(ids, source_ids=ids), theirs(ids, decoder_input_ids=ids)
    else:
        found, theirs_found = ours(ids), theirs(ids)
    torch.testing.assert_close(logits_of(found), logits_of(theirs_found), atol=TOLERANCE, rtol=0)
    again = load_model(tmp_path)
    assert again.config == ours.config.model_copy(update={"encoder_layers": again.config.encoder_layers})
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in ours.state_dict().items())


@pytest.mark.parametrize(
    ("shape", "axes", "says"),
    [
        ("decoder", {"residual": "post"}, "qwen3 comes nearest, but cannot say residual='post'"),
        ("decoder", {"positions": "alibi", "window": 4}, "positions='alibi'"),
        ("encoder_decoder", {"positions": "rotary"}, "positions='rotary'"),
        ("encoder", {"residual": "pre"}, "residual='pre'"),
        ("decoder", {"experts": 4, "shared_hidden": 64}, "shared_hidden=64"),
    ],
    ids=str,
)
def test_a_model_that_no_family_can_say_is_refused(shape: Any, axes: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(FledgeError, match="no known family") as caught:
        save_model(build(ModelConfig.sized(1, 97, 64, shape, **axes)), tmp_path / "model")
    assert says in caught.value.message
    assert caught.value.remedy
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
        ("opt", {"layer_norm_elementwise_affine": False}),
        ("bloom", {"apply_residual_connection_post_layernorm": True}),
        ("bert-masked", {"is_decoder": True}),
        ("qwen3-moe", {"decoder_sparse_step": 2}),
    ],
    ids=str,
)
def test_what_no_axis_says_is_refused(name: str, change: dict[str, Any], saved: dict[str, Any], tmp_path: Path) -> None:
    import json
    import shutil

    shutil.copytree(saved[name][1], tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(FledgeError, match=f"{next(iter(change))}.*not supported"):
        load_model(tmp_path / "model")


@torch.no_grad()
def test_a_head_that_is_not_the_table_is_read_although_the_config_ties_them(
    saved: dict[str, Any], tmp_path: Path
) -> None:
    """As transformers reads it."""
    from safetensors.torch import save_file

    directory = saved["qwen3-tied"][1]
    (tmp_path / "config.json").write_text((directory / "config.json").read_text())
    tensors = load_file(directory / "model.safetensors")
    tensors["lm_head.weight"] = torch.randn(97, 48)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    ids = torch.randint(3, 97, (1, 8))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(load_model(tmp_path)(ids).logits(), theirs(ids).logits, atol=TOLERANCE, rtol=0)


def test_the_table_in_the_docs_names_every_case() -> None:
    text = (Path(__file__).parents[2] / "docs" / "families.md").read_text()
    assert [name for name in CASES if f"`{name}`" not in text] == []
