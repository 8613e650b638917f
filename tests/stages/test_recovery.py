"""Steps that are no number and loss spikes: left out, written down, a limited number of times, to the same bits."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fledge.checkpoint.directory import load_model
from fledge.core import device
from fledge.core.config import make_config
from fledge.core.errors import FledgeError
from fledge.core.log import Log
from fledge.data.stream import Stream
from fledge.objectives.language import next_token
from fledge.objectives.loss import Loss
from fledge.stages import session as session_module
from fledge.stages.examples import document_examples, read_documents
from fledge.stages.session import Session, TrainConfig
from fledge.text.tokenizer import Tokenizer
from fledge.train.loop import LossWatch, SpikeConfig, fit
from fledge.train.optimizers import build
from fledge.train.schedules import warmup_stable_decay

QUIET = Log(quiet=True)
STEPS = 14
Objective = Callable[[Any, Any], Loss]


def stream_of(tiny: Path) -> Stream:
    examples = document_examples(read_documents(tiny / "documents.jsonl", QUIET), Tokenizer.load(tiny / "base"))
    return Stream(examples, dict.fromkeys(examples, 1.0), 64, 2, 1, 0, split=True)


def start(tiny: Path, out: Path, **changes: Any) -> Session:
    settings = {
        "length": 64, "tokens_per_step": 128, "tokens_per_microbatch": 128, "compile": "never", "dtype": "float32",
        "save_seconds": 0, "log_every": 1,
    }  # fmt: skip
    config = make_config(TrainConfig, settings | changes, "the test")
    out.mkdir(exist_ok=True)
    session = Session(config, load_model(tiny / "base"), stream_of(tiny), STEPS, out, Log(out, quiet=True), "test")
    seen, session.watch = session.watch.state(), LossWatch(SpikeConfig(window=4, deviations=6, patience=3))
    session.watch.load_state(seen)
    return session


def poisoned(tiny: Path, steps: dict[int, float]) -> Objective:
    """The loss, multiplied by a factor on the batches that come at these steps of an undisturbed run."""
    stream = stream_of(tiny)
    batches = [next(stream)[0]["ids"] for _ in range(STEPS)]

    def loss(output: Any, batch: Any) -> Loss:
        found = next_token(output, batch)
        for step, factor in steps.items():
            if torch.equal(batch["ids"], batches[step]):
                return Loss(found.sum * factor, found.count)
        return found

    return loss


def by_hand(tiny: Path, left_out: set[int]) -> list[torch.Tensor]:
    """The weights of a plain loop that never sees these steps."""
    model = load_model(tiny / "base")
    config = make_config(TrainConfig, {}, "the test")
    optimizer, stream = build(model, config.optimizer), stream_of(tiny)

    def schedule(step: int) -> float:
        return warmup_stable_decay(step, STEPS, config.warmup, config.decay)

    for step in range(STEPS):
        batch = next(stream)
        if step not in left_out:
            list(fit(model, iter([batch]), next_token, optimizer, schedule, steps=step + 1, start=step))
    return list(model.parameters())


def same(a: Iterator[torch.Tensor] | list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_batch_whose_loss_is_no_number_is_left_out_and_written_down(tiny: Path, tmp_path: Path) -> None:
    session = start(tiny, tmp_path)
    steps = [step.number for step in session.fit(poisoned(tiny, {6: float("nan")}))]
    assert steps == [*range(6), *range(7, STEPS)]
    assert same(session.model.parameters(), by_hand(tiny, {6}))
    (row,) = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert (row["first"], row["last"]) == (6, 6)
    assert row["reason"] == "training stopped at step 7: the loss is nan"
    expected = stream_of(tiny)
    assert row["ids_of_last"] == [next(expected)[0]["ids"] for _ in range(7)][-1].tolist()
    assert session.summary()["skipped_steps"] == 1


def test_a_spike_is_rolled_back_to_before_it_began(tiny: Path, tmp_path: Path) -> None:
    """Steps 8 and 9 had been trained on before step 10 made it three in a row; no state of them is kept as good."""
    spike = {8: 50.0, 9: 50.0, 10: 50.0}
    session = start(tiny, tmp_path)
    steps = [step.number for step in session.fit(poisoned(tiny, spike))]
    assert steps == [*range(10), *range(11, STEPS)]  # 8 and 9 once, before they were undone
    assert same(session.model.parameters(), by_hand(tiny, {8, 9, 10}))


def test_a_spike_without_a_state_before_it_stops(tiny: Path, tmp_path: Path) -> None:
    session = start(tiny, tmp_path, save_seconds=1e9)
    with pytest.raises(FledgeError, match=r"step 11: the loss spiked .* nothing had been saved before"):
        list(session.fit(poisoned(tiny, {8: 50.0, 9: 50.0, 10: 50.0})))


@pytest.mark.parametrize("end", range(1, 14, 2))
@pytest.mark.parametrize("kind", ["nan", "spike"])
def test_interrupted_anywhere_it_comes_to_the_same_bits(tiny: Path, tmp_path: Path, end: int, kind: str) -> None:
    """The process dies after `end` steps have come by; saves are rare, so what it had found out must be on disk."""
    loss = poisoned(tiny, {6: float("nan")} if kind == "nan" else {8: 50.0, 9: 50.0, 10: 50.0})
    left_out = {6} if kind == "nan" else {8, 9, 10}
    first = start(tiny, tmp_path, save_seconds=1e9)
    for count, step in enumerate(first.fit(loss), 1):
        if step.number in (2, 6, 7):
            first.save(step.number + 1)
        if count == end:
            break
    second = start(tiny, tmp_path)
    list(second.fit(loss))
    assert same(second.model.parameters(), by_hand(tiny, left_out))


def test_it_gives_up_after_the_allowed_number_of_times(tiny: Path, tmp_path: Path) -> None:
    bad = dict.fromkeys((3, 5, 7), float("inf"))
    with pytest.raises(FledgeError) as caught:
        list(start(tiny, tmp_path / "a").fit(poisoned(tiny, bad)))
    assert caught.value.message.startswith("training stopped at step 8: the loss is inf; the last good state is step 7")
    assert len((tmp_path / "a" / "skipped.jsonl").read_text().splitlines()) == 2
    with pytest.raises(FledgeError, match="step 4: the loss is inf"):
        list(start(tiny, tmp_path / "b", rollbacks=0).fit(poisoned(tiny, bad)))
    assert not (tmp_path / "b" / "skipped.jsonl").exists()


def test_what_the_watch_has_seen_survives_a_stop(tiny: Path, tmp_path: Path) -> None:
    """A resumed job notices a spike as soon as one that was never stopped."""
    loss = poisoned(tiny, {8: 50.0, 9: 50.0, 10: 50.0})
    first = start(tiny, tmp_path, rollbacks=0)
    for step in first.fit(loss):
        if step.number == 8:
            break
    second = start(tiny, tmp_path, rollbacks=0)
    assert second.start == 8  # the state of step 9 was not written: the loop was left inside it
    with pytest.raises(FledgeError, match="step 11: the loss spiked"):
        list(second.fit(loss))
    watch = LossWatch(SpikeConfig(window=3))
    watch.load_state({"ordinary": [1.0, 2.0], "high": 1})
    assert watch.state() == {"ordinary": [1.0, 2.0], "high": 1}


def test_it_stops_while_there_is_still_memory_to_stop_with(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = start(tiny, tmp_path, save_seconds=1e9)
    left = iter(["", "", "only 90 MiB of memory are free"])
    monkeypatch.setattr(session_module, "memory_is_running_out", lambda: next(left))
    with pytest.raises(FledgeError) as caught:
        list(session.fit(next_token))
    assert caught.value.message.startswith("stopped after step 3 of 14: only 90 MiB of memory are free")
    assert "the last good state is step 3" in caught.value.message
    assert start(tiny, tmp_path).start == 3


def test_a_containers_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {
        "memory.max": "1000\n",
        "memory.current": "700\n",
        "memory.stat": "anon 5\ninactive_file 60\n",
    }.items():
        (tmp_path / name).write_text(text)
    assert device.container_memory(tmp_path) == 360
    (tmp_path / "memory.max").write_text("max\n")
    assert device.container_memory(tmp_path) > 1 << 60
    assert device.container_memory(tmp_path / "absent") > 1 << 60
    monkeypatch.setattr(device, "container_memory", lambda: 50 << 20)
    assert device.memory_is_running_out() == "only 50 MiB of memory are free"
    assert device.memory_is_running_out(10 << 20) == ""
