"""Rollouts through `fit`: every column at its place, a reward that rises, resume to the bit, refusals."""

import copy
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from tiny_models import VOCABULARY, Tiny, TinyCritic, text_batch
from torch import Tensor, nn

from fledge.core.errors import FledgeError
from fledge.data.branches import Answers
from fledge.model.config import ModelConfig
from fledge.model.heads import build as build_model
from fledge.model.inputs import inputs
from fledge.objectives import grpo, ppo
from fledge.objectives.policy import advantages
from fledge.train.actor_critic import ActorCritic
from fledge.train.estimators import Critic, CriticConfig, Group, GroupConfig
from fledge.train.loop import fit
from fledge.train.optimizers import OptimizerConfig, build
from fledge.train.rollouts import Rollouts

END, WANTED, LONGEST = 0, 7, 6
PROMPTS = [[1 + i % 5, 2 + i % 3, 3 + i % 7][: 1 + i % 3] for i in range(20)]


@dataclass
class Answer:
    ids: list[int]
    logprobs: list[float]
    finish: str


def sampler(policy: nn.Module, seed: int = 0) -> Any:
    """Samples one answer at a time, token by token, without any packing."""

    @torch.no_grad()
    def sample(prompts: list[list[int]], iteration: int) -> list[Answer]:
        generator = torch.Generator().manual_seed(1000 * seed + iteration)
        answers = []
        for prompt in prompts:
            ids, logprobs = list(prompt), []
            while len(logprobs) < LONGEST and (not logprobs or ids[-1] != END):
                output = policy(torch.tensor([ids]), torch.arange(len(ids))[None], None)
                predicted = (output.hidden[0, -1] @ output.weight.T).log_softmax(0)
                ids.append(int(torch.multinomial(predicted.exp(), 1, generator=generator)))
                logprobs.append(float(predicted[ids[-1]]))
            answers.append(Answer(ids[len(prompt) :], logprobs, "stop" if ids[-1] == END else "length"))
        return answers

    return sample


def shares_of_wanted(groups: list[Answers]) -> Tensor:
    """A hand-made reward: how often the wanted token is said."""
    return torch.tensor([ids.count(WANTED) / LONGEST for group in groups for ids in group.ids])


class PretrainingRows:
    def __init__(self) -> None:
        self.step = 0

    def __next__(self) -> list[dict[str, Tensor]]:
        self.step += 1
        return [text_batch(2, seed=self.step), text_batch(1, seed=-self.step)]

    def state(self) -> dict[str, int]:
        return {"step": self.step}

    def load_state(self, state: dict[str, int]) -> None:
        self.step = state["step"]


def begin(config: CriticConfig | GroupConfig, ptx: PretrainingRows | None = None) -> tuple[ActorCritic, Rollouts]:
    estimator = Group(config) if isinstance(config, GroupConfig) else Critic(config)
    critic = None if isinstance(config, GroupConfig) else TinyCritic(2)
    model, reference = ActorCritic(Tiny(1), critic), Tiny(1)
    rollouts = Rollouts(
        model, reference, PROMPTS, sampler(model.policy), shares_of_wanted, estimator,
        length=16, rows_per_microbatch=3, seed=5, ptx=ptx,
    )  # fmt: skip
    return model, rollouts


SMALL = CriticConfig(answers_per_iteration=11, epochs=2, minibatches=3, kl_coefficient=0.1, missing_eos_penalty=0.5)


