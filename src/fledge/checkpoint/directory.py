"""Models as Hugging Face directories: config.json, generation_config.json, model.safetensors, tokenizer, checksums.

What fledge writes, `transformers` loads, and the other way round, for the families in `families/`. Weights are
safetensors only; every file's sha256 is in checksums.json and is verified on load where that file exists.
"""

import json
import re
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fledge.checkpoint.families import Family, family_for, family_of, follows_the_weights, to_ours, to_theirs
from fledge.checkpoint.pooling import read_pooling, write_pooling
from fledge.core.config import make_config
from fledge.core.device import free_memory
from fledge.core.errors import FledgeError
from fledge.core.files import checksum, disk_errors, read_json, write_json
from fledge.model.config import Head, ModelConfig
from fledge.model.heads import Headed, build
from fledge.model.positions import rotary_frequencies
from fledge.text.tokenizer import Tokenizer

CHECKSUMS = "checksums.json"
LARGEST, PARTS, WIDEST = 2**40, 2**17, 2**16  # weights; experts of all layers; a head; a config with more is damaged
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
    """Writes `model` into `directory` (made if absent) as the family that has its axes; `extra` goes into config.json
    as it is. Raises FledgeError if no family fits."""
    config = model.config
    family = family_for(config)
    theirs = to_theirs(family, config, {n: p.detach().cpu() for n, p in model.state_dict().items()})
    dtype = DTYPES[next(model.parameters()).dtype]
    ids: dict[str, Any] = {}
    if tokenizer is not None:
        ids = {"bos_token_id": None, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
        if config.shape == "encoder_decoder":
            ids |= {"decoder_start_token_id": tokenizer.pad_id}
    architecture = family.heads[config.head].architecture
    values: dict[str, Any] = {"architectures": [architecture], "model_type": family.model_type}
    values |= family.write(config) | ids | {"dtype": dtype, "torch_dtype": dtype} | labels_of(config)
    with disk_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
        write_json(directory / "config.json", values | (extra or {}))
        if config.head == "language":
            ends = {"eos_token_id": [tokenizer.eos_id, tokenizer.document_id]} if tokenizer else {}
            generation = ids | ends | {"do_sample": True, "max_length": config.context}
            write_json(directory / "generation_config.json", generation)
        if config.head == "embedding":
            write_pooling(directory, config)
        work = directory / ".model.safetensors.writing"
        save_file(theirs, work, metadata={"format": "pt"})
        work.rename(directory / "model.safetensors")
        if tokenizer is not None:
            tokenizer.save(directory, context=config.context)
        present = [directory / name for name in FILES if (directory / name).is_file()]
        write_json(directory / CHECKSUMS, {file.name: checksum(file) for file in present})


def labels_of(config: ModelConfig) -> dict[str, Any]:
    """What config.json says about the labels of a head; one label that is no reward is a regression."""
    if config.head == "scalar":
        return {"num_labels": 1, "id2label": {"0": "reward"}, "label2id": {"reward": 0}}
    if config.head not in ("classifier", "tokens"):
        return {}
    names = [f"LABEL_{i}" for i in range(config.labels)]
    kind = {"problem_type": "regression"} if config.labels == 1 else {}
    return kind | {
        "id2label": {str(i): n for i, n in enumerate(names)},
        "label2id": {n: i for i, n in enumerate(names)},
    }


def load_model(
    directory: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    head: Head | None = None,
    labels: int | None = None,
) -> Any:
    """The model in `directory`, of the class its head has (`fledge.model.heads`).

    head: another head than the checkpoint's, for fine-tuning; its weights are then fresh (a scalar head's are zeros)
    and the checkpoint's own head is left out. labels: how many a fresh classifier knows. Raises FledgeError for what
    is missing, damaged, unknown or does not fit together.
    """
    config, values = read_config(directory)
    check_fits(config, dtype, directory)
    verify(directory)
    theirs = read_weights(directory)
    family = family_of(values["model_type"])
    if head in ("language", "masked", "pretraining") and config.head != head:
        what = "a reward model" if config.head == "scalar" else f"a model with the head '{config.head}'"
        raise FledgeError(
            f"{directory} is {what}, it has no {head} head", f"give a {head.replace('masked', 'masked language')} model"
        )
    fresh = head is not None and (head != config.head or labels not in (None, config.labels))
    if head is not None and fresh:
        theirs = without_head(family, config, theirs)
        config = config.model_copy(update={"head": head, "labels": labels or config.labels})
    else:
        config = follows_the_weights(family, config, theirs)
    with torch.device("meta"):
        model = build(config)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    own = {name for name in shapes if not name.startswith("backbone.")} if fresh else set()
    try:
        ours = to_ours(family, config, {name: shapes[name] for name in shapes if name not in own}, theirs)
    except FledgeError as error:
        raise FledgeError(f"{directory}: {error.message}", error.remedy) from None
    ours |= {name: fresh_weight(name, shapes[name], config) for name in own}
    model.load_state_dict({name: tensor.to(device, dtype) for name, tensor in ours.items()}, assign=True)
    model.backbone.make_tables()  # the only tensors that are not in the file
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model.to(device)


def without_head(family: Family, config: ModelConfig, theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint's tensors without those of its head, the pooler included."""
    prefix = family.prefix_for(config.head)
    gone = {name.format(p=prefix) for rule in family.heads[config.head].rules for name in rule.theirs}
    return {name: tensor for name, tensor in theirs.items() if name not in gone}


def fresh_weight(name: str, shape: torch.Size, config: ModelConfig) -> Tensor:
    """A head's weight before it has learnt anything."""
    if config.head == "scalar" or name.endswith("bias"):
        return torch.zeros(shape)
    return torch.ones(shape) if len(shape) == 1 else torch.empty(shape).normal_(0, 0.02)


def read_config(directory: Path) -> tuple[ModelConfig, dict[str, Any]]:
    """The axes of a directory's config.json, and the config.json itself."""
    path = directory / "config.json"
    if (directory / "adapter_config.json").is_file() and not path.is_file():
        raise FledgeError(
            f"{directory} is an adapter, not a model",
            "merge it into its base model in bfloat16 or float32 (not into 4 bits, which loses what it learnt)",
        )
    if not path.is_file():
        raise FledgeError(f"{directory} is not a model: it has no config.json", "give a Hugging Face model directory")
    values = read_json(path)
    if not isinstance(values, dict):
        raise FledgeError(f"{path} is not a config.json: it holds no object", "give a Hugging Face model directory")
    if values.get("quantization_config"):
        raise FledgeError(f"{path}: quantised weights cannot be read", "give the checkpoint in bfloat16 or float32")
    try:
        family = family_of(str(values.get("model_type")))
        head = head_of(values, family)
        axes = family.read(values) | {"head": head}
        if head in ("classifier", "tokens"):
            axes["labels"] = label_count(values)
        if head == "embedding":
            axes["pooling"] = read_pooling(directory)
    except FledgeError as error:
        raise FledgeError(f"{path}: {error.message}", error.remedy) from None
    except KeyError as error:
        raise FledgeError(f"{path} lacks {error}", "it is no complete config.json: copy it again") from None
    except (TypeError, ValueError, ArithmeticError) as error:
        raise FledgeError(f"{path} is malformed: {error}", "the file is damaged: copy it again") from None
    config = make_config(ModelConfig, axes, where=str(path))
    if config.heads % config.kv_heads:
        raise FledgeError(f"{path}: {config.heads} heads cannot share {config.kv_heads}", "copy the file again")
    stacked = max(1, config.experts) * (config.layers + config.encoding_layers)
    if config.parameters() > LARGEST or stacked > PARTS or config.head_size > WIDEST or config.context > LARGEST:
        raise FledgeError(
            f"{path} describes an impossible model: {config.layers:,} layers of width {config.width:,}, "
            f"context {config.context:,}",
            "the file is damaged: copy it again",
        )
    check_rope(config, path)
    return config, values


def head_of(values: dict[str, Any], family: Family) -> Head:
    """The head that a config.json's architecture has. One label of a decoder is a reward, unless it is called a
    regression; without an architecture, the family's first head is meant."""
    known = {table.architecture: head for head, table in reversed(family.heads.items())}
    architecture = (values.get("architectures") or [next(iter(reversed(known)))])[0]
    if architecture not in known:
        raise FledgeError(f"the architecture '{architecture}' is not known", f"known: {', '.join(reversed(known))}")
    head: Any = known[architecture]
    several = label_count(values) > 1 or values.get("problem_type") == "regression"
    return "classifier" if head == "scalar" and several else head


def label_count(values: dict[str, Any]) -> int:
    """How many labels a config.json names: two where it says nothing, as transformers has it."""
    return len(values["id2label"]) if values.get("id2label") else int(values.get("num_labels") or 2)


def check_rope(config: ModelConfig, path: Path) -> None:
    """Refuses rotary settings that are unknown, incomplete or not numbers."""
    if config.positions != "rotary":
        return
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


def check_fits(config: ModelConfig, dtype: torch.dtype, directory: Path) -> None:
    """Refuses, before anything is allocated, a model that does not fit into this machine's memory."""
    turned = {"rotary": 3 * config.rotary_size // 2, "sinusoidal": 2 * config.width}.get(config.positions, 0)
    needed = config.parameters() * dtype.itemsize + 4 * config.context * turned
    free = free_memory(torch.device("cpu"))
    if needed > free:
        raise FledgeError(
            f"{directory} needs {needed / 2**30:,.1f} GiB of memory, {free / 2**30:,.1f} GiB are free: "
            f"{config.parameters():,} weights, a context of {config.context:,}",
            "use a smaller model, or lower max_position_embeddings in its config.json",
        )


def verify(directory: Path) -> None:
    """Compares every file with checksums.json, where there is one."""
    if not (directory / CHECKSUMS).is_file():
        return
    expected_of = read_json(directory / CHECKSUMS)
    if not isinstance(expected_of, dict):
        raise FledgeError(f"{directory / CHECKSUMS} holds no object", "the file is damaged: copy the checkpoint again")
    there = {file.name for file in directory.iterdir() if file.is_file()}
    for name, expected in expected_of.items():
        file = directory / Path(name).name
        if file.name not in there:
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
    return isinstance(name, str) and re.fullmatch(r"[\w.-]+\.safetensors", name) is not None
