"""`fledge.load(directory)`: a trained model with its tokenizer, ready to answer, to continue text or to score.

Conversations go through the model's chat template, plain strings are continued as they stand. A directory may also
be a recipe's run; then its most advanced model is taken. Leaves out serving many users at once.

Shapes: B batch, T time, V vocabulary.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fledge.checkpoint.directory import read_config
from fledge.checkpoint.lstm import load_any
from fledge.core.config import make_config
from fledge.core.device import pick_device, pick_dtype
from fledge.core.errors import FledgeError
from fledge.core.nouns import Conversation, Message
from fledge.generate.beam import BeamConfig
from fledge.generate.engine import Engine
from fledge.generate.packed import PackedModel, can_be_packed, packed
from fledge.generate.reading import Filled, embed, fill
from fledge.generate.request import Completion, Request
from fledge.generate.rerank import rerank, rescored
from fledge.generate.sampling import Sampling
from fledge.generate.sources import SourceEngine, nbest
from fledge.model.config import ModelConfig
from fledge.model.heads import LanguageModel, ScalarModel
from fledge.model.lstm import LstmModel
from fledge.text.template import render
from fledge.text.tokenizer import Tokenizer

STEPS = ("promote", "ppo", "sft", "pretrain")  # a recipe's models one can talk to, the most advanced first
ROLES = ("system", "user", "assistant")
ANSWER = 256  # tokens an answer may have if nobody says otherwise

Prompt = str | Sequence[Message | Mapping[str, str]] | Conversation


def find_model(path: Path) -> Path:
    """The model directory that `path` means: itself, or the most advanced model of the run it holds."""
    if (path / "config.json").is_file():
        return path
    for step in STEPS:
        if (path / step / "config.json").is_file():
            return path / step
    if not path.is_dir():
        raise FledgeError(f"{path} does not exist", "give a model directory or the run directory of a recipe")
    raise FledgeError(
        f"{path} holds no model: neither config.json nor a finished step {', '.join(STEPS)}",
        "give a model directory, or finish the run with `fledge raise`",
    )


def load(directory: str | Path, *, device: str = "auto", dtype: str = "auto") -> "Assistant":
    """Load a model or a run directory. `dtype` is what it computes in; `auto` is float32 on a CPU for scores and
    logits that equal training's, bfloat16 where a GPU is used."""
    where = find_model(Path(directory))
    on = pick_device(device)
    precision = torch.float32 if dtype == "auto" and on.type == "cpu" else pick_dtype(dtype, on)
    model = load_any(where, device=on, dtype=precision).eval().requires_grad_(False)
    mean = 0.0 if isinstance(model, LstmModel) else float(read_config(where)[1].get("reward_mean", 0.0))
    return Assistant(model, Tokenizer.load(where), reward_mean=mean)


