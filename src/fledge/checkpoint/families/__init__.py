"""The only place that knows families by name."""

from fledge.checkpoint.families.llama import LLAMA
from fledge.checkpoint.families.qwen3 import QWEN3
from fledge.checkpoint.families.table import Family, to_ours, to_theirs
from fledge.core.errors import FledgeError
from fledge.model.config import ModelConfig

FAMILIES = {family.model_type: family for family in (QWEN3, LLAMA)}


def family_of(model_type: str) -> Family:
    """The family a config.json names as its model_type."""
    if model_type not in FAMILIES:
        raise FledgeError(f"the model type '{model_type}' is not known", f"known: {', '.join(FAMILIES)}")
    return FAMILIES[model_type]


def family_for(config: ModelConfig) -> Family:
    """The family that a model of these axes is written as: Qwen3 if it norms queries and keys, else LLaMA."""
    family = QWEN3 if config.qk_norm else LLAMA
    known = family.read(family.write(config)) | {"head": config.head}
    if ModelConfig(**known) != config:
        raise FledgeError("no known family has this combination of axes", "change the model's config")
    return family


__all__ = ["FAMILIES", "Family", "family_for", "family_of", "to_ours", "to_theirs"]
