"""Pretraining by every objective: it learns, it resumes to the same bits, packed samples never see each other, and what
does not fit is refused with the reason."""

import json
import os
import signal
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

from fledge.core.config import make_config
from fledge.core.errors import FledgeError, Stopped
from fledge.core.log import Log
from fledge.data.corruption.sample import CorruptionConfig, arrange
from fledge.data.packing import IGNORED, Example, collate
from fledge.model.config import ModelConfig
from fledge.model.inputs import inputs
from fledge.recipes.artifact import make
from fledge.stages.objective import OBJECTIVES, Plan, companions, plan_of
from fledge.stages.pretrain import PretrainConfig, pretrain
from fledge.stages.session import Session
from fledge.text.tokenizer import DENOISING, SPECIAL, Tokenizer
from fledge.train.detector import Detector
from gpu import gpu

ARCHITECTURES = {
    ("language", "decoder"): "Qwen3ForCausalLM", ("masked", "encoder"): "BertForMaskedLM",
    ("pretraining", "encoder"): "BertForPreTraining", ("tokens", "encoder"): "BertForTokenClassification",
    ("language", "encoder_decoder"): "T5ForConditionalGeneration",
}  # fmt: skip
ANIMALS = ("zebra", "lion", "otter", "heron", "tapir", "gecko", "llama", "moose")


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """documents and heldout (.jsonl), en.txt and de.txt line by line, tokenizer/ with every special token, plain/."""
    root = tmp_path_factory.mktemp("zoo")
    draw = np.random.default_rng(0)

    def pair() -> tuple[str, str]:
        a, b = draw.choice(ANIMALS, 2)
        return f"The {a} sees the {b}.", f"Der {a} sieht den {b}."

    texts = [" ".join(pair()[0] for _ in range(8)) for _ in range(60)]
    for name, part in (("documents", texts[:50]), ("heldout", texts[50:])):
        (root / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in part))
    pairs = [pair() for _ in range(300)]
    for side, name in enumerate(("en", "de")):
        (root / f"{name}.txt").write_text("".join(p[side] + "\n" for p in pairs[:280]))
        (root / f"{name}_held.txt").write_text("".join(f"{p[side]} So.\n" for p in pairs[280:]))
    everything = [*texts, *(" ".join(p) for p in pairs)]
    Tokenizer.train(everything, 460, special_tokens=SPECIAL + DENOISING).save(root / "tokenizer")
    Tokenizer.train(everything, 300).save(root / "plain")
    return root


def settings_for(name: str, zoo: Path, **changes: Any) -> PretrainConfig:
    values: dict[str, Any] = {
        "documents": zoo / "documents.jsonl", "heldout": zoo / "heldout.jsonl", "tokenizer": zoo / "tokenizer",
        "objective": name, "depth": 1, "context": 48, "length": 48, "tokens_per_step": 480,
        "tokens_per_microbatch": 240, "tokens": 30 * 480, "evaluate_every": 1000, "log_every": 1, "compile": "never",
        "save_seconds": 1e9, "optimizer": {"learning_rate": 0.01},
    }  # fmt: skip
    if name == "tlm":
        values |= {"documents": zoo / "en.txt", "translations": zoo / "de.txt", "heldout": zoo / "en_held.txt"}
        values |= {"heldout_translations": zoo / "de_held.txt"}
    return make_config(PretrainConfig, values | changes, "the test")


