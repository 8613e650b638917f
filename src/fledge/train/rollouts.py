"""Reinforcement learning as an iterator of batches: rolls out with the very model that `fit` is training.

An iteration answers prompts, scores the answers, has advantages estimated (`Estimator`: PPO's, GRPO's), and then yields
`epochs` × `minibatches` optimizer steps of packed rows with every column that the loss reads; rows of pretraining text
(the ptx term) join each step (arXiv:1707.06347, 2009.01325, 2203.02155). Several answers to one prompt share it in
their row (`data/branches.py`).

It has a position only *between* iterations: inside one, the answers belong to weights that are gone. The order of
prompts and of minibatches follows from (seed, iteration), so a resumed run goes on to the same bits if `sample` is
deterministic in the iteration.

Shapes: N answers of an iteration, T tokens of the longest one; B, L of packed rows.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from fledge.core.config import Config
from fledge.core.device import autocast
from fledge.core.errors import FledgeError
from fledge.data.branches import Answers, answer_rows
from fledge.data.packing import Batch, collate
from fledge.model.inputs import inputs
from fledge.objectives.language import IGNORED, logprobs_and_entropy
from fledge.objectives.policy import AdaptiveKL, k1


class RolloutConfig(Config):
    """`group` answers to each prompt, which share it in their row. KL is in nats per answer, summed over its tokens;
    `kl_target` None keeps the coefficient, `kl_stop` None never stops. `ptx_coefficient`: weight of a pretraining
    token's mean loss beside the policy's mean loss per token. `reward_clip`: scores beyond ± so much count as so much;
    a reward model trained on rankings puts the worst answers far below all others, which makes a policy that is not
    sure decline rather than try."""

    answers_per_iteration: int = 256
    group: int = Field(1, ge=1)
    epochs: int = 2
    minibatches: int = 4
    kl_coefficient: float = 0.2
    kl_target: float | None = None
    kl_gain: float = 0.1
    kl_stop: float | None = None
    reward_clip: float | None = Field(None, gt=0)
    missing_eos_penalty: float = 1.0
    ptx_coefficient: float = 0.0
    logprob_tolerance: float = 0.05


class Answer(Protocol):
    """What `sample` returns for a prompt: token ids (the stop token included), their log-probs, why it ended."""

    @property
    def ids(self) -> list[int]: ...
    @property
    def logprobs(self) -> list[float]: ...
    @property
    def finish(self) -> str: ...


class Pretraining(Protocol):
    """The stream that the ptx rows come from: each item is a list of batches."""

    def __next__(self) -> list[Batch]: ...
    def state(self) -> dict[str, Any]: ...
    def load_state(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Answered:
    """The answers of an iteration, measured: scores [N], clipped, less the penalty for an answer that did not end; mask
    [N,T] bool; `tables` [N,T] of numbers per token (logprobs, reference, kl, entropy, what the estimator noted)."""

    scores: Tensor
    mask: Tensor
    tables: dict[str, Tensor]
    kl_coefficient: float


class Estimator(Protocol):
    """Says how good each token of an answer was; for the first `warmup` iterations the policy stays as it is."""

    @property
    def config(self) -> RolloutConfig: ...
    @property
    def warmup(self) -> int: ...

    def note(self, output: Any) -> dict[str, Tensor]:
        """What it wants to know of the model's output, by name: [B,L]."""
        ...

    def estimate(self, found: Answered) -> tuple[dict[str, Tensor], dict[str, float]]:
        """The columns [N,T] that the loss reads, and numbers for the log."""
        ...


@dataclass(frozen=True)
class Iteration:
    """What one iteration found before it trained: numbers for the log, and the answers with their scores, `group` of
    them to each prompt."""

    index: int
    group: int
    numbers: dict[str, float]
    prompts: list[list[int]]
    answers: list[list[int]]
    scores: list[float]


