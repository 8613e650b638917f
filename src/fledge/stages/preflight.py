"""Preflight: what must hold before a stage spends time. Each check refuses with the reason and the remedy.

The mistakes are those that users of other tools lose days to: silence where nothing is supervised, labels truncated
away, evaluation text in the training data, a reward read at the wrong place.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import nn

from fledge.core.device import free_memory, pick_device, pick_dtype
from fledge.core.errors import FledgeError
from fledge.core.log import Log
from fledge.core.nouns import Message
from fledge.data.packing import Example
from fledge.model.config import ModelConfig
from fledge.stages.session import TrainConfig
from fledge.text.template import render
from fledge.text.tokenizer import Tokenizer, named
from fledge.train.memory import step_bytes


def check_tokenizer(tokenizer: Tokenizer) -> None:
    """Text must not become special tokens, padding must not be the end of a turn, the template must mark answers."""
    if set(tokenizer.encode(" ".join(tokenizer.special))) & set(tokenizer.special.values()):
        raise FledgeError(
            "the tokenizer turns text that spells a special token into one: users could forge turns",
            "take those tokens out of its vocabulary, they belong into added_tokens",
        )
    if tokenizer.pad_id == tokenizer.eos_id:
        raise FledgeError(
            "the pad token is the end-of-turn token: its loss would be masked and the model would never stop",
            "give the tokenizer a pad token of its own",
        )
    said = render(tokenizer, [Message("user", "ping"), Message("assistant", "pong")])
    if not any(said.mask):
        raise FledgeError(
            "the chat template marks nothing as the assistant's: training on it would learn nothing",
            "put {% generation %} … {% endgeneration %} around the assistant's turn in chat_template.jinja",
        )
    if tokenizer.eos_id not in [i for i, m in zip(said.ids, said.mask, strict=True) if m]:
        raise FledgeError(
            "the end-of-turn token is not inside the template's {% generation %} block: the model would never stop",
            "move the end-of-turn token before {% endgeneration %}",
        )
    begin = begin_of_text(tokenizer)
    if begin is not None and begin not in said.ids[:1]:
        raise FledgeError(
            "the chat template does not begin with the BOS token, which the tokenizer puts before every text",
            "write {{ bos_token }} at the top of chat_template.jinja",
        )
    prompt = render(tokenizer, [Message("user", "ping")], add_generation_prompt=True).ids
    if said.ids[: len(prompt)] != prompt:
        raise FledgeError(
            "the chat template renders a prompt for generation differently from the same prompt in training",
            "make the add_generation_prompt branch equal to the start of an assistant turn",
        )


def begin_of_text(tokenizer: Tokenizer) -> int | None:
    """The BOS token that the tokenizer itself puts before every text, if it does."""
    bare, whole = (tokenizer.backend.encode("a", add_special_tokens=added).ids for added in (False, True))
    return whole[0] if whole[-len(bare) :] == bare and len(whole) > len(bare) else None


def check_vocabulary(examples: Iterable[Sequence[int] | np.ndarray], shape: ModelConfig, what: str) -> None:
    """Every id must have a row in the model's embedding: tokens that were added later have none, and learn nothing."""
    most = max((int(max(ids)) for ids in examples if len(ids)), default=0)
    if most >= shape.vocab_size:
        raise FledgeError(
            f"the {what} use token {most:,}, the model has only {shape.vocab_size:,}: the tokenizer was extended",
            "use the tokenizer the model was trained with, or pretrain one with the new tokens",
        )


def check_examples(examples: Sequence[Example], length: int, drop_long: bool, what: str, log: Log) -> list[Example]:
    """The examples that fit into `length` tokens; refuses unsupervised ones, and long ones unless `drop_long`."""
    if not examples:
        raise FledgeError(f"there are no {what} to train on", "check the data file and its columns")
    silent = [i for i, e in enumerate(examples) if not e.mask.any()]
    if silent:
        raise FledgeError(
            f"{len(silent):,} of {len(examples):,} {what} have no supervised token "
            f"(the first is number {silent[0] + 1})",
            "every row needs something that the assistant says; remove rows without",
        )
    long = [e for e in examples if len(e.ids) > length]
    if not long:
        return list(examples)
    if len(long) == len(examples):
        raise FledgeError(f"all {len(long):,} {what} are longer than {length} tokens", f"set length={longest(long)}")
    if not drop_long:
        raise FledgeError(
            f"{len(long):,} of {len(examples):,} {what} are longer than {length} tokens "
            f"(the longest {longest(long):,})",
            f"set length={longest(long)}, or drop_long=true to leave them out",
        )
    log.say(f"[yellow]left out {len(long):,} of {len(examples):,} {what}: longer than {length} tokens[/]")
    return [e for e in examples if len(e.ids) <= length]


def longest(examples: Sequence[Example]) -> int:
    """The tokens of the longest example."""
    return max(len(e.ids) for e in examples)


