"""A byte-pair tokenizer: learnt and stored by `tokenizers`, with the text of a corpus encoded by `tiktoken`.

A typed face over the ecosystem's `tokenizer.json`, no format of its own. Text is never parsed for special tokens:
a user who types `<|im_end|>` gets its characters. Any bytes round-trip; nothing is normalised. The split regex is
Qwen's, which is GPT-4's with single digits. Byte-pair encoding: arXiv:1508.07909.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from fledge.core.errors import FledgeError
from fledge.core.files import read_json, write_json, write_text_atomic
from fledge.text.bytepair import BytePair, build, byte_alphabet
from fledge.text.growth import check_growth

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>")
# What the denoising objectives write into a text besides its tokens: BERT's marks, T5's sentinels, UL2's modes.
DENOISING = ("[MASK]", "[CLS]", "[SEP]", "[R]", "[S]", "[X]", *(f"<extra_id_{n}>" for n in range(100)))
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PIECE = 1 << 14  # characters given to the trainer at once: what it buffers stays small whatever the documents' sizes
CHUNK = 1 << 17  # characters encoded by one thread at a time
ENDS_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>")
ENDS_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>", "<|begin_of_text|>", "</s>", "<eos>")


class Tokenizer:
    """Text ⇄ ids. `special` maps the special tokens to their ids; `chat_template` is Jinja source ("" if none)."""

    def __init__(self, spec: dict[str, Any], config: dict[str, Any], chat_template: str) -> None:
        """`spec` is the content of tokenizer.json, `config` of tokenizer_config.json."""
        self.spec = spec
        self.config = config
        self.chat_template = chat_template
        check_growth(spec)
        self.backend = Backend.from_str(json.dumps(spec))
        self.backend.no_padding()
        self.backend.no_truncation()
        plain = {key: value for key, value in spec.items() if key not in ("truncation", "padding", "post_processor")}
        self.plain = Backend.from_str(json.dumps(plain))
        self.plain.encode_special_tokens = True
        self.vocabulary: dict[str, int] = self.backend.get_vocab(with_added_tokens=True)
        self.vocab_size = max(self.vocabulary.values()) + 1
        added = [token for token in spec["added_tokens"] if token["special"] and token["content"]]
        self.special = {token["content"]: token["id"] for token in added}
        end = named(config.get("eos_token")) or first_known(ENDS_OF_TURN, self.vocabulary)
        if end is None or end not in self.vocabulary:
            raise FledgeError(
                f"the tokenizer has no end-of-turn token (eos_token is {end!r})",
                "name one of its tokens as eos_token in tokenizer_config.json",
            )
        self.eos_id = self.vocabulary[end]
        document = first_known(ENDS_OF_TEXT, self.vocabulary)
        self.document_id = self.eos_id if document is None else self.vocabulary[document]
        self.pad_id = self.vocabulary.get(named(config.get("pad_token")) or "", self.document_id)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, *, special_tokens: Sequence[str] = SPECIAL) -> "Tokenizer":
        """Learns a byte-level BPE vocabulary of at most `vocab_size` tokens, the special ones first.

        Deterministic. Reads `texts` once, as a stream: memory is that of the distinct words, not of the text.
        """
        smallest = 256 + len(special_tokens)
        if vocab_size < smallest:
            raise FledgeError(
                f"a vocabulary of {vocab_size} tokens is too small",
                f"vocab_size must be at least {smallest}: 256 bytes and {len(special_tokens)} special tokens",
            )
        missing = [token for token in SPECIAL if token not in special_tokens]
        if missing:
            raise FledgeError(f"special_tokens lacks {', '.join(missing)}", "keep those of SPECIAL among them")
        backend = Backend(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(SPLIT), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=1,
            special_tokens=list(special_tokens),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        backend.train_from_iterator(pieces(texts), trainer)
        spec = json.loads(backend.to_str())
        if not spec["model"]["merges"] and vocab_size > 256 + len(special_tokens):
            raise FledgeError("there is no text to learn a tokenizer from", "check what curation kept")
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": "<|im_end|>",
            "pad_token": "<|pad|>",
            "model_max_length": 1 << 20,
            "clean_up_tokenization_spaces": False,
        }
        named_tokens = {"mask_token": "[MASK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
        config |= {name: token for name, token in named_tokens.items() if token in special_tokens}
        return cls(spec, config, own_template())

    @classmethod
    def load(cls, directory: Path) -> "Tokenizer":
        """Reads `tokenizer.json` and, where they exist, `tokenizer_config.json` and `chat_template.jinja`."""
        directory = Path(directory)
        path = directory / "tokenizer.json"
        if not path.exists():
            old = [name for name in ("tokenizer.model", "vocab.json") if (directory / name).exists()]
            raise FledgeError(
                f"{directory} has no tokenizer.json" + (f" (only {old[0]})" if old else ""),
                "save it with transformers' AutoTokenizer(...).save_pretrained to get one"
                if old
                else "give the directory of a model or of a tokenizer step",
            )
        spec = read_object(path)
        config_path = directory / "tokenizer_config.json"
        config = read_object(config_path) if config_path.exists() else {}
        template_path = directory / "chat_template.jinja"
        try:
            template = template_path.read_text(encoding="utf-8") if template_path.exists() else None
            spec.setdefault("added_tokens", [])
            return cls(spec, config, configured_template(config) if template is None else template)
        except FledgeError:
            raise
        except BaseException as error:  # `tokenizers` raises bare Exception for anything it cannot parse, or panics
            if not isinstance(error, Exception) and not is_panic(error):
                raise
            raise FledgeError(
                f"{directory} does not hold a usable tokenizer: {' '.join(str(error).split())}",
                "the file was cut short or edited: copy or make it again",
            ) from None

    def save(self, directory: Path, *, context: int | None = None) -> None:
        """Writes the files `transformers` reads; `context` becomes model_max_length."""
        config = {key: value for key, value in self.config.items() if key != "chat_template"}
        if context is not None:
            config["model_max_length"] = context
        write_text_atomic(directory / "tokenizer.json", json.dumps(self.spec, ensure_ascii=False, indent=1) + "\n")
        write_json(directory / "tokenizer_config.json", config)
        if self.chat_template:
            write_text_atomic(directory / "chat_template.jinja", self.chat_template)

    @cached_property
    def fast(self) -> BytePair | None:
        """The corpus-speed encoder, or None where it would not be exact."""
        return build(self.spec)

    def encode(self, text: str) -> list[int]:
        """The ids of a text; what spells a special token stays text."""
        return self.array(text).tolist()

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of many texts, each [T] int32, on all cores; equal to `encode` of each."""
        if self.fast is None:
            with panics():
                return [as_array(encoding.ids) for encoding in self.plain.encode_batch(cleaned(texts))]
        if sum(map(len, texts)) < CHUNK:
            return [self.array(text) for text in texts]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            results = pool.map(lambda chunk: [self.array(text) for text in chunk], chunks(texts))
            return [ids for chunk in results for ids in chunk]

    def array(self, text: str) -> np.ndarray:
        """The ids of a text, [T] int32."""
        if self.fast is not None:
            try:
                return self.fast.encode(text)
            except ValueError:  # the regex ran out of stack on a very long run of blanks
                pass
        with panics():
            return as_array(self.plain.encode(clean(text), add_special_tokens=False).ids)

    def encode_special(self, text: str) -> list[int]:
        """The ids of a text in which special tokens are parsed: for templates and tests, never for users' text."""
        return self.backend.encode(clean(text), add_special_tokens=False).ids

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """The text of ids; bytes that are not UTF-8 (a token cut in the middle of a character) become U+FFFD."""
        if not self.byte_level:
            with panics():
                return self.backend.decode([int(token) for token in ids], skip_special_tokens=skip_special)
        hidden = set(self.special.values()) if skip_special else set()
        return b"".join(self.token_bytes(int(i)) for i in ids if i not in hidden).decode("utf-8", "replace")

    def token_bytes(self, token: int) -> bytes:
        """The bytes a token stands for; raises KeyError for an id that is not in the vocabulary."""
        return self.bytes_of[token]

    def token_id(self, token: str) -> int | None:
        """The id of a token as the vocabulary spells it, or None."""
        return self.vocabulary.get(token)

    @property
    def byte_level(self) -> bool:
        """Whether tokens are sequences of bytes written in the byte-level alphabet."""
        return "ByteLevel" in json.dumps(self.spec.get("decoder"))

    @cached_property
    def bytes_of(self) -> dict[int, bytes]:
        added = {token["id"]: token["content"].encode() for token in self.spec["added_tokens"]}
        spell = byte_level_bytes if self.byte_level else sentencepiece_bytes
        alphabet = byte_alphabet()
        table = {i: spell(token, alphabet) for token, i in self.vocabulary.items() if i not in added}
        return table | added