def test_every_column_lies_at_its_token() -> None:
    """Against each answer on its own, unpacked."""
    model, rollouts = begin(SMALL)
    with torch.no_grad():
        for p in rollouts.reference.parameters():
            p.add_(0.02 * torch.randn_like(p))  # so that KL is not 0
    steps = [next(rollouts) for _ in range(rollouts.steps_per_iteration)]
    assert rollouts.between
    found = rollouts.iteration
    expected: dict[tuple, tuple[list[float], ...]] = {}
    kls = []
    for prompt, answer, score in zip(found.prompts, found.answers, found.scores):
        ids, n = torch.tensor([prompt + answer]), len(prompt)
        positions = torch.arange(ids.shape[1])[None]
        with torch.no_grad():
            output = model(ids, positions, None)
            both = []
            for net in (output.policy, rollouts.reference(ids, positions, None)):
                logprobs = (net.hidden @ net.weight.T).log_softmax(-1)[0, n - 1 : -1]
                both.append(logprobs.gather(1, ids[0, n:, None])[:, 0])
            values = output.values[0, n - 1 : -1]
        rewards = -0.1 * (both[0] - both[1])
        rewards[-1] += score - (0.0 if answer[-1] == END else 0.5)
        _, returns = advantages(rewards[None], values[None], torch.ones(1, len(answer), dtype=torch.bool))
        kls.append(float((both[0] - both[1]).sum()))
        expected[(*prompt, -1, *answer)] = (both[0].tolist(), values.tolist(), returns[0].tolist())

    for epoch in range(2):
        seen = []
        whitened = []
        for batch in [b for step in steps[3 * epoch : 3 * epoch + 3] for b in step]:
            assert torch.equal(batch["policy_mask"], batch["targets"] >= 0)
            for row in range(len(batch["ids"])):
                for document in range(1, int(batch["documents"][row].max()) + 1):
                    here = batch["documents"][row] == document
                    acting = here & batch["policy_mask"][row]
                    prompt = batch["ids"][row][here][: int((here & ~acting)[: acting.nonzero()[0]].sum()) + 1]
                    answer = batch["targets"][row][acting]
                    key = (*prompt.tolist(), -1, *answer.tolist())
                    seen.append(key)
                    logprobs, values, returns = expected[key]
                    assert batch["old_logprobs"][row][acting].tolist() == pytest.approx(logprobs, abs=1e-5)
                    assert batch["old_values"][row][acting].tolist() == pytest.approx(values, abs=1e-5)
                    assert batch["returns"][row][acting].tolist() == pytest.approx(returns, abs=1e-5)
                    whitened += batch["advantages"][row][acting].tolist()
            for name in ("old_logprobs", "old_values", "returns", "advantages"):
                assert not batch[name][~batch["policy_mask"]].any()
        assert sorted(seen) == sorted((*p, -1, *a) for p, a in zip(found.prompts, found.answers))
        assert sum(whitened) == pytest.approx(0, abs=1e-3)
        assert sum(x * x for x in whitened) / len(whitened) == pytest.approx(1, abs=1e-2)
    assert found.numbers["kl"] == pytest.approx(sum(kls) / len(kls), abs=1e-5)
    assert found.numbers["logprob_disagreement"] < 1e-5
    assert found.numbers["length"] == pytest.approx(sum(map(len, found.answers)) / 11)
    assert found.numbers["ended"] == pytest.approx(sum(a[-1] == END for a in found.answers) / 11)


def test_real_models_agree_packed_and_alone() -> None:
    """Answers sampled one by one, measured in packed rows that hold several: documents must not see each other."""
    shape = ModelConfig(
        vocab_size=VOCABULARY, width=16, layers=2, heads=2, kv_heads=1, head_size=8, hidden=24, context=32
    )
    torch.manual_seed(0)
    policy, reference = (build_model(shape) for _ in range(2))
    with torch.no_grad():
        for p in (*policy.parameters(), *reference.parameters()):
            p.add_(0.3 * torch.randn_like(p))
    model = ActorCritic(policy, build_model(shape.model_copy(update={"head": "scalar"})))
    rollouts = Rollouts(
        model, reference, PROMPTS, sampler(policy), shares_of_wanted, Critic(SMALL),
        length=32, rows_per_microbatch=3,
    )  # fmt: skip
    steps = list(fit(model, rollouts, ppo, build(model, OptimizerConfig(learning_rate=1e-3)), steps=12))
    assert rollouts.iteration.index == 1
    assert rollouts.iteration.numbers["logprob_disagreement"] < 1e-5
    assert steps[0].parts["kl_old_k3"] < 1e-6, "the first update starts at the policy that answered"
    assert steps[-1].parts["kl_old_k3"] > 1e-6