def check_marks(examples: Sequence[Example], tokenizer: Tokenizer, what: str) -> None:
    """BOS, a document or a turn mark must not be doubled, and supervised text must end with one of the last two."""
    marks = [(tokenizer.document_id, "document mark"), (tokenizer.eos_id, "end-of-turn token")]
    bos = tokenizer.special.get(named(tokenizer.config.get("bos_token")) or "")
    for mark, name in [*marks, *([(bos, "BOS token")] if bos is not None else [])]:
        doubled = [i for i, e in enumerate(examples) if ((e.ids[:-1] == mark) & (e.ids[1:] == mark)).any()]
        if doubled:
            raise FledgeError(
                f"the {name} is doubled in {len(doubled):,} {what} (the first is number {doubled[0] + 1})",
                "the text was marked already: give the plain text",
            )
    ends = (tokenizer.document_id, tokenizer.eos_id)
    endless = [i for i, e in enumerate(examples) if e.mask.any() and e.ids[np.flatnonzero(e.mask)[-1]] not in ends]
    if endless:
        raise FledgeError(
            f"{len(endless):,} {what} end without an end mark (the first is number {endless[0] + 1})",
            "the model would never learn to stop: check the chat template",
        )


def check_contamination(train: Iterable[str], evaluation: Iterable[str], what: str) -> None:
    """Evaluation texts must not occur among the training texts (after case and space are normalised)."""
    seen = {" ".join(text.lower().split()) for text in train}
    shared = [text for text in evaluation if " ".join(text.lower().split()) in seen]
    if shared:
        raise FledgeError(
            f"{len(shared):,} {what} are in the training data too, e.g. {shared[0][:60]!r}",
            "remove them from one side: a result on them would say nothing",
        )


def check_reward_position(ids: Sequence[Sequence[int]], tokenizer: Tokenizer) -> None:
    """A reward is read at the last token of a sequence, which must be the end of the assistant's turn."""
    wrong = [i for i, row in enumerate(ids) if row[-1] != tokenizer.eos_id or tokenizer.pad_id in row]
    if wrong:
        raise FledgeError(
            f"{len(wrong):,} sequences do not end with the end-of-turn token, where the reward is read",
            "render answers with the chat template, without padding",
        )


def check_length(length: int, shape: ModelConfig) -> None:
    """A row must not be longer than the model's context."""
    if length > shape.context:
        raise FledgeError(
            f"rows of length={length} are longer than the model's context of {shape.context}",
            f"set length={shape.context}, or pretrain a model with context={length}",
        )


def check_prompts(
    prompts: Sequence[list[int]], max_new_tokens: int, length: int, drop_long: bool, log: Log
) -> list[list[int]]:
    """The prompts that fit into a row with the longest answer to them; refuses others unless `drop_long`."""
    most = length - max_new_tokens
    long = [prompt for prompt in prompts if len(prompt) > most]
    if long and drop_long and len(long) < len(prompts):
        log.say(f"[yellow]left out {len(long):,} of {len(prompts):,} prompts: longer than {most} tokens[/]")
    elif long:
        needed = max(map(len, long)) + max_new_tokens
        raise FledgeError(
            f"{len(long):,} of {len(prompts):,} prompts do not fit into {length} tokens with {max_new_tokens} new ones",
            f"set length={needed}, lower max_new_tokens, or drop_long=true to leave them out",
        )
    return [prompt for prompt in prompts if len(prompt) <= most]


def check_memory(shape: ModelConfig, config: TrainConfig, log: Log, *, copies: int = 0, models: int = 1) -> int:
    """An estimate of the bytes that training will take (up to twice the truth, never below it by much); refuses what
    cannot fit.

    Called before the model is built. `models`: how many of this size are trained at once; `copies`: how many more are
    held.
    """
    device = pick_device(config.device)
    dtype = pick_dtype(config.dtype, device)
    numbers = 4 if dtype == torch.float32 else 4.5  # weight, gradient, two moments; autocast's copy
    tokens = max(config.tokens_per_microbatch, config.length)

    def needed(checkpointing: bool) -> int:
        step = step_bytes(shape, tokens, config.length, dtype, device, checkpointing=checkpointing)
        weights = (models * numbers + copies) * shape.parameters()
        tables = (models + copies) * 2 * shape.context * shape.head_size  # of positions
        return int(4 * (weights + tables)) + models * step

    total, free = needed(config.gradient_checkpointing), free_memory(device)
    if total > free:
        helps = not config.gradient_checkpointing and needed(True) <= free
        raise FledgeError(
            f"training {shape.parameters() / 1e6:,.1f} M parameters on micro-batches of {tokens:,} tokens would take "
            f"about {total / 2**30:,.1f} GiB and {free / 2**30:,.1f} GiB are free",
            f"{'set gradient_checkpointing=true, or ' * helps}lower tokens_per_microbatch, length or the model's depth",
        )
    log.say(f"[dim]about {total / 2**30:.1f} GiB of memory; {free / 2**30:.0f} GiB are free[/]")
    return total


@torch.no_grad()
def check_finite(model: nn.Module, where: str) -> None:
    """Weights must be finite numbers before they are trained on or served."""
    broken = [name for name, p in model.named_parameters() if not torch.isfinite(p).all()]
    if broken:
        raise FledgeError(f"{where} holds NaN or infinity in {broken[0]}", "go back to an earlier checkpoint")