def byte_level_bytes(token: str, alphabet: dict[str, int]) -> bytes:
    """The bytes a byte-level token spells."""
    return bytes(alphabet[character] for character in token)


def sentencepiece_bytes(token: str, alphabet: dict[str, int]) -> bytes:
    """The bytes a SentencePiece token spells: ▁ is a blank, <0x0A> a byte."""
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes([int(token[3:5], 16)])
    return token.replace("▁", " ").encode()


def is_panic(error: BaseException) -> bool:
    """Whether a library in Rust gave up: that is no Exception in Python."""
    return type(error).__name__ == "PanicException"


@contextmanager
def panics() -> Iterator[None]:
    """Makes a FledgeError of what `tokenizers` cannot do, such as match a regex that it gives up on."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        raise FledgeError(
            f"the tokenizer cannot deal with this text: {error}", "its tokenizer.json is damaged, or not honest"
        ) from None


def as_array(ids: list[int]) -> np.ndarray:
    """The ids as an array [T] int32."""
    return np.array(ids, np.int32)


def clean(text: str) -> str:
    """The text with lone surrogates, which no UTF-8 can carry, replaced as tiktoken replaces them."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def cleaned(texts: Iterable[str]) -> list[str]:
    """`clean` of each text."""
    return [clean(text) for text in texts]


