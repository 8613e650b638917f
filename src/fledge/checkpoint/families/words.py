"""What several families' configs say in the same words: activations and rotary settings."""

from typing import Any

from fledge.core.errors import FledgeError
from fledge.model.config import ModelConfig

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
}


def activation_of(theirs: str) -> str:
    """Our name of an activation."""
    if theirs not in ACTIVATIONS:
        raise FledgeError(f"the activation '{theirs}' is not known", f"known: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[theirs]


def activation_for(ours: str, *, tanh: str = "gelu_pytorch_tanh") -> str:
    """Their name of an activation; `tanh`: what the family calls the approximated gelu."""
    return tanh if ours == "gelu_tanh" else ours


def refuse(config: dict[str, Any], **unlike: Any) -> None:
    """Raises FledgeError if the config sets something that no axis says; `unlike`: key → the value that is meant."""
    for key, value in unlike.items():
        if config.get(key, value) not in (value, None):
            raise FledgeError(f"{key}={config[key]!r} is not supported", f"only {key}={value!r} is")


def read_rope(config: dict[str, Any], *, base: float = 10_000.0, fraction: float = 1.0) -> dict[str, Any]:
    """The rotary axes of a config.json, old keys or new; `base` and `fraction`: the family's defaults."""
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    kind = rope.setdefault("rope_type", rope.pop("type", "default"))
    theta = rope.pop("rope_theta", config.get("rope_theta") or config.get("rotary_emb_base") or base)
    part = rope.pop("partial_rotary_factor", config.get("partial_rotary_factor", config.get("rotary_pct", fraction)))
    if kind in ("llama3", "yarn"):
        rope.setdefault("original_max_position_embeddings", config["max_position_embeddings"])
    return {"rope_base": theta, "rope_fraction": part, "rope_scaling": None if kind == "default" else rope}


def write_rope(config: ModelConfig) -> dict[str, Any]:
    """The rotary keys of a config.json, old ones beside the new ones."""
    rope = {"rope_type": "default", **(config.rope_scaling or {}), "rope_theta": config.rope_base}
    old = {"rope_scaling": config.rope_scaling} if config.rope_scaling else {}
    return {"rope_theta": config.rope_base, "rope_parameters": rope, **old}
