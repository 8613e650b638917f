"""Learning from rankings: the loss of InstructGPT's reward model (arXiv:2203.02155, eq. 1), and without one.

All answers to one prompt lie in one batch element, and every pair of them that is not a tie is compared, averaged
over the pairs of the prompt, so that each prompt weighs the same however many answers it has: 1, or the weight of who
ranked it. `ranking` compares the scores of a reward model; `direct` (DPO, arXiv:2305.18290) those that a policy
implies, β·(log π - log π_ref) of an answer. Left out: margins.

Shapes: B batch, T time, N answers in the batch.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from fledge.objectives.language import IGNORED, token_logprobs
from fledge.objectives.loss import Loss, Projectable, Valued


def ranking(output: Valued, batch: dict[str, Tensor]) -> Loss:
    """The pairwise ranking loss -log σ(r_better - r_worse); the count is the number of prompts that have a pair, each
    by its weight.

    batch: last [N], flat index into [B·T] of each answer's last token, where its reward is read; group [N], which
    prompt it answers; rank [N], 0 is best and equal ranks are ties; weight [N], the same for all answers to a prompt
    (1 where it is absent). A prompt's answers are all in one micro-batch.
    Parts: accuracy (share of pairs in the right order), margin (mean r_better - r_worse), both over pairs.
    """
    rewards = output.values.flatten()[batch["last"]].float()
    pairs, weight = pairs_of(batch)
    difference = rewards[:, None] - rewards[None, :]
    return Loss(
        sum=-(weight * logsigmoid(difference)).sum(), count=weight.sum(), parts=orderly(difference.detach(), pairs)
    )


def direct(
    output: Projectable,
    batch: dict[str, Tensor],
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    form: Literal["sigmoid", "ipo"] = "sigmoid",
    anchor: float = 0.0,
) -> Loss:
    """Direct preference optimisation; the count is the number of prompts that have a pair, each by its weight.

    With d the difference of log π - log π_ref between a better and a worse answer, each summed over its tokens:
    sigmoid is -(1 - ε)·log σ(βd) - ε·log σ(-βd), where ε, the label smoothing, is how often a judgement is taken to be
    wrong (cDPO); ipo is (d - 1/2β)² (arXiv:2310.12036, eq. 17), which does not drive d to infinity. `anchor` adds as
    much of the best answers' mean cross-entropy per token (arXiv:2404.19733, eq. 1): a difference alone may be had by
    forgetting both answers.

    batch: targets [B,T], the answers' tokens, else -100; answer [B,T], which of the N answers a position belongs to;
    reference [N], log π_ref of each answer; group, rank and weight [N] as in `ranking`.
    Parts: accuracy and margin as in `ranking`, of β·(log π - log π_ref); chosen_shift and rejected_shift, log π - log
    π_ref in nats of the better and of the worse answer, over pairs.
    """
    logprobs = answer_logprobs(output, batch)
    shift = logprobs - batch["reference"]
    pairs, weight = pairs_of(batch)
    difference = shift[:, None] - shift[None, :]
    if form == "ipo":
        loss = (difference - 1 / (2 * beta)).square()
    else:
        loss = -(1 - label_smoothing) * logsigmoid(beta * difference) - label_smoothing * logsigmoid(-beta * difference)
    total = (weight * loss).sum()
    if anchor:
        total = total - anchor * (best_weight(batch, weight) * logprobs / answer_tokens(batch)).sum()
    moved = shift.detach()
    return Loss(
        sum=total,
        count=weight.sum(),
        parts={
            **orderly(beta * difference.detach(), pairs),
            "chosen_shift": ((pairs * moved[:, None]).sum(), pairs.sum()),
            "rejected_shift": ((pairs * moved[None, :]).sum(), pairs.sum()),
        },
    )


def answer_logprobs(output: Projectable, batch: dict[str, Tensor]) -> Tensor:
    """log π of each answer, summed over its tokens: [N]; batch: targets and answer [B,T], group [N]."""
    logprobs = token_logprobs(output, batch["targets"]).flatten().float()
    return logprobs.new_zeros(len(batch["group"])).index_add(0, batch["answer"].flatten(), logprobs)


def answer_tokens(batch: dict[str, Tensor]) -> Tensor:
    """How many tokens each answer has, at least 1: [N]."""
    counted = (batch["targets"] != IGNORED).flatten().float()
    return counted.new_zeros(len(batch["group"])).index_add(0, batch["answer"].flatten(), counted).clamp(min=1)


def best_weight(batch: dict[str, Tensor], weight: Tensor) -> Tensor:
    """What each prompt weighs, by its pairs' weights [N,N], shared among its best answers; 0 for all others: [N]."""
    same = (batch["group"][:, None] == batch["group"][None, :]).float()
    best = (same * (batch["rank"][None, :] < batch["rank"][:, None])).sum(1) == 0
    return best * (same @ weight.sum(1)) / (same @ best.float())


def pairs_of(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Both [N,N]: 1 where the row's answer is better than the column's to the same prompt, and what the pair weighs."""
    group, rank = batch["group"], batch["rank"]
    same = group[:, None] == group[None, :]
    pairs = (same & (rank[:, None] < rank[None, :])).float()
    pairs_of_prompt = same.float() @ pairs.sum(1)
    weight = pairs / pairs_of_prompt.clamp(min=1)[:, None]
    return pairs, weight * batch["weight"][:, None] if "weight" in batch else weight


def orderly(difference: Tensor, pairs: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """The parts accuracy and margin of score differences [N,N], over the pairs [N,N]."""
    return {
        "accuracy": ((pairs * (difference > 0)).sum(), pairs.sum()),
        "margin": (torch.sum(pairs * difference), pairs.sum()),
    }