def losses(directory: Path) -> list[float]:
    return [
        json.loads(line)["loss"] for line in (directory / "metrics.jsonl").read_text().splitlines() if '"loss"' in line
    ]


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_each_objective_learns(name: str, zoo: Path, tmp_path: Path) -> None:
    """From even guessing at first to something better at the end, on the training and on held-out text."""
    summary = pretrain(settings_for(name, zoo), tmp_path, Log(tmp_path, quiet=True))
    found = losses(tmp_path)
    assert len(found) == 30
    assert found[-1] < 0.75 * found[0]
    architecture = json.loads((tmp_path / "config.json").read_text())["architectures"][0]
    assert architecture == ARCHITECTURES[OBJECTIVES[name].head, OBJECTIVES[name].shape]
    _, info = getattr(transformers, architecture).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    if name == "lm":
        assert summary["bits_per_byte"] < 2
    else:
        assert summary["heldout_loss"] < 0.75 * found[0]
        assert summary["heldout_accuracy"] > 0.15


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_a_gpu_learns_the_same(name: str, zoo: Path, tmp_path: Path) -> None:
    found = []
    for device in ("cpu", "gpu"):
        (tmp_path / device).mkdir()
        config = settings_for(name, zoo, tokens=3 * 480, dtype="float32")
        with gpu() if device == "gpu" else nullcontext():
            pretrain(config, tmp_path / device, Log(tmp_path / device, quiet=True))
        found.append(losses(tmp_path / device))
    assert found[1] == pytest.approx(found[0], rel=1e-4)


@pytest.mark.parametrize("name", ["rtd", "nsp", "permutation", "ul2", "tlm"])
def test_stopped_and_run_again_ends_in_the_same_bytes(
    name: str, zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings_for(name, zoo, tokens=6 * 480)
    make("pretrain", config, tmp_path / "whole", "mark", Log(quiet=True))
    note = Session.note

    def noted(session: Session, done: Any, bar: Any) -> None:
        note(session, done, bar)
        if done.number == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Session, "note", noted)
        with pytest.raises(Stopped):
            make("pretrain", config, tmp_path / "halved", "mark", Log(quiet=True))
    make("pretrain", config, tmp_path / "halved", "mark", Log(quiet=True))
    whole, halved = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "halved"))
    assert whole == halved


def test_pretraining_goes_on_from_a_model_also_with_another_objective(zoo: Path, tmp_path: Path) -> None:
    def weights(name: str) -> dict[str, torch.Tensor]:
        return load_file(tmp_path / name / "model.safetensors")

    def run(name: str, objective: str, **changes: Any) -> list[float]:
        (tmp_path / name).mkdir()
        pretrain(settings_for(objective, zoo, **changes), tmp_path / name, Log(tmp_path / name, quiet=True))
        return losses(tmp_path / name)

    began = run("mlm", "mlm")
    went_on = run("more", "mlm", model=tmp_path / "mlm", tokens=480)
    assert went_on[0] < 0.75 * began[0]
    assert went_on[0] == pytest.approx(began[-1], rel=0.3)
    run("rtd", "rtd", model=tmp_path / "mlm", tokens=480, optimizer={"learning_rate": 1e-12, "weight_decay": 0.0})
    first, then = weights("mlm"), weights("rtd")
    shared = [name for name in then if name.startswith("bert.")]
    assert len(shared) > 10
    assert all(torch.allclose(then[name], first[name], atol=1e-6) for name in shared)
    with pytest.raises(FledgeError, match=r"is of shape=encoder, the objective needs shape=decoder"):
        run("lm", "lm", model=tmp_path / "mlm")
    more = tuple(f"<more_{i}>" for i in range(200))
    Tokenizer.train(["zebra lion"] * 9, 570, special_tokens=SPECIAL + DENOISING + more).save(tmp_path / "other")
    with pytest.raises(FledgeError, match=r"the tokenizer was extended"):
        run("other-run", "mlm", model=tmp_path / "mlm", tokenizer=tmp_path / "other")


def plan_for(name: str | dict[str, float], zoo: Path, length: int = 48, **changes: Any) -> tuple[Plan, Tokenizer]:
    tokenizer = Tokenizer.load(zoo / "tokenizer")
    return plan_of(name, "auto", CorruptionConfig(**changes), length, tokenizer), tokenizer


def random_model(plan: Plan, tokenizer: Tokenizer, length: int) -> torch.nn.Module:
    torch.manual_seed(0)
    common = plan.common
    shape = ModelConfig.sized(2, tokenizer.vocab_size, length, common.shape, head=common.head)
    model = plan.model(shape)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
    return model.eval()