class Rollouts:
    """Yields the micro-batches of each optimizer step; ends when the KL passes `config.kl_stop` (see `.stopped`).

    model: gives `.policy` (`ActorCritic`); reference: a language model; prompts: token ids.
    sample(prompts, iteration) → one answer each; score(groups of prompt + answer ids) → rewards [N]; estimator: see
    there. length: tokens of a packed row. branching: whether answers to a prompt share it, for models that can
    (`ModelConfig.can_branch`). dtype: of autocast, the one `fit` trains with. ptx: gives the pretraining rows.
    """

    def __init__(
        self,
        model: nn.Module,
        reference: nn.Module,
        prompts: Sequence[list[int]],
        sample: Callable[[list[list[int]], int], Sequence[Answer]],
        score: Callable[[list[Answers]], Tensor],
        estimator: Estimator,
        *,
        length: int,
        rows_per_microbatch: int,
        branching: bool = False,
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
        ptx: Pretraining | None = None,
    ) -> None:
        config = estimator.config
        asked, rest = divmod(config.answers_per_iteration, config.group)
        if asked < config.minibatches:
            raise FledgeError(
                f"answers to {asked} prompts cannot fill {config.minibatches} minibatches",
                "raise answers_per_iteration or lower minibatches",
            )
        if rest:
            raise FledgeError(
                f"{config.answers_per_iteration} answers an iteration are no whole groups of {config.group}",
                f"make answers_per_iteration a multiple of {config.group}",
            )
        self.model, self.reference, self.prompts = model, reference, prompts
        self.sample, self.score, self.estimator, self.config = sample, score, estimator, config
        self.length, self.rows_per_microbatch, self.branching = length, rows_per_microbatch, branching
        self.dtype, self.seed, self.ptx = dtype, seed, ptx
        self.index = 0
        self.kl = AdaptiveKL(config.kl_coefficient, config.kl_target, config.kl_gain)
        self.pending: list[list[Batch]] = []
        self.iteration: Iteration | None = None
        self.stopped = ""

    @property
    def steps_per_iteration(self) -> int:
        """Optimizer steps that one iteration feeds."""
        return self.config.epochs * self.config.minibatches

    @property
    def between(self) -> bool:
        """Whether an iteration has just been used up, so that there is a position to save."""
        return not self.pending

    @property
    def warming(self) -> bool:
        """Whether the policy does not learn yet."""
        return self.index < self.estimator.warmup

    one_shape = False

    def __iter__(self) -> Iterator[list[Batch]]:
        return self

    def __next__(self) -> list[Batch]:
        if not self.pending and not self.stopped:
            self.pending = self.roll_out()
        if not self.pending:
            raise StopIteration
        return self.pending.pop(0)

    def roll_out(self) -> list[list[Batch]]:
        """One iteration: answers, rewards, advantages, and the optimizer steps made of them (none if KL stops it)."""
        began = time.perf_counter()
        prompts = self.draw()
        answers = self.sample(prompts, self.index)
        sampled = time.perf_counter()
        groups = self.grouped(prompts, answers)
        self.check_length(groups)
        scores = self.score(groups).detach().float().cpu()
        ended = torch.tensor([answer.finish == "stop" for answer in answers])
        mask = padded([[1.0] * len(answer.ids) for answer in answers]) > 0
        tables = self.measure(groups, mask)
        disagreement = self.check_logprobs(answers, tables["logprobs"], mask)
        tables["kl"] = k1(tables["logprobs"], tables["reference"])
        kl_per_answer = float((tables["kl"] * mask).sum(1).mean())
        bound = self.config.reward_clip or math.inf
        penalised = scores.clamp(-bound, bound) - self.config.missing_eos_penalty * (~ended).float()
        columns, told = self.estimator.estimate(Answered(penalised, mask, tables, self.kl.coefficient))
        self.model.policy.requires_grad_(not self.warming)

        tokens = mask.sum()
        numbers = {
            "reward": float(scores.mean()),
            "reward_std": float(scores.std(correction=0)),
            "reward_clipped": float((scores.abs() > bound).float().mean()),
            "kl": kl_per_answer,
            "kl_coefficient": self.kl.coefficient,
            "entropy": float((tables["entropy"] * mask).sum() / tokens),
            **told,
            "length": float(tokens / len(answers)),
            "ended": float(ended.float().mean()),
            "logprob_disagreement": disagreement,
            "sample_seconds": sampled - began,
            "rollout_seconds": time.perf_counter() - began,
        }
        ids = [list(answer.ids) for answer in answers]
        self.iteration = Iteration(self.index, self.config.group, numbers, prompts, ids, scores.tolist())
        if self.config.kl_stop is not None and kl_per_answer > self.config.kl_stop:
            self.stopped = f"KL {kl_per_answer:.3g} nats per answer passed kl_stop={self.config.kl_stop:g}"
            return []
        steps = self.optimizer_steps(groups, mask, columns)
        self.kl.update(kl_per_answer)
        self.index += 1
        return steps

    def draw(self) -> list[list[int]]:
        """The prompts of this iteration, each once for every answer: passes over all of them, reshuffled each time."""
        group = self.config.group
        count = self.config.answers_per_iteration // group
        places = range(self.index * count, (self.index + 1) * count)
        passes = {place // len(self.prompts) for place in places}
        order = {p: np.random.default_rng([self.seed, 0, p]).permutation(len(self.prompts)) for p in passes}
        drawn = [self.prompts[order[p // len(self.prompts)][p % len(self.prompts)]] for p in places]
        return [list(prompt) for prompt in drawn for _ in range(group)]

    def grouped(self, prompts: Sequence[list[int]], answers: Sequence[Answer]) -> list[Answers]:
        """The answers to each prompt drawn, together."""
        whole = [(*prompt, *answer.ids) for prompt, answer in zip(prompts, answers, strict=True)]
        group = self.config.group
        starts = range(0, len(whole), group)
        return [Answers(tuple(whole[start : start + group]), prompt=len(prompts[start])) for start in starts]

    @torch.no_grad()
    def measure(self, groups: Sequence[Answers], mask: Tensor) -> dict[str, Tensor]:
        """Of every answer token, each [N,T]: log-probs under the policy and under the reference, entropy, and what the
        estimator notes."""
        device = next(self.model.parameters()).device
        tables: dict[str, Tensor] = {}
        for batch in self.microbatches(groups):
            packed, answer, token = places_of(batch)
            moved = {name: column.to(device) for name, column in batch.items()}
            with autocast(device, self.dtype):
                output = self.model(**inputs(moved))
                logprobs, entropy = logprobs_and_entropy(output.policy, moved["targets"])
                reference, _ = logprobs_and_entropy(self.reference(**inputs(moved)), moved["targets"])
                found = {
                    "logprobs": logprobs,
                    "entropy": entropy,
                    "reference": reference,
                    **self.estimator.note(output),
                }
            for name, column in found.items():
                table = tables.setdefault(name, torch.zeros(mask.shape))
                table[answer, token] = column.flatten().float().cpu()[packed]
        return tables

    def optimizer_steps(self, groups: Sequence[Answers], mask: Tensor, columns: dict[str, Tensor]) -> list[list[Batch]]:
        """The micro-batches of each of the iteration's steps: prompts in a new order every epoch, ptx rows added."""
        steps = []
        numbers = torch.arange(len(mask)).view(len(groups), -1)  # of the answers, [prompts, group]
        for epoch in range(self.config.epochs):
            order = np.random.default_rng([self.seed, 1, self.index, epoch]).permutation(len(groups))
            for chosen in np.array_split(order, self.config.minibatches):
                number = numbers[torch.from_numpy(chosen)].flatten()
                batches = []
                for answers in self.microbatches([groups[i] for i in chosen]):
                    batch = without_columns(answers, columns)
                    packed, answer, token = places_of(answers)
                    batch["policy_mask"].view(-1)[packed] = True
                    for name, table in columns.items():
                        batch[name].view(-1)[packed] = table[number[answer], token]
                    batches.append(batch)
                steps.append(batches + self.pretraining_rows(int(mask[number].sum()), columns))
        return steps

    def pretraining_rows(self, answer_tokens: int, columns: Iterable[str]) -> list[Batch]:
        """The ptx micro-batches of a step with `answer_tokens`; none without a coefficient."""
        if self.ptx is None or not self.config.ptx_coefficient or self.warming:
            return []
        batches = [without_columns(batch, columns) for batch in next(self.ptx)]
        tokens = sum(int((batch["targets"] != IGNORED).sum()) for batch in batches)
        weight = self.config.ptx_coefficient * answer_tokens / max(1, tokens)
        for batch in batches:
            batch["ptx_weight"] = (batch["targets"] != IGNORED) * weight
        return batches

    def microbatches(self, groups: Sequence[Answers]) -> list[Batch]:
        """The answers packed into rows, `rows_per_microbatch` a batch."""
        rows = answer_rows(groups, self.length, self.branching)
        return [collate(rows[i : i + self.rows_per_microbatch]) for i in range(0, len(rows), self.rows_per_microbatch)]

    def check_length(self, groups: Sequence[Answers]) -> None:
        """Refuses answers that do not fit into a row."""
        longest = max(len(ids) for group in groups for ids in group.ids)
        if longest > self.length:
            raise FledgeError(
                f"a prompt with its answer has {longest} tokens, but a row holds {self.length}",
                f"set length={longest}, or allow fewer new tokens",
            )

    def check_logprobs(self, answers: Sequence[Answer], logprobs: Tensor, mask: Tensor) -> float:
        """Mean |engine - trainer| log-prob per token; refuses to train on answers that another model seems to give."""
        engine = padded([answer.logprobs for answer in answers])
        disagreement = float((engine - logprobs).abs()[mask].mean())
        if not disagreement <= self.config.logprob_tolerance:
            raise FledgeError(
                f"rollout and training log-probs disagree by {disagreement:.3g} nats per token "
                f"(tolerance {self.config.logprob_tolerance:g})",
                "sample with the very weights that are trained, in the same precision",
            )
        return disagreement

    def state(self) -> dict[str, Any]:
        """The position between two iterations; FledgeError inside one."""
        if not self.between:
            raise FledgeError("rollouts have no position inside an iteration", "save when `.between` is true")
        ptx = {} if self.ptx is None else self.ptx.state()
        return {"index": self.index, "kl_coefficient": self.kl.coefficient, "stopped": self.stopped, "ptx": ptx}

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes back to what `state` returned."""
        self.index, self.stopped, self.pending = state["index"], state["stopped"], []
        self.kl.coefficient = state["kl_coefficient"]
        if self.ptx is not None:
            self.ptx.load_state(state["ptx"])


def padded(sequences: Sequence[Sequence[float]]) -> Tensor:
    """Sequences of numbers as [N,T], zeros to the right."""
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(s) for s in sequences], batch_first=True)


def places_of(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Where answers lie in a batch of `answer_rows`: flat positions in [B·L] that predict an answer token, which answer
    each belongs to, from 0 on, and which token of its answer it predicts."""
    packed = (batch["targets"] != IGNORED).flatten().nonzero()[:, 0]
    answer = batch["answer"].flatten()[packed] - 1
    begins = torch.ones_like(answer, dtype=torch.bool)
    begins[1:] = answer[1:] != answer[:-1]
    places = torch.arange(len(answer))
    return packed, answer, places - torch.where(begins, places, 0).cummax(0).values


def without_columns(batch: Batch, columns: Iterable[str]) -> Batch:
    """The batch with the columns of the loss at rest: nothing acted, nothing weighed."""
    shape = batch["targets"].shape
    blank = {name: torch.zeros(shape) for name in (*columns, "ptx_weight")}
    return {**batch, **blank, "policy_mask": torch.zeros(shape, dtype=torch.bool)}
