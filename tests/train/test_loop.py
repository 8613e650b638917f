"""The loop: one gradient however a step is divided, resume to the bit, and a refusal before the weights are harmed."""

import copy
import itertools
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from tiny_models import Tiny, text_batch

from fledge.core.errors import FledgeError
from fledge.objectives import Loss, next_token
from fledge.train.loop import LossWatch, SpikeConfig, Step, fit
from fledge.train.optimizers import OptimizerConfig, build
from fledge.train.schedules import warmup_stable_decay

Batch = dict[str, torch.Tensor]
STEPS, ROWS = 3, 12


def part_of(batch: Batch, start: int, end: int) -> Batch:
    return {name: column[start:end] for name, column in batch.items()}


def stream(bounds: list[int], start: int = 0) -> Iterator[list[Batch]]:
    """Steps of 12 rows, cut at `bounds` into micro-batches."""
    for step in itertools.count(start):
        whole = text_batch(ROWS, seed=step)
        yield [part_of(whole, a, b) for a, b in itertools.pairwise(bounds)]


def train(bounds: list[int], steps: int = STEPS, clip: float = 0.1) -> tuple[dict[str, torch.Tensor], list[Step]]:
    model = Tiny()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    found = list(fit(model, stream(bounds), next_token, optimizer, steps=steps, clip=clip))
    return model.state_dict(), found


def process(rank: int, directory: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{directory}/meet", rank=rank, world_size=2)
    state, steps = train([0, 5] if rank == 0 else [5, 7, 12])
    torch.testing.assert_close(steps[0].parts, {})
    if rank == 1:
        from safetensors.torch import save_file

        save_file({**state, "loss": torch.tensor([[s.loss, s.grad_norm] for s in steps])}, f"{directory}/found")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.parametrize("clip", [0.1, 0.0])
def test_uneven_microbatches_give_the_gradient_of_one_batch(clip: float) -> None:
    one, steps = train([0, 12], clip=clip)
    four, others = train([0, 1, 4, 9, 12], clip=clip)
    for name in one:
        torch.testing.assert_close(four[name], one[name], atol=1e-6, rtol=0)
    assert [s.loss for s in others] == pytest.approx([s.loss for s in steps], abs=1e-6)
    assert [s.grad_norm for s in others] == pytest.approx([s.grad_norm for s in steps], abs=1e-6)


def test_the_gradient_is_that_of_the_global_mean_and_clipped_to_the_norm() -> None:
    model, plain = Tiny(), Tiny()
    (step,) = fit(model, stream([0, 3, 12]), next_token, torch.optim.SGD(model.parameters(), lr=1.0), steps=1, clip=0.1)
    batch = text_batch(ROWS, seed=0)
    output = plain(batch["ids"], batch["positions"], batch["documents"])
    loss = torch.nn.functional.cross_entropy(
        (output.hidden @ output.weight.T).flatten(0, 1), batch["targets"].flatten()
    )
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.1)
    assert norm > 0.1, "clipping must bite"
    assert step.loss == pytest.approx(loss.item(), abs=1e-6)
    assert step.grad_norm == pytest.approx(norm.item(), abs=1e-6)
    for mine, p in zip(model.parameters(), plain.parameters()):
        torch.testing.assert_close(mine, p - p.grad, atol=1e-6, rtol=0)


