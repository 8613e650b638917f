"""`fledge raise round`: finds the model to go on from and leaves out the steps that the store cannot feed."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fledge.core.errors import FledgeError
from fledge.core.files import read_json
from fledge.feedback.opening import open_store
from fledge.generate.assistant import find_model
from fledge.recipes.runner import apply_override
from fledge.stages.gather import used_up_to

EXAMPLE = "fledge raise round --set store=runs/feedback.db --set model=runs/pydoc --set evaluation=frozen.jsonl"


def round_overrides(recipe: Mapping[str, Any], run: Path, given: Sequence[str]) -> list[str]:
    """Overrides of the recipe `round`: the model's directory, and which steps to skip.

    No new demonstrations: no SFT, the reward model starts from the model so far. No rankings: neither reward nor PPO.
    """
    settings, steps = dict(recipe["settings"]), {name: dict(config) for name, config in recipe["steps"].items()}
    for override in given:
        apply_override(settings, steps, override)
    for name in ("model", "evaluation"):
        if not settings[name]:
            raise FledgeError(f"a round needs '{name}'", f"write e.g. {EXAMPLE}")
    model = find_model(Path(settings["model"]))
    shown, ranked = found_in(str(settings["store"]), model, run)
    if not shown and not ranked:
        raise FledgeError(
            f"{settings['store']} has nothing to train on that is new", "go on when people have said more"
        )
    overrides = [f"model={json.dumps(str(model))}"]
    if not shown:
        overrides += [
            "sft.skip=true",
            "reward.demonstrations=null",
            "reward.model=${model}",
            "ppo.policy=${model}",
            'promote.candidates={"ppo": "${ppo}"}',
        ]
    if not ranked:
        overrides += ["reward.skip=true", "ppo.skip=true", 'promote.candidates={"sft": "${sft}"}']
    return overrides


def found_in(where: str, model: Path, run: Path) -> tuple[int, int]:
    """How many new demonstrations and how many comparisons of some weight there are: as the run gathered them, if it
    has begun, else in the store now."""
    gathered = run / "gather" / "gathered.json"
    if gathered.is_file():
        counts = read_json(gathered)["counts"]
        return counts["demonstrations"], counts["of_weight"]
    store, used = open_store(where, made=False), used_up_to(model)
    from fledge.feedback.exporting import export

    shown = [row for row in export(store, "messages") if row["judgement"] > used]
    ranked = [row for row in export(store, "rankings") if row["weight"] > 0 and len(set(row["ranks"])) > 1]
    return len(shown), len(ranked)
