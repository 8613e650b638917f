"""Models as Hugging Face directories: config.json, generation_config.json, model.safetensors, tokenizer, checksums.

What fledge writes, `transformers` loads, and the other way round, for the families in `families/`. Weights are
safetensors only; every file's sha256 is in checksums.json and is verified on load where that file exists.
"""

import json
from pathlib import Path
from typing import Any, Literal

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fledge.checkpoint.families import family_for, family_of, to_ours, to_theirs
from fledge.core.config import make_config
from fledge.core.errors import FledgeError
from fledge.core.files import checksum, disk_errors, read_json, write_json
from fledge.model.config import ModelConfig
from fledge.model.heads import Headed, build
from fledge.model.positions import rotary_frequencies
from fledge.text.tokenizer import Tokenizer

CHECKSUMS = "checksums.json"
LARGEST, LARGEST_TABLE, LAYERS = 2**40, 2**32, 10_000  # weights, rotary table; a config with more is damaged
FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)
DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


def save_model(
    model: Headed,
    directory: Path,
    *,
    tokenizer: Tokenizer | None = None,
    extra: dict[str, Any] | None = None,
) -> None:
    """Writes `model` into `directory` (made if absent); `extra` goes into config.json as it is."""
    config = model.config
    family = family_for(config)
    theirs = to_theirs(family, config, {n: p.detach().cpu() for n, p in model.state_dict().items()})
    dtype = DTYPES[next(model.parameters()).dtype]
    ids: dict[str, Any] = {}
    if tokenizer is not None:
        ids = {"bos_token_id": None, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
    values: dict[str, Any] = {"architectures": [family.architectures[config.head]], "model_type": family.model_type}
    values |= family.write(config) | ids | {"dtype": dtype, "torch_dtype": dtype}
    if config.head == "scalar":
        values |= {"num_labels": 1, "id2label": {"0": "reward"}, "label2id": {"reward": 0}}
    with disk_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
        write_json(directory / "config.json", values | (extra or {}))
        if config.head == "language":
            ends = {"eos_token_id": [tokenizer.eos_id, tokenizer.document_id]} if tokenizer else {}
            generation = ids | ends | {"do_sample": True, "max_length": config.context}
            write_json(directory / "generation_config.json", generation)
        work = directory / ".model.safetensors.writing"
        save_file(theirs, work, metadata={"format": "pt"})
        work.rename(directory / "model.safetensors")
        if tokenizer is not None:
            tokenizer.save(directory, context=config.context)
        present = [directory / name for name in FILES if (directory / name).is_file()]
        write_json(directory / CHECKSUMS, {file.name: checksum(file) for file in present})


def load_model(
    directory: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    head: Literal["language", "scalar"] | None = None,
) -> Any:
    """The model in `directory`, LanguageModel or ScalarModel.

    head="scalar" gives a language checkpoint a new score head of zeros. Raises FledgeError for what is missing,
    damaged, unknown or does not fit together.
    """
    config, values = read_config(directory)
    verify(directory)
    theirs = read_weights(directory)
    if head == "language" and config.head == "scalar":
        raise FledgeError(f"{directory} is a reward model, it has no language head", "give a language model")
    fresh = head == "scalar" and config.head == "language"
    if fresh:
        config = config.model_copy(update={"head": "scalar"})
        theirs["score.weight"] = torch.zeros(1, config.width)
    with torch.device("meta"):
        model = build(config)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    try:
        ours = to_ours(family_of(values["model_type"]), config, shapes, theirs)
    except FledgeError as error:
        raise FledgeError(f"{directory}: {error.message}", error.remedy) from None
    model.load_state_dict({name: tensor.to(device, dtype) for name, tensor in ours.items()}, assign=True)
    model.backbone.make_tables()  # the only tensors that are not in the file
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model.to(device)


def read_config(directory: Path) -> tuple[ModelConfig, dict[str, Any]]:
    """The axes of a directory's config.json, and the config.json itself."""
    path = directory / "config.json"
    if not path.is_file():
        raise FledgeError(f"{directory} is not a model: it has no config.json", "give a Hugging Face model directory")
    values = read_json(path)
    if not isinstance(values, dict):
        raise FledgeError(f"{path} is not a config.json: it holds no object", "give a Hugging Face model directory")
    if values.get("quantization_config"):
        raise FledgeError(f"{path}: quantised weights cannot be read", "give the checkpoint in bfloat16 or float32")
    try:
        family = family_of(str(values.get("model_type")))
        scalar = values.get("architectures") == [family.architectures["scalar"]]
        architecture = (values.get("architectures") or [family.architectures["language"]])[0]
        if not scalar and not str(architecture).endswith("ForCausalLM"):
            raise FledgeError(
                f"the architecture '{architecture}' is not known", f"known: {', '.join(family.architectures.values())}"
            )
        axes = family.read(values) | {"head": "scalar" if scalar else "language"}
    except FledgeError as error:
        raise FledgeError(f"{path}: {error.message}", error.remedy) from None
    except KeyError as error:
        raise FledgeError(f"{path} lacks {error}", "it is no complete config.json: copy it again") from None
    except (TypeError, ValueError, ArithmeticError) as error:
        raise FledgeError(f"{path} is malformed: {error}", "the file is damaged: copy it again") from None
    config = make_config(ModelConfig, axes, where=str(path))
    if config.heads % config.kv_heads:
        raise FledgeError(f"{path}: {config.heads} heads cannot share {config.kv_heads}", "copy the file again")
    if config.parameters() > LARGEST or config.layers > LAYERS or config.context * config.head_size > LARGEST_TABLE:
        raise FledgeError(
            f"{path} describes an impossible model: {config.layers:,} layers of width {config.width:,}, "
            f"context {config.context:,}",
            "the file is damaged: copy it again",
        )
    check_rope(config, path)
    return config, values


def check_rope(config: ModelConfig, path: Path) -> None:
    """Refuses rotary settings that are unknown, incomplete or not numbers."""
    try:
        finite = bool(rotary_frequencies(config).isfinite().all())
    except KeyError as error:
        raise FledgeError(
            f"{path}: rope_scaling lacks {error}", "it is no complete config.json: copy it again"
        ) from None
    except FledgeError as error:
        raise FledgeError(f"{path}: {error.message}", error.remedy) from None
    except (TypeError, ArithmeticError):
        finite = False
    if not finite:
        raise FledgeError(f"{path}: the rotary frequencies are not finite", "correct rope_theta and rope_scaling")


def verify(directory: Path) -> None:
    """Compares every file with checksums.json, where there is one."""
    if not (directory / CHECKSUMS).is_file():
        return
    expected_of = read_json(directory / CHECKSUMS)
    if not isinstance(expected_of, dict):
        raise FledgeError(f"{directory / CHECKSUMS} holds no object", "the file is damaged: copy the checkpoint again")
    for name, expected in expected_of.items():
        file = directory / Path(name).name
        if not file.is_file():
            raise FledgeError(f"{file} is missing", "the checkpoint is incomplete: copy it again or run the step again")
        if checksum(file) != expected:
            raise FledgeError(
                f"{file} is damaged or was changed: its checksum does not match {CHECKSUMS}",
                f"copy it again or run the step again; if the change was meant, delete {directory / CHECKSUMS}",
            )


def read_weights(directory: Path) -> dict[str, Tensor]:
    """All tensors of model.safetensors, or of the shards that model.safetensors.index.json names."""
    index = directory / "model.safetensors.index.json"
    if (directory / "model.safetensors").is_file():
        files = [directory / "model.safetensors"]
    elif index.is_file():
        content = read_json(index)
        places = content.get("weight_map") if isinstance(content, dict) else None
        if not isinstance(places, dict) or not places or not all(is_shard(name) for name in places.values()):
            raise FledgeError(f"{index} does not name shards in its own directory", "copy the checkpoint again")
        names = sorted(set(places.values()))
        files = [directory / name for name in names]
    else:
        raise FledgeError(f"{directory} has no model.safetensors", "give a checkpoint with safetensors weights")
    tensors: dict[str, Tensor] = {}
    for file in files:
        try:
            tensors |= load_file(file)
        except FileNotFoundError:
            raise FledgeError(f"{file} is missing", "copy the checkpoint again") from None
        except (safetensors.SafetensorError, json.JSONDecodeError, OSError) as error:
            raise FledgeError(f"{file} is damaged: {error}", "copy it again or run the step again") from None
    return tensors


def is_shard(name: object) -> bool:
    """Whether an index names a safetensors file beside itself, and nothing elsewhere."""
    return isinstance(name, str) and Path(name).name == name and name.endswith(".safetensors")
