"""The models of a server: found at the start, loaded on first use, given up by least use when memory is short."""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch

from fledge.checkpoint.directory import read_config
from fledge.core.device import free_memory, pick_device, pick_dtype, release_memory
from fledge.core.errors import FledgeError
from fledge.generate.assistant import STEPS, Assistant, find_model, load
from fledge.generate.grammar import Grammars
from fledge.generate.live import LiveEngine
from fledge.generate.packed import PackedModel, can_be_packed, packed
from fledge.model.heads import LanguageModel
from fledge.serve.config import ServeConfig
from fledge.serve.errors import APIError

OVERHEAD = 1.2  # of a model's weights: buffers, the tokenizer, the allocator


@dataclass
class Served:
    """A loaded model. `active` counts the requests in hand: it is not given up while there are any."""

    name: str
    assistant: Assistant
    engine: LiveEngine
    size: int
    active: int = 0
    used: float = field(default_factory=time.monotonic)

    @cached_property
    def grammars(self) -> Grammars:
        """Makes grammars for the model's tokenizer."""
        return Grammars(self.assistant.tokenizer)


class Shelf:
    """Models by name, within `config.memory` bytes."""

    def __init__(self, models: Sequence[str | Path], config: ServeConfig) -> None:
        self.config = config
        self.device = pick_device(config.device)
        self.places = named_models(models)
        self.loaded: dict[str, Served] = {}
        self.created = int(time.time())
        self.memory = config.memory or int(0.8 * free_memory(self.device))
        self.loading = asyncio.Lock()

    @property
    def names(self) -> list[str]:
        """What can be asked for, the default first."""
        return list(self.places)

    async def get(self, name: str) -> Served:
        """The model of that name, loaded if it is not. Raises APIError 404 or 503."""
        if name not in self.places:
            raise APIError(
                404,
                f"the model '{name}' does not exist; there are: {', '.join(self.names)}",
                code="model_not_found",
                param="model",
            )
        if name not in self.loaded:
            async with self.loading:
                if name not in self.loaded:
                    self._make_room(name)
                    self.loaded[name] = await asyncio.to_thread(self._load, name)
        served = self.loaded[name]
        served.used = time.monotonic()
        return served

    def _make_room(self, name: str) -> None:
        need = self._estimate(name)
        while self.loaded and sum(served.size for served in self.loaded.values()) + need > self.memory:
            idle = [served for served in self.loaded.values() if not served.active]
            if not idle:
                raise APIError(503, f"no memory for '{name}' while the other models are in use", retry_after=5)
            del self.loaded[min(idle, key=lambda served: served.used).name]
            release_memory()
        if need > self.memory:
            raise APIError(
                503, f"'{name}' needs {need >> 20} MB, the server may use {self.memory >> 20} MB", retry_after=3600
            )

    def _estimate(self, name: str) -> int:
        """Bytes that the model takes: its weights as they are computed with, and the caches."""
        files = sum(file.stat().st_size for file in self.places[name].glob("*.safetensors"))
        return int(2 * OVERHEAD * files) + self.config.cache_bytes + self.config.shared_bytes

    def _load(self, name: str) -> Served:
        where = self.places[name]
        try:
            assistant = load(where, device=str(self.device), dtype="float32" if self.device.type == "cpu" else "auto")
            engine = live_engine(assistant, self.config)
        except FledgeError as error:
            raise APIError(503, f"'{name}' cannot be loaded: {error.message}") from None
        return Served(name, assistant, engine, self._estimate(name))


def live_engine(assistant: Assistant, config: ServeConfig) -> LiveEngine:
    """An engine on an assistant's model in the precision that the config asks for. Shapes that the packed copy does
    not know run as they are."""
    model = assistant.language
    device = model.backbone.embedding.weight.device
    int8 = config.dtype == "int8"
    runs: LanguageModel | PackedModel = model
    if can_be_packed(model.config):
        runs = packed(model, torch.bfloat16 if int8 else pick_dtype(config.dtype, device), int8)
    elif int8:
        raise FledgeError("int8 is for models of LLaMA's and Qwen3's shape", "serve this one with dtype=auto")
    return LiveEngine(
        runs,
        assistant.tokenizer,
        max_batch=config.max_batch,
        cache_bytes=config.cache_bytes,
        shared_bytes=config.shared_bytes,
        draft=draft_of(config, assistant, runs),
    )


def draft_of(config: ServeConfig, assistant: Assistant, runs: LanguageModel | PackedModel) -> PackedModel | None:
    """The draft that the config names, in the precision of `runs`; None for a model it cannot stand in for."""
    if config.draft is None or not isinstance(runs, PackedModel):
        return None
    other = load(find_model(config.draft), device=str(runs.device), dtype="float32")
    fits = other.tokenizer.vocabulary == assistant.tokenizer.vocabulary and can_be_packed(other.config)
    fits &= other.config.context >= assistant.config.context
    smaller = other.config.parameters() < assistant.config.parameters()
    return packed(other.language, runs.dtype) if fits and smaller else None


def named_models(models: Sequence[str | Path]) -> dict[str, Path]:
    """Names → model directories. A run gives its most advanced model under its own name, and each step's under
    RUN/STEP; NAME=PATH gives a model the name one likes."""
    places: dict[str, Path] = {}
    for given in models:
        name, separator, path = str(given).rpartition("=")
        where = Path(path).expanduser()
        name = name if separator else where.resolve().name
        best = find_model(where)
        found = {name: best}
        if best != where:
            found |= {f"{name}/{step}": where / step for step in STEPS if (where / step / "config.json").is_file()}
        for key, place in found.items():
            if key in places:
                raise FledgeError(f"two models are called '{key}'", "give one another name: NAME=PATH")
            if read_config(place)[0].head != "language":
                raise FledgeError(f"{place} is a reward model: it cannot write", "serve the policy, e.g. runs/NAME/ppo")
            places[key] = place
    if not places:
        raise FledgeError("no model given", "fledge serve runs/NAME")
    return places


def card(name: str, place: Path, created: int) -> dict[str, object]:
    """A model as /v1/models lists it, with what pages want to know."""
    config, _ = read_config(place)
    mark = place / "artifact.json"
    step = json.loads(mark.read_text()).get("stage", "") if mark.is_file() else ""
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "fledge",
        "context": config.context,
        "parameters": config.parameters(),
        "vocab_size": config.vocab_size,
        "step": step or place.name,
    }