def pieces(texts: Iterable[str]) -> Iterator[str]:
    """The texts in pieces of at most PIECE characters, cut at line ends where there are any."""
    for text in texts:
        text, start = clean(text), 0
        while start < len(text):
            end = start + PIECE
            if end < len(text):
                end = text.rfind("\n", start, end) + 1 or end
            yield text[start:end]
            start = end


def chunks(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Consecutive texts in groups of about CHUNK characters."""
    start = size = 0
    for end, text in enumerate(texts, 1):
        size += len(text)
        if size >= CHUNK:
            yield texts[start:end]
            start, size = end, 0
    if start < len(texts):
        yield texts[start:]


def named(token: Any) -> str | None:
    """A special token as tokenizer_config.json writes it: a string, or an object with its content."""
    return token["content"] if isinstance(token, dict) else token


def first_known(tokens: Sequence[str], vocabulary: dict[str, int]) -> str | None:
    """The first of the tokens that the vocabulary has, or None."""
    return next((token for token in tokens if token in vocabulary), None)


@cache
def own_template() -> str:
    """The chat template of the tokenizers that are learnt here."""
    return resources.files("fledge.text").joinpath("chatml.jinja").read_text(encoding="utf-8")


def configured_template(config: dict[str, Any]) -> str:
    """The chat template that older tokenizer_config.json files carry: one, or several by name."""
    template = config.get("chat_template") or ""
    if isinstance(template, list):
        return {entry["name"]: entry["template"] for entry in template}.get("default", "")
    return template


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object a file holds."""
    try:
        value = read_json(path)
    except FledgeError as error:
        raise FledgeError(error.message, "the file was cut short or edited: copy or make it again") from None
    if not isinstance(value, dict):
        raise FledgeError(f"{path} does not hold a JSON object", "copy or make it again")
    return value