@pytest.mark.parametrize("what", ["ppo", "grpo"])
def test_answers_that_share_their_prompt_teach_the_same(what: str) -> None:
    """Against each answer in a document of its own: what was measured, every step's loss, and every gradient."""
    shape = ModelConfig(
        vocab_size=VOCABULARY, width=16, layers=2, heads=2, kv_heads=1, head_size=8, hidden=24, context=32
    )
    torch.manual_seed(0)
    heads = ("language", "language", "scalar")
    policy, reference, critic = (build_model(shape.model_copy(update={"head": head})) for head in heads)
    for net in (policy, reference, critic):
        net.double()
        with torch.no_grad():
            for p in net.parameters():
                p.add_(0.3 * torch.randn_like(p))
    sizes = {"answers_per_iteration": 24, "group": 4, "epochs": 1, "minibatches": 2}
    estimator = Critic(CriticConfig(**sizes)) if what == "ppo" else Group(GroupConfig(**sizes))
    model = ActorCritic(policy, critic if what == "ppo" else None)
    found = []
    for branching in (False, True):
        rollouts = Rollouts(
            model, reference, [4 * prompt for prompt in PROMPTS], sampler(policy), shares_of_wanted, estimator,
            length=32, rows_per_microbatch=2, branching=branching,
        )  # fmt: skip
        steps = [next(rollouts) for _ in range(2)]
        tokens = sum(int((batch["documents"] > 0).sum()) for step in steps for batch in step)
        for step in steps:
            model.zero_grad()
            losses = [(ppo if what == "ppo" else grpo)(model(**inputs(batch)), batch) for batch in step]
            sum(loss.sum for loss in losses).backward()
            gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
            found.append((rollouts.iteration, tokens, sum(float(loss.sum.detach()) for loss in losses), gradients))
    for plain, shared in zip(found[:2], found[2:]):
        assert shared[1] < 0.8 * plain[1], "the prompt stands there once"
        assert [shared[0].prompts, shared[0].answers] == [plain[0].prompts, plain[0].answers]
        for name in plain[0].numbers.keys() - {"sample_seconds", "rollout_seconds"}:
            assert shared[0].numbers[name] == pytest.approx(plain[0].numbers[name], abs=1e-5), name
        assert shared[2] == pytest.approx(plain[2], abs=1e-4)
        assert len(shared[3]) == len(plain[3]) > 10
        for one, other in zip(plain[3], shared[3]):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_scores_are_clipped_before_the_penalty(monkeypatch: pytest.MonkeyPatch) -> None:
    _, rollouts = begin(SMALL.model_copy(update={"reward_clip": 0.2}))
    rollouts.score = lambda groups: 4 * shares_of_wanted(groups) - 1
    seen: list[Tensor] = []
    estimate = rollouts.estimator.estimate
    monkeypatch.setattr(rollouts.estimator, "estimate", lambda found: (seen.append(found.scores), estimate(found))[1])
    next(rollouts)
    found = rollouts.iteration
    assert min(found.scores) == -1
    assert max(found.scores) < -0.2 or max(found.scores) > 0.2
    clipped = [max(-0.2, min(0.2, score)) for score in found.scores]
    ended = [answer[-1] == END for answer in found.answers]
    assert seen[0].tolist() == pytest.approx([c - (0 if e else 0.5) for c, e in zip(clipped, ended)])
    assert found.numbers["reward"] == pytest.approx(sum(found.scores) / 11)
    assert found.numbers["reward_clipped"] == pytest.approx(sum(abs(s) > 0.2 for s in found.scores) / 11)


def test_prompts_come_in_reshuffled_passes() -> None:
    _, rollouts = begin(SMALL.model_copy(update={"answers_per_iteration": 10}))
    drawn = []
    for rollouts.index in range(6):
        drawn += rollouts.draw()
    passes = [drawn[i : i + 20] for i in range(0, 60, 20)]
    assert all(sorted(p) == sorted(PROMPTS) for p in passes)
    assert passes[0] != passes[1]


def test_ptx_rows_weigh_the_coefficient_beside_the_answers() -> None:
    _, rollouts = begin(SMALL.model_copy(update={"ptx_coefficient": 0.3}), PretrainingRows())
    for batches in rollouts.roll_out():
        acted = sum(int(b["policy_mask"].sum()) for b in batches)
        assert float(sum(b["ptx_weight"].sum() for b in batches)) == pytest.approx(0.3 * acted, rel=1e-5)
        assert not any((b["policy_mask"] & (b["ptx_weight"] > 0)).any() for b in batches)
        assert sum(bool(b["ptx_weight"].any()) for b in batches) == 2