def test_two_processes_equal_one(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    one, steps = train([0, 12])
    mp.spawn(process, (str(tmp_path),), nprocs=2)
    two = load_file(tmp_path / "found")
    numbers = two.pop("loss")
    for name in one:
        torch.testing.assert_close(two[name], one[name], atol=1e-6, rtol=0)
    torch.testing.assert_close(numbers, torch.tensor([[s.loss, s.grad_norm] for s in steps]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_stopping_anywhere_and_resuming_gives_the_same_bits(name: str) -> None:
    schedule = partial(warmup_stable_decay, steps=6, warmup=0.3, decay=0.5)

    def begin() -> tuple[Tiny, object]:
        model = Tiny()
        return model, build(model, OptimizerConfig(name=name))

    model, optimizer = begin()
    for _ in fit(model, stream([0, 7, 12]), next_token, optimizer, schedule, steps=6, dtype=torch.bfloat16):
        pass
    half, first = begin()
    for step in fit(half, stream([0, 7, 12]), next_token, first, schedule, steps=6, dtype=torch.bfloat16):
        if step.number == 2:
            break
    saved = copy.deepcopy((half.state_dict(), first.state_dict()))
    resumed, second = begin()
    resumed.load_state_dict(saved[0])
    second.load_state_dict(saved[1])
    rest = list(
        fit(resumed, stream([0, 7, 12], 3), next_token, second, schedule, steps=6, start=3, dtype=torch.bfloat16)
    )
    assert [step.number for step in rest] == [3, 4, 5]
    for a, b in zip(model.parameters(), resumed.parameters()):
        assert torch.equal(a, b)


def test_a_step_that_is_not_finite_is_refused_before_it_harms_the_weights() -> None:
    model = Tiny()

    def poisoned(output: object, batch: Batch) -> Loss:
        found = next_token(output, batch)
        return found._replace(sum=found.sum * batch["factor"])

    def batches() -> Iterator[list[Batch]]:
        for step, (batch,) in enumerate(stream([0, 12])):
            yield [{**batch, "factor": torch.tensor(math.nan if step == 2 else 1.0)}]

    good = []
    with pytest.raises(FledgeError, match="step 3: the loss is nan"):  # noqa: PT012
        for _ in fit(model, batches(), poisoned, build(model, OptimizerConfig()), steps=9):
            good.append(copy.deepcopy(model.state_dict()))
    assert len(good) == 2
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), good[-1].values()))


def test_a_step_with_nothing_to_learn_from_is_refused() -> None:
    model = Tiny()
    batch = text_batch(2, seed=0)
    batch["targets"].fill_(-100)
    with pytest.raises(FledgeError, match="step 1"):
        list(fit(model, iter([[batch]]), next_token, build(model, OptimizerConfig()), steps=1))


def test_a_lasting_spike_stops_and_a_single_strange_batch_does_not() -> None:
    watch = LossWatch(SpikeConfig(window=8, deviations=6, patience=3))
    ordinary = [2.0, 2.1, 1.9, 2.05, 1.95, 2.0, 2.1, 1.9, 2.0]
    for number, loss in enumerate([*ordinary, 9.0, 2.0, 9.0, 9.0, 2.0]):
        watch.check(number, loss)
    watch.check(14, 9.0)
    watch.check(15, 9.0)
    with pytest.raises(FledgeError, match="step 17: the loss spiked to 9"):
        watch.check(16, 9.0)
    silent = LossWatch(SpikeConfig(window=8, deviations=0))
    for number, loss in enumerate([*ordinary, *[9.0] * 9]):
        silent.check(number, loss)


def test_numbers_of_a_step() -> None:
    model = Tiny()
    batch = text_batch(4, seed=0)
    batch["documents"][:, 9:] = 0
    optimizer = torch.optim.SGD([{"params": model.parameters(), "lr": 0.2}])

    def halves(output: object, batch: Batch) -> Loss:
        return next_token(output, batch)._replace(parts={"half": (torch.tensor(1.0), torch.tensor(2.0))})

    (step,) = fit(model, iter([[batch, batch]]), halves, optimizer, lambda step: 0.5, steps=7, start=6)
    assert (step.number, step.tokens, step.learning_rate, step.parts) == (6, 72, 0.1, {"half": 0.5})
    assert 0 <= step.waited <= step.seconds
    assert step.every(7)
    assert not step.every(2)
    assert not step.every(0)


def test_it_ends_with_the_batches() -> None:
    model = Tiny()
    batches = iter([[text_batch(2, seed=0)]] * 2)
    assert len(list(fit(model, batches, next_token, build(model, OptimizerConfig()), steps=9))) == 2
