"""What answers are worth: by one reward model, or by several at once (helpful and harmless, arXiv:2204.05862).

A score is measured from the model's own mean on demonstrations. Of several, each is then divided by its own spread on
them, so that the weights weigh what people care for and not how steep a model happens to be; one alone keeps its
scale, which the KL penalty is set against.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from rich.markup import escape
from torch import Tensor

from fledge.checkpoint.directory import load_model, read_config
from fledge.core.config import suggestion
from fledge.core.errors import FledgeError
from fledge.core.log import Log
from fledge.data.branches import Answers
from fledge.evaluate.scoring import score_groups
from fledge.model.heads import Headed
from fledge.stages.preflight import check_finite

ALONE = "reward"


class Judges:
    """Reward models by name. Called with answers to prompts, it gives their rewards [N]: Σ weight · normalised score.
    `latest`: what each said on that occasion, by name, normalised but not weighed."""

    def __init__(
        self, reward: Path | dict[str, Path], weights: dict[str, float], length: int, device: torch.device, log: Log
    ) -> None:
        paths = reward if isinstance(reward, dict) else {ALONE: reward}
        if not paths:
            raise FledgeError("no reward model is given", "give reward=DIR, or reward.NAME=DIR for each of several")
        for name in weights:
            if name not in paths:
                raise FledgeError(f"reward_weights: there is no reward '{name}'", suggestion(name, paths, "rewards"))
        self.paths, self.length, self.latest = paths, length, dict[str, Tensor]()
        self.weights = {name: weights.get(name, 1.0) for name in paths}
        self.models: dict[str, Headed] = {name: load_model(path, device=device) for name, path in paths.items()}
        self.means, self.spreads = dict[str, float](), dict[str, float]()
        for name, path in paths.items():
            check_finite(self.models[name], str(path))
            recorded = read_config(path)[1]
            self.means[name] = float(recorded.get("reward_mean", 0.0))
            self.spreads[name] = float(recorded.get("reward_std", 0.0) or 1.0) if len(paths) > 1 else 1.0
            if len(paths) > 1 and not recorded.get("reward_std"):
                log.say(
                    f"[yellow]{escape(name)}: {escape(str(path))} records no spread on demonstrations, its scores "
                    "count as they are; train it with `demonstrations` to have one[/]"
                )

    @property
    def heaviest(self) -> Path:
        """The directory of the reward model that weighs most: what a critic starts from."""
        return self.paths[max(self.weights, key=lambda name: abs(self.weights[name]))]

    def __call__(self, groups: Sequence[Answers]) -> Tensor:
        for name, model in self.models.items():
            raw = score_groups(model, groups, self.length)
            self.latest[name] = (raw - self.means[name]) / self.spreads[name]
        return torch.stack([self.weights[name] * found for name, found in self.latest.items()]).sum(0)

    def numbers(self) -> dict[str, float]:
        """The mean of each score on the latest occasion, for the log; nothing where there is only one."""
        several = len(self.models) > 1
        return {f"reward_{name}": float(found.mean()) for name, found in self.latest.items()} if several else {}
