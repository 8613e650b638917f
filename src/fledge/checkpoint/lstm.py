"""The LSTM as a directory like the others: config.json, model.safetensors, tokenizer, checksums.

`transformers` knows no such family, so its names are ours. `load_any` reads whichever a directory holds.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from fledge.checkpoint.directory import CHECKSUMS, FILES, load_model, read_weights, verify
from fledge.core.config import make_config
from fledge.core.errors import FledgeError
from fledge.core.files import checksum, disk_errors, read_json, write_json
from fledge.model.lstm import LstmConfig, LstmModel
from fledge.text.tokenizer import Tokenizer

MODEL_TYPE = "fledge_lstm"


def save_lstm(model: LstmModel, directory: Path, *, tokenizer: Tokenizer, extra: dict[str, Any] | None = None) -> None:
    """Writes `model` into `directory` (made if absent); `extra` goes into config.json as it is."""
    marks = {"eos_token_id": tokenizer.document_id, "pad_token_id": tokenizer.pad_id}
    values = {"architectures": ["LstmForConditionalGeneration"], "model_type": MODEL_TYPE, "is_encoder_decoder": True}
    values |= model.config.model_dump() | marks | {"decoder_start_token_id": tokenizer.pad_id}
    with disk_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
        write_json(directory / "config.json", values | (extra or {}))
        work = directory / ".model.safetensors.writing"
        save_file({n: t.detach().cpu().contiguous() for n, t in model.state_dict().items()}, work, {"format": "pt"})
        work.rename(directory / "model.safetensors")
        tokenizer.save(directory, context=model.config.context)
        present = [directory / name for name in FILES if (directory / name).is_file()]
        write_json(directory / CHECKSUMS, {file.name: checksum(file) for file in present})


def load_lstm(directory: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> LstmModel:
    """The LSTM in `directory`; raises FledgeError for what is missing, damaged or does not fit together."""
    values = read_json(directory / "config.json")
    axes = {key: values[key] for key in LstmConfig.model_fields if key in values}
    config = make_config(LstmConfig, axes, where=str(directory / "config.json"))
    verify(directory)
    theirs = read_weights(directory)
    held = sum(tensor.numel() for tensor in theirs.values())
    if config.parameters() > held or config.layers > len(theirs):  # before anything of that size is allocated
        raise FledgeError(
            f"{directory}: config.json speaks of {config.parameters():,} weights, the file holds {held:,}",
            "its config.json and its weights do not belong together",
        )
    model = LstmModel(config)
    wanted = {name: tensor.shape for name, tensor in model.state_dict().items()}
    wrong = sorted(set(theirs) ^ set(wanted)) or [name for name in wanted if theirs[name].shape != wanted[name]]
    if wrong:
        raise FledgeError(
            f"{directory}: {wrong[0]} is missing, unknown or of another shape",
            "its config.json and its weights do not belong together",
        )
    model.load_state_dict(theirs)
    return model.to(device, dtype)


def is_lstm(directory: Path) -> bool:
    """Whether a directory holds an LSTM."""
    path = directory / "config.json"
    values = read_json(path) if path.is_file() else {}
    return isinstance(values, dict) and values.get("model_type") == MODEL_TYPE


def load_any(directory: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Any:
    """The model in `directory`, whatever it is: a Transformer with its head, or an LSTM."""
    load = load_lstm if is_lstm(directory) else load_model
    return load(directory, device=device, dtype=dtype)
