"""Learning from rankings: the loss of InstructGPT's reward model (arXiv:2203.02155, eq. 1).

All answers to one prompt lie in one batch element, and every pair of them that is not a tie is compared:
-log σ(r_better - r_worse), averaged over the pairs of the prompt, so that each prompt weighs the same however many
answers it has: 1, or the weight of who ranked it. Left out: margins, DPO.

Shapes: B batch, T time, N answers in the batch.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from fledge.objectives.loss import Loss, Valued


def ranking(output: Valued, batch: dict[str, Tensor]) -> Loss:
    """The pairwise ranking loss; the count is the number of prompts that have at least one pair, each by its weight.

    batch: last [N], flat index into [B·T] of each answer's last token, where its reward is read; group [N], which
    prompt it answers; rank [N], 0 is best and equal ranks are ties; weight [N], the same for all answers to a prompt
    (1 where it is absent). A prompt's answers are all in one micro-batch.
    Parts: accuracy (share of pairs in the right order), margin (mean r_better - r_worse), both over pairs.
    """
    rewards = output.values.flatten()[batch["last"]].float()
    group, rank = batch["group"], batch["rank"]
    same = group[:, None] == group[None, :]
    pairs = (same & (rank[:, None] < rank[None, :])).float()
    pairs_of_prompt = same.float() @ pairs.sum(1)
    weight = pairs / pairs_of_prompt.clamp(min=1)[:, None]
    if "weight" in batch:
        weight = weight * batch["weight"][:, None]
    difference = rewards[:, None] - rewards[None, :]
    detached = difference.detach()
    return Loss(
        sum=-(weight * logsigmoid(difference)).sum(),
        count=weight.sum(),
        parts={
            "accuracy": ((pairs * (detached > 0)).sum(), pairs.sum()),
            "margin": (torch.sum(pairs * detached), pairs.sum()),
        },
    )
