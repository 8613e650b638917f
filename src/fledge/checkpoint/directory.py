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
from fledge.model.heads import LanguageModel, ScalarModel, build
from fledge.text.tokenizer import Tokenizer

CHECKSUMS = "checksums.json"
LARGEST = 2**40  # weights; a config that asks for more is damaged, not ambitious
DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


def save_model(
    model: LanguageModel | ScalarModel,
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
            write_json(directory / "generation_config.json", ids | {"do_sample": True, "max_length": config.context})
        work = directory / ".model.safetensors.writing"
        save_file(theirs, work, metadata={"format": "pt"})
        work.rename(directory / "model.safetensors")
        if tokenizer is not None:
            tokenizer.save(directory, context=config.context)
        names = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"]
        present = [directory / name for name in names if (directory / name).is_file()]
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
    config, _ = read_config(directory)
    verify(directory)
    theirs = read_weights(directory)
    fresh = head == "scalar" and config.head == "language"
    if fresh:
        config = config.model_copy(update={"head": "scalar"})
        theirs["score.weight"] = torch.zeros(1, config.width)
    family = family_of(read_json(directory / "config.json")["model_type"])
    if config.head == "scalar" and not any(name.startswith("model.") for name in theirs):
        raise FledgeError(f"{directory} holds no Transformer weights", "give a model directory")
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in build(config).state_dict().items()}
    ours = to_ours(family, config, shapes, theirs)
    with torch.random.fork_rng(devices=[]):
        model = build(config)
    model.load_state_dict({name: tensor.to(dtype) for name, tensor in ours.items()}, assign=True)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model.to(device)


def read_config(directory: Path) -> tuple[ModelConfig, dict[str, Any]]:
    """The axes of a directory's config.json, and the config.json itself."""
    path = directory / "config.json"
    if not path.is_file():
        raise FledgeError(f"{directory} is not a model: it has no config.json", "give a Hugging Face model directory")
    values = read_json(path)
    family = family_of(str(values.get("model_type")))
    architecture = (values.get("architectures") or ["?ForCausalLM"])[0]
    scalar = architecture == family.architectures["scalar"]
    if not scalar and not architecture.endswith("ForCausalLM"):
        raise FledgeError(f"{path}: architecture {architecture} is not known", f"known: {family.architectures}")
    try:
        axes = family.read(values) | {"head": "scalar" if scalar else "language"}
    except (KeyError, TypeError) as error:
        raise FledgeError(f"{path} lacks {error}", "it is no complete config.json") from None
    config = make_config(ModelConfig, axes, where=str(path))
    if config.heads % config.kv_heads or config.parameters() > LARGEST:
        raise FledgeError(f"{path} describes an impossible model", "the file is damaged: copy it again")
    return config, values


def verify(directory: Path) -> None:
    """Compares every file with checksums.json, where there is one."""
    if not (directory / CHECKSUMS).is_file():
        return
    for name, expected in read_json(directory / CHECKSUMS).items():
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
        names = sorted(set(read_json(index).get("weight_map", {}).values()))
        if not names or any(Path(name).name != name for name in names):
            raise FledgeError(f"{index} does not name files of its own directory", "copy the checkpoint again")
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