@dataclass
class Assistant:
    """A model and its tokenizer. A reward model scores, an encoder embeds and fills in; a language model does the
    rest."""

    model: Any
    tokenizer: Tokenizer
    reward_mean: float = 0.0

    @property
    def config(self) -> ModelConfig:
        """The model's architecture."""
        config: ModelConfig = self.model.config
        return config

    @property
    def reads_sources(self) -> bool:
        """Whether a prompt is a source that the model reads first: an encoder-decoder's, an LSTM's."""
        return isinstance(self.model, LstmModel) or self.config.shape == "encoder_decoder"

    def embed(self, texts: Sequence[str], **options: Any) -> np.ndarray:
        """A vector of each text, [N,E] float32; options: `pooling` (mean, first, last), `normalise`."""
        return embed(self.model, self.tokenizer, texts, **options)

    def fill(self, texts: Sequence[str], top: int = 5) -> list[Filled]:
        """What belongs where the texts say [MASK]."""
        return fill(self.model, self.tokenizer, texts, top=top)

    def nbest(
        self, prompts: Sequence[Prompt], max_new_tokens: int = 64, judge: "Assistant | None" = None, **beam: Any
    ) -> list[list[tuple[str, float]]]:
        """Of each prompt (or source) the best texts by beam search, with their scores; `beam`: the fields of
        `BeamConfig`. With a `judge` of the same vocabulary, by the mean of what both models think."""
        given, config = self._given(prompts), make_config(BeamConfig, beam, where="the beam options")
        lists = nbest(self.language, self.tokenizer, *given, max_new_tokens=max_new_tokens, config=config)
        if judge is not None:
            if judge.tokenizer.vocabulary != self.tokenizer.vocabulary:
                raise FledgeError("the judge has another vocabulary", "give a model with the same tokenizer")
            other = rescored(judge.language, judge.tokenizer, *judge._given(prompts), lists)
            lists = rerank(lists, [other], length_penalty=config.length_penalty)
        return [[(self.tokenizer.decode(entry.ids), entry.score) for entry in found] for found in lists]

    def _given(self, prompts: Sequence[Prompt]) -> tuple[list[list[int]] | None, list[list[int]] | None]:
        """The prompts as `nbest` takes them: sources, or what is gone on from."""
        ids = [self.encode(prompt) for prompt in prompts]
        return ([[*row, self.tokenizer.document_id] for row in ids], None) if self.reads_sources else (None, ids)

    def translate(self, texts: Sequence[str], **options: Any) -> list[str]:
        """The best text for each source; options as in `nbest`."""
        return [found[0][0].strip() if found else "" for found in self.nbest(texts, **options)]

    @torch.inference_mode()
    def logits(self, ids: Tensor) -> Tensor:
        """ids: int64 [B, T]. Returns what comes after each position, [B, T, V] float32."""
        return self.language(ids.to(self._device())).logits().float()

    def generate(self, prompts: Sequence[Prompt], **options: Any) -> list[str]:
        """The answers to conversations, or the continuations of strings; options as in `complete`."""
        return [completion.text for completion in self.complete(prompts, **options)]

    def complete(self, prompts: Sequence[Prompt], **options: Any) -> list[Completion]:
        """As `generate`, with ids, log-probabilities and why each ended.

        Options: `max_new_tokens` (256, or what fits), `seed` (prompt i draws with seed + i), `stop` (strings),
        `max_batch`, and the fields of `Sampling`. Raises FledgeError for a prompt longer than the context.
        """
        engine = self.engine(options.pop("max_batch", 64))
        return engine.run([self.request(prompt, i, **options) for i, prompt in enumerate(prompts)])

    def chat(self, messages: Prompt, **options: Any) -> Iterator[str]:
        """The answer to a conversation, piece by piece; options as in `complete`."""
        for event in self.engine(1).stream([self.request(messages, **options)]):
            if event.text:
                yield event.text

    def engine(self, max_batch: int = 64) -> Engine | SourceEngine:
        """An engine on this model, `max_batch` requests at a time."""
        if self.reads_sources:
            return SourceEngine(self.language, self.tokenizer, max_batch=max_batch)
        return Engine(self.packed, self.tokenizer, max_batch=max_batch)

    @cached_property
    def packed(self) -> LanguageModel | PackedModel:
        """The copy that generates, made when first needed; the model itself if the copy does not know its shape."""
        known = can_be_packed(self.config)
        return packed(self.language, next(self.model.parameters()).dtype) if known else self.language

    def request(
        self,
        prompt: Prompt,
        index: int = 0,
        *,
        max_new_tokens: int | None = None,
        seed: int = 0,
        stop: Sequence[str] = (),
        **sampling: Any,
    ) -> Request:
        """The engine's request for a prompt. Without `max_new_tokens`: 256, or what the context leaves."""
        ids = self.encode(prompt)
        room = self.config.context - len(ids)
        if room < 1:
            raise FledgeError(
                f"the prompt has {len(ids)} tokens, the model's context is {self.config.context} with the answer",
                "shorten the prompt",
            )
        if max_new_tokens is not None and max_new_tokens > room:
            raise FledgeError(
                f"a prompt of {len(ids)} tokens leaves room for {room} of the {max_new_tokens} new ones, "
                f"the model's context is {self.config.context}",
                "shorten the prompt or lower max_new_tokens",
            )
        return Request(
            ids=ids,
            max_new_tokens=min(ANSWER, room) if max_new_tokens is None else max_new_tokens,
            sampling=make_config(Sampling, sampling, where="the sampling options"),
            seed=seed + index,
            stop_ids=tuple({self.tokenizer.eos_id, self.tokenizer.document_id}),
            stop=tuple(stop),
        )

    def encode(self, prompt: Prompt) -> list[int]:
        """The ids a prompt becomes: a string as it is, a conversation through the template, up to the answer."""
        if isinstance(prompt, str):
            return self.tokenizer.encode(prompt) or [self.tokenizer.document_id]
        return render(self.tokenizer, as_messages(prompt), add_generation_prompt=True).ids

    @torch.inference_mode()
    def score(self, conversations: Sequence[Prompt], max_batch: int = 32) -> list[float]:
        """The reward of each conversation's last answer (of plain text as it stands), read at its last token;
        minus the mean reward of the demonstrations if the model carries one."""
        if not isinstance(self.model, ScalarModel):
            raise FledgeError("a language model gives no scores", "load the reward model, e.g. runs/NAME/reward")
        rows = [self._scored_ids(conversation) for conversation in conversations]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        scores = [0.0] * len(rows)
        for start in range(0, len(rows), max_batch):
            chosen = order[start : start + max_batch]
            lengths = torch.tensor([len(rows[i]) for i in chosen])
            ids = torch.zeros(len(chosen), int(lengths.max()), dtype=torch.long)
            for row, i in enumerate(chosen):
                ids[row, : len(rows[i])] = torch.tensor(rows[i])
            values = self.model(ids.to(self._device())).values
            last = values[torch.arange(len(chosen)), lengths - 1].float() - self.reward_mean
            for i, score in zip(chosen, last.tolist()):
                scores[i] = score
        return scores

    def _scored_ids(self, conversation: Prompt) -> list[int]:
        """Up to and with the end of the last turn: what follows it in the template says nothing about it."""
        if isinstance(conversation, str):
            ids = self.tokenizer.encode(conversation) or [self.tokenizer.document_id]
        else:
            rendered = render(self.tokenizer, as_messages(conversation))
            ids = rendered.ids[
                : max((i for i, said in enumerate(rendered.mask) if said), default=len(rendered.ids) - 1) + 1
            ]
        if len(ids) > self.config.context:
            raise FledgeError(
                f"a conversation has {len(ids)} tokens, the reward model's context is {self.config.context}",
                "shorten it",
            )
        return ids

    @property
    def language(self) -> Any:
        """The model, if it can write. Raises FledgeError for one that scores, classifies or fills in."""
        if not isinstance(self.model, LanguageModel | LstmModel):
            if self.config.head == "scalar":
                raise FledgeError(
                    "a reward model scores answers, it cannot write them", "load the policy, e.g. runs/NAME/ppo"
                )
            raise FledgeError(f"a model with the head '{self.config.head}' cannot write", "load a language model")
        return self.model

    def _device(self) -> torch.device:
        return next(self.model.parameters()).device