def hidden_states(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    output = model(**inputs(batch))
    if isinstance(model, Detector):
        return torch.cat([output.generated.hidden, output.detect(batch["ids"])], -1)
    return output.hidden


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_packed_samples_never_see_each_other(name: str, zoo: Path) -> None:
    """What a model says of a sample in a packed row is what it says of it alone."""
    plan, tokenizer = plan_for(name, zoo, length=60)
    sentences = (zoo / "en.txt").read_text().splitlines()[:9]
    texts = [Example.of(tokenizer.array(" ".join(sentences[i : i + 3]))) for i in (0, 3, 6)]
    if OBJECTIVES[name].texts == "translations":
        texts = [Example(text.ids, np.arange(len(text.ids)) > 10) for text in texts]
    setting = plan.setting
    samples = [s for i, text in enumerate(texts) for s in plan.corrupt(text, np.random.default_rng(i), setting)]
    model = random_model(plan, tokenizer, 60)
    rows = arrange(samples, setting)
    if plan.common.head != "pretraining":
        assert len(rows) < len(samples), "nothing is packed"
    together = hidden_states(model, collate(rows))
    for r, row in enumerate(rows):
        for number, start, size in row.places:
            alone = hidden_states(model, collate(arrange([samples[number]], setting)))
            torch.testing.assert_close(together[r, start : start + size], alone[0, :size], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["lm", "prefix_lm", "permutation", "seq2seq_lm"])
def test_no_answer_can_be_seen_where_it_is_asked_for(name: str, zoo: Path) -> None:
    """Another token in the place of an answer changes nothing where that answer is to be said, nor where an earlier
    one is (in the order of the objective); what is read both ways sees all of its own."""
    plan, tokenizer = plan_for(name, zoo)
    text = Example.of(tokenizer.array((zoo / "en.txt").read_text()[:300]))
    rows = plan.rows([text], [0], [0])[:1]
    batch, model = collate(rows), random_model(plan, tokenizer, 48)
    before = hidden_states(model, batch)[0]
    asked = (batch["targets"][0] != IGNORED).nonzero()[:, 0].tolist()
    for at in asked:
        document = batch["documents"][0] == batch["documents"][0, at]
        if name == "permutation":
            place = (
                document & (batch["order"][0] >= 0) & (batch["positions"][0] == batch["positions"][0, at])
            ).nonzero()
            rank = torch.where(batch["order"] < 0, -1 - batch["order"], batch["order"])[0]
            unmoved = [t for t in asked if rank[t] <= rank[at] or not document[t]]
        else:
            place = torch.tensor([[at + 1]])
            unmoved = [t for t in asked if t <= at]
        if place[0, 0] >= len(before) or not document[place[0, 0]]:
            continue
        changed = {key: column.clone() for key, column in batch.items()}
        changed["ids"][0, place[0, 0]] = (batch["ids"][0, place[0, 0]] + 7) % 300 + 110
        after = hidden_states(model, changed)[0]
        torch.testing.assert_close(after[unmoved], before[unmoved], rtol=0, atol=1e-5)
        later = [t for t in asked if t not in unmoved and document[t]]
        if later:
            assert (after[later] - before[later]).abs().amax(-1).min() > 1e-5


def test_a_prefix_is_read_both_ways(zoo: Path) -> None:
    plan, tokenizer = plan_for("prefix_lm", zoo)
    text = Example.of(tokenizer.array((zoo / "en.txt").read_text()[:200]))
    batch = collate(plan.rows([text], [0], [3])[:1])
    cut = int((batch["prefix"][0] & (batch["documents"][0] == 1)).sum())
    assert cut > 2
    model = random_model(plan, tokenizer, 48)
    before = hidden_states(model, batch)[0]
    batch["ids"][0, cut - 1] = 120
    assert (hidden_states(model, batch)[0, 0] - before[0]).abs().max() > 1e-4


def test_mixtures_draw_by_weight(zoo: Path) -> None:
    plan, tokenizer = plan_for({"span_mask": 3, "infilling": 1}, zoo)
    assert plan.shares == {"span_mask": 0.75, "infilling": 0.25}
    text = Example.of(np.tile(tokenizer.array((zoo / "en.txt").read_text()), 20))
    samples = plan.corrupt(text, np.random.default_rng(0), plan.setting)
    masks = [plan.setting.marks.mask in s.source for s in samples if s.source is not None]
    assert np.mean(masks) == pytest.approx(0.25, abs=0.06)
    assert plan.setting.target_length == 48


@pytest.mark.parametrize(("first", "second"), [(a, b) for a in OBJECTIVES for b in companions(a)][::3])
def test_companions_can_be_mixed(first: str, second: str, zoo: Path) -> None:
    plan, tokenizer = plan_for({first: 1, second: 1}, zoo)
    texts = [Example.of(tokenizer.array((zoo / "en.txt").read_text()[i * 900 :][:900])) for i in range(4)]
    batch = collate(plan.rows(texts, range(4), [0]))
    plan.common.loss(random_model(plan, tokenizer, 48)(**inputs(batch)), batch)


def test_ul2_goes_with_its_like() -> None:
    assert set(companions("ul2")) == {"seq2seq_lm", "span_mask", "infilling", "shuffling"}
    assert companions("lm") == ["prefix_lm"]
    assert companions("rtd") == companions("permutation") == companions("tlm") == []


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"objective": "mml"}, "there is no objective 'mml'", "did you mean 'mlm'"),
    (
        {"objective": "mlm", "shape": "decoder"},
        "needs shape=encoder, not decoder: a hidden token is found",
        "prefix_lm",
    ),
    ({"objective": "lm", "shape": "encoder"}, "needs shape=decoder, not encoder: it predicts from the left", "mlm"),
    (
        {"objective": "span_mask", "shape": "decoder"},
        "needs shape=encoder_decoder, not decoder: an encoder reads",
        "lm",
    ),
    ({"objective": "span_mask", "tokenizer": "plain"}, "does not have: <extra_id_0> …", "denoising=true"),
    ({"objective": "mlm", "tokenizer": "plain"}, "does not have: [MASK], [CLS], [SEP]", "denoising=true"),
    ({"objective": "ul2", "tokenizer": "plain"}, "does not have: <extra_id_0> …, [R] [S] [X]", "denoising=true"),
    ({"objective": {"mlm": 1, "lm": 1}}, "'mlm' and 'lm' cannot be mixed", "no others"),
    ({"objective": {"mlm": 0}}, "the weight of objective 'mlm' is 0", "above 0"),
    ({"objective": {}}, "no objective is given", "lm"),
    ({"objective": "mlm", "length": 8}, "length=8 leave no room", "length=16"),
    ({"objective": "mlm", "corruption": {"share": 1.5}}, "corruption.share", "correct the value"),
    ({"objective": "tlm", "translations": None}, "needs every text with its translation", "translations=FILE"),
    ({"objective": "mlm", "translations": "de.txt", "documents": "en.txt"}, "has no use for translations", "tlm"),
    ({"objective": "nsp", "documents": "lines"}, "needs documents of two sentences", "whole texts"),
    ({"objective": "sop", "documents": "lines"}, "needs documents of two sentences", "whole texts"),
    ({"objective": "shuffling", "documents": "lines"}, "needs documents of two sentences", "whole texts"),
    ({"objective": "nsp", "documents": "one"}, "needs two documents", "sop"),
]


@pytest.mark.parametrize(("changes", "message", "remedy"), REFUSED, ids=lambda v: v[:40] if isinstance(v, str) else "")
def test_what_does_not_fit_is_refused_with_the_reason(
    changes: dict[str, Any], message: str, remedy: str, zoo: Path, tmp_path: Path
) -> None:
    (zoo / "lines").mkdir(exist_ok=True)
    (zoo / "lines" / "a.jsonl").write_text('{"text": "one line"}\n{"text": "another line"}\n')
    (zoo / "one").mkdir(exist_ok=True)
    (zoo / "one" / "a.jsonl").write_text('{"text": "First sentence here. Second sentence there."}\n')
    paths = {
        key: zoo / value
        for key, value in changes.items()
        if key in ("tokenizer", "documents", "translations") and value
    }

    def run() -> None:
        pretrain(settings_for("mlm", zoo, heldout=None, **(changes | paths)), tmp_path, Log(quiet=True))

    with pytest.raises(FledgeError) as caught:
        run()
    assert message in caught.value.message
    assert remedy in caught.value.remedy
