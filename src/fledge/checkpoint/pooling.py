"""How an encoder's directory says which hidden states make up an embedding: in the files of sentence-transformers."""

from pathlib import Path
from typing import Any

from fledge.core.errors import FledgeError
from fledge.core.files import read_json, write_json
from fledge.model.config import ModelConfig

POOLING = "1_Pooling/config.json"
KEYS = {"mean": "pooling_mode_mean_tokens", "first": "pooling_mode_cls_token", "last": "pooling_mode_lasttoken"}
MODULES = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))


def read_pooling(directory: Path) -> str:
    """`mean` (also where nothing is said), `first` or `last`."""
    if not (directory / POOLING).is_file():
        return "mean"
    values = read_json(directory / POOLING)
    chosen = [name for name, key in KEYS.items() if isinstance(values, dict) and values.get(key)]
    if isinstance(values, dict) and values.get("pooling_mode") in KEYS:
        chosen = [values["pooling_mode"]]
    if len(chosen) != 1:
        raise FledgeError(f"{directory / POOLING} asks for a pooling that is not known", f"known: {', '.join(KEYS)}")
    return chosen[0]


def write_pooling(directory: Path, config: ModelConfig) -> None:
    """The files from which sentence-transformers loads this model, with normalised embeddings."""
    values: dict[str, Any] = {key: name == config.pooling for name, key in KEYS.items()}
    (directory / "1_Pooling").mkdir(exist_ok=True)
    write_json(directory / POOLING, {"word_embedding_dimension": config.out_width, **values})
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(MODULES)
    ]
    write_json(directory / "modules.json", modules)
    write_json(directory / "sentence_bert_config.json", {"max_seq_length": config.context, "do_lower_case": False})