@pytest.mark.parametrize("with_ptx", [False, True])
def test_ppo_raises_a_hand_made_reward(with_ptx: bool) -> None:
    config = CriticConfig(
        answers_per_iteration=64, epochs=2, minibatches=2, kl_coefficient=0.01, missing_eos_penalty=0.0,
        ptx_coefficient=0.1 if with_ptx else 0.0,
    )  # fmt: skip
    model, rollouts = begin(config, PretrainingRows() if with_ptx else None)
    optimizer = build(model, OptimizerConfig(learning_rate=0.01, weight_decay=0.0))
    rewards, variance = [], []
    for step in fit(model, rollouts, ppo, optimizer, steps=12 * rollouts.steps_per_iteration):
        if rollouts.between:
            rewards.append(rollouts.iteration.numbers["reward"])
            variance.append(rollouts.iteration.numbers["explained_variance"])
            assert ("ptx_loss" in step.parts) == with_ptx
            assert 0 <= step.parts["clip_fraction"] < 0.9
    assert rewards[0] < 0.15
    assert rewards[-1] > 3 * rewards[0]
    assert rollouts.iteration.numbers["kl"] > 0.1
    assert variance[-1] > variance[0]


def test_stopping_between_iterations_and_resuming_gives_the_same_bits() -> None:
    config = SMALL.model_copy(update={"ptx_coefficient": 0.3, "kl_target": 0.05, "critic_warmup": 1})
    per_iteration = 6

    def run(steps: int, start: int = 0, saved: Any = None) -> Any:
        model, rollouts = begin(config, PretrainingRows())
        optimizer = build(model, OptimizerConfig(learning_rate=0.01))
        if saved:
            model.load_state_dict(saved[0])
            optimizer.load_state_dict(saved[1])
            rollouts.load_state(saved[2])
        for _ in fit(model, rollouts, partial(ppo, clip=0.1), optimizer, steps=steps, start=start):
            pass
        return copy.deepcopy((model.state_dict(), optimizer.state_dict(), rollouts.state()))

    whole = run(4 * per_iteration)
    resumed = run(4 * per_iteration, 2 * per_iteration, run(2 * per_iteration))
    assert all(torch.equal(a, b) for a, b in zip(whole[0].values(), resumed[0].values()))
    assert whole[2] == resumed[2]
    assert whole[2]["index"] == 4
    assert whole[2]["kl_coefficient"] != config.kl_coefficient


def test_the_critic_learns_alone_at_first() -> None:
    """Not even weight decay, momentum or pretraining text move the policy before its turn."""
    config = SMALL.model_copy(update={"critic_warmup": 2, "ptx_coefficient": 0.3})
    model, rollouts = begin(config, PretrainingRows())
    first = copy.deepcopy(model.state_dict())
    optimizer = build(model, OptimizerConfig(learning_rate=0.01))
    steps = fit(model, rollouts, partial(ppo, clip=0.1), optimizer, steps=3 * rollouts.steps_per_iteration)
    for number, _ in enumerate(steps):
        same = {name: torch.equal(value, first[name]) for name, value in model.state_dict().items()}
        warm = number < 2 * rollouts.steps_per_iteration
        assert all(value == warm for name, value in same.items() if name.startswith("policy"))
        assert not all(value for name, value in same.items() if name.startswith("critic"))


def test_it_ends_when_kl_passes_the_bound() -> None:
    config = CriticConfig(answers_per_iteration=32, epochs=2, minibatches=1, kl_coefficient=0.0, kl_stop=0.05)
    model, rollouts = begin(config)
    optimizer = build(model, OptimizerConfig(learning_rate=0.02))
    steps = list(fit(model, rollouts, ppo, optimizer, steps=100))
    assert 0 < len(steps) < 100
    assert len(steps) % 2 == 0
    assert "kl_stop=0.05" in rollouts.stopped
    assert rollouts.iteration.numbers["kl"] > 0.05
    _, again = begin(config)
    again.load_state(rollouts.state())
    assert next(again, None) is None


def test_there_is_no_position_inside_an_iteration() -> None:
    _, rollouts = begin(SMALL)
    next(rollouts)
    assert not rollouts.between
    with pytest.raises(FledgeError, match="inside an iteration"):
        rollouts.state()


def test_answers_of_another_model_are_refused() -> None:
    _, rollouts = begin(SMALL)
    stranger = Tiny(1)
    with torch.no_grad():
        stranger.embedding.weight.mul_(2)
    rollouts.sample = sampler(stranger)
    with pytest.raises(FledgeError, match="rollout and training log-probs disagree by"):
        next(rollouts)


def test_log_probs_one_token_off_are_refused() -> None:
    model, rollouts = begin(SMALL)
    sample = sampler(model.policy)

    def shifted(prompts: list[list[int]], iteration: int) -> list[Answer]:
        answers = sample(prompts, iteration)
        return [Answer(a.ids, a.logprobs[1:] + a.logprobs[:1], a.finish) for a in answers]

    rollouts.sample = shifted
    with pytest.raises(FledgeError, match="disagree"):
        next(rollouts)


