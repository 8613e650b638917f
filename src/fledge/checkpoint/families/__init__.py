"""The only place that knows families by name."""

from fledge.checkpoint.families.bert import BERT
from fledge.checkpoint.families.bloom import BLOOM
from fledge.checkpoint.families.gpt2 import GPT1, GPT2
from fledge.checkpoint.families.llama import LLAMA
from fledge.checkpoint.families.mixtral import MIXTRAL
from fledge.checkpoint.families.neox import NEOX
from fledge.checkpoint.families.opt import OPT
from fledge.checkpoint.families.qwen3 import QWEN3, QWEN3_MOE
from fledge.checkpoint.families.t5 import T5
from fledge.checkpoint.families.table import Family, follows_the_weights, to_ours, to_theirs
from fledge.core.errors import FledgeError
from fledge.model.config import ModelConfig

ALL = (QWEN3, LLAMA, QWEN3_MOE, MIXTRAL, GPT2, GPT1, OPT, NEOX, BLOOM, BERT, T5)
FAMILIES = {family.model_type: family for family in ALL}
OF_THE_HEAD = {"head", "labels", "pooling"}  # what config.json does not say in the family's own words


def family_of(model_type: str) -> Family:
    """The family a config.json names as its model_type."""
    if model_type not in FAMILIES:
        raise FledgeError(f"the model type '{model_type}' is not known", f"known: {', '.join(FAMILIES)}")
    return FAMILIES[model_type]


def family_for(config: ModelConfig) -> Family:
    """The family that a model of these axes is written as: the first that says all of them in its config.json.

    Raises FledgeError, with the family that comes nearest and what it cannot say.
    """
    fitting = {family.model_type: unsaid(family, config) for family in ALL if config.head in family.heads}
    nearest = min(fitting, key=lambda name: len(fitting[name]))
    if not fitting[nearest]:
        return FAMILIES[nearest]
    left = ", ".join(f"{axis}={getattr(config, axis)!r}" for axis in fitting[nearest])
    raise FledgeError(
        f"no known family has this combination of axes: {nearest} comes nearest, but cannot say {left}",
        f"change these axes of the model (families: {', '.join(FAMILIES)})",
    )


def unsaid(family: Family, config: ModelConfig) -> list[str]:
    """The axes that are lost when a model of this config is written as this family and read again."""
    axes = family.read(family.write(config))
    said = ModelConfig.model_construct(**{name: getattr(config, name) for name in OF_THE_HEAD}, **axes)
    given = config.model_dump() | {"encoder_layers": config.encoding_layers or None}
    return [
        axis
        for axis, value in said.model_dump().items()
        if axis not in OF_THE_HEAD and given[axis] != value and not silent(axis, config)
    ]


def silent(axis: str, config: ModelConfig) -> bool:
    """Whether an axis says nothing about a model of this config, because of another one."""
    projects = config.head in ("language", "masked", "pretraining")
    spoken = {
        ("rope_base", "rope_fraction", "rope_scaling"): config.positions == "rotary",
        ("position_offset",): config.positions == "learned",
        ("buckets", "bucket_distance"): config.positions == "buckets",
        ("norm_bias",): config.norm == "layer",
        ("top_k", "normalised_routing", "shared_hidden", "balance", "router_z"): config.experts > 0,
        ("tied", "head_bias"): projects,
        ("output_scale",): config.head == "language",
    }
    return any(axis in axes and not says for axes, says in spoken.items())


__all__ = ["FAMILIES", "Family", "family_for", "family_of", "follows_the_weights", "to_ours", "to_theirs"]