def as_messages(prompt: Conversation | Sequence[Message | Mapping[str, str]]) -> list[Message]:
    """Messages from any of the forms in which people write a conversation."""
    turns = prompt.messages if isinstance(prompt, Conversation) else prompt
    messages = []
    for turn in turns:
        if isinstance(turn, Message):
            messages.append(turn)
        elif isinstance(turn, Mapping) and {"role", "content"} <= turn.keys():
            messages.append(Message(str(turn["role"]), str(turn["content"])))
        else:
            raise FledgeError(f"not a message: {turn!r}", 'write {"role": "user", "content": "…"}')
        if messages[-1].role not in ROLES:
            raise FledgeError(f"a message has the unknown role '{messages[-1].role}'", f"known: {', '.join(ROLES)}")
    return messages


def trim(assistant: Assistant, messages: Sequence[Message], reserve: int) -> tuple[list[Message], int]:
    """Drop the oldest exchanges until prompt and `reserve` tokens for the answer fit the context.

    System messages and the last message stay. Returns the messages and how many were dropped.
    Raises FledgeError if even the last message does not fit.
    """
    system = [message for message in messages if message.role == "system"]
    turns = [message for message in messages if message.role != "system"]
    context = assistant.config.context
    for dropped in range(len(turns)):
        if dropped and turns[dropped].role != "user":
            continue  # an exchange goes as a whole
        kept = [*system, *turns[dropped:]]
        if len(assistant.encode(kept)) + reserve <= context:
            return kept, dropped
    needed = len(assistant.encode([*system, *turns[-1:]]))
    raise FledgeError(
        f"the message takes {needed} tokens; with {reserve} for the answer the context is {context}",
        "write a shorter message",
    )