def test_answers_longer_than_a_row_and_too_many_minibatches_are_refused() -> None:
    _, rollouts = begin(SMALL)
    rollouts.length = 4
    with pytest.raises(FledgeError, match="a row holds 4"):
        next(rollouts)
    with pytest.raises(FledgeError, match="answers to 2 prompts cannot fill 3 minibatches"):
        begin(SMALL.model_copy(update={"answers_per_iteration": 2}))


GROUPS = GroupConfig(answers_per_iteration=12, group=4, epochs=1, minibatches=2, missing_eos_penalty=0.5)


@pytest.mark.parametrize("scaled", [True, False])
def test_grpo_compares_answers_to_the_same_prompt(scaled: bool) -> None:
    """Each advantage from the answers and scores of its group alone, on all tokens of its answer and nowhere else."""
    _, rollouts = begin(GROUPS.model_copy(update={"scaled": scaled}))
    steps = [next(rollouts) for _ in range(rollouts.steps_per_iteration)]
    found = rollouts.iteration
    prompts = [tuple(prompt) for prompt in found.prompts]
    assert len(set(prompts)) > 1
    assert all(prompts[i] == prompts[i - i % 4] for i in range(12))
    worth = [s - 0.5 * (a[-1] != END) for s, a in zip(found.scores, found.answers)]
    expected: dict[tuple, list[float]] = {}
    for i, answer in enumerate(found.answers):
        group = worth[i - i % 4 : i - i % 4 + 4]
        mean = sum(group) / 4
        spread = (sum((w - mean) ** 2 for w in group) / 3) ** 0.5 + 1e-4
        expected.setdefault((*prompts[i], -1, *answer), []).append((worth[i] - mean) / (spread if scaled else 1))
    seen = 0
    for batch in [b for step in steps for b in step]:
        assert not batch["advantages"][~batch["policy_mask"]].any()
        for row in range(len(batch["ids"])):
            for document in range(1, int(batch["documents"][row].max()) + 1):
                here = batch["documents"][row] == document
                acting = here & batch["policy_mask"][row]
                prompt = batch["ids"][row][here][: int((here & ~acting)[: acting.nonzero()[0]].sum()) + 1]
                key = (*prompt.tolist(), -1, *batch["targets"][row][acting].tolist())
                told = batch["advantages"][row][acting]
                assert (told == told[0]).all()
                assert any(told[0].item() == pytest.approx(value, abs=1e-4) for value in expected[key])
                assert torch.equal(batch["kl_weight"][row][acting], torch.full_like(told, 0.04))
                seen += 1
    assert seen == 12
    assert "groups_without_signal" in found.numbers


def test_grpo_raises_a_hand_made_reward_and_resumes_to_the_bit() -> None:
    config = GroupConfig(
        answers_per_iteration=64, group=8, epochs=2, minibatches=2, kl_coefficient=0.01, missing_eos_penalty=0.0,
        ptx_coefficient=0.1,
    )  # fmt: skip

    def run(iterations: int, start: int = 0, saved: Any = None) -> Any:
        model, rollouts = begin(config, PretrainingRows())
        optimizer = build(model, OptimizerConfig(learning_rate=0.01, weight_decay=0.0))
        if saved:
            model.load_state_dict(saved[0])
            optimizer.load_state_dict(saved[1])
            rollouts.load_state(saved[2])
        rewards = []
        for step in fit(model, rollouts, grpo, optimizer, steps=4 * iterations, start=4 * start):
            assert {"kl_loss", "ptx_loss", "clip_fraction"} <= set(step.parts)
            if rollouts.between:
                rewards.append(rollouts.iteration.numbers["reward"])
        return copy.deepcopy((model.state_dict(), optimizer.state_dict(), rollouts.state())), rewards

    whole, rewards = run(12)
    assert rewards[0] < 0.15
    assert rewards[-1] > 3 * rewards[0]
    resumed, _ = run(12, 5, run(5)[0])
    assert all(torch.equal(a, b) for a, b in zip(whole[0].values(), resumed[0].values()))


def test_answers_that_are_no_whole_groups_are_refused() -> None:
    with pytest.raises(FledgeError, match="10 answers an iteration are no whole groups of 4"):
        begin(GROUPS.model_copy(update={"answers_per_iteration": 10}))
