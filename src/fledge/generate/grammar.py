"""Structured output: an answer that a JSON schema, a regular expression or a grammar describes, whatever the model.

`llguidance` says before each token which tokens can go on (a mask over the vocabulary); drawing is from those. The end
of the answer is allowed where the text is complete, and forced where nothing can follow. Exact for any tokenizer:
it works on bytes, not on tokens of the grammar.

Shapes: V vocabulary.
"""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fledge.core.errors import FledgeError
from fledge.text.tokenizer import Tokenizer

LAYOUT: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}  # as json.dumps writes


@dataclass(frozen=True)
class Grammar:
    """What an answer must look like, for the tokenizer of one model."""

    source: str
    tokens: Any
    vocabulary: int

    def matcher(self) -> "Matcher":
        """The state at the beginning of an answer."""
        import llguidance

        return Matcher(llguidance.LLMatcher(self.tokens, self.source, log_level=0), self.vocabulary)


class Matcher:
    """How far an answer has come in its grammar."""

    def __init__(self, state: Any, vocabulary: int) -> None:
        self.state, self.vocabulary = state, vocabulary

    def forbid(self, bias: Tensor) -> None:
        """Set to -inf in bias [V] the tokens that cannot follow."""
        bits = np.unpackbits(np.frombuffer(self.state.compute_bitmask(), np.uint8), bitorder="little")
        allowed = torch.from_numpy(bits[: self.vocabulary].astype(bool))
        bias[: self.vocabulary].masked_fill_(~allowed.to(bias.device), float("-inf"))
        bias[self.vocabulary :] = float("-inf")

    def accept(self, token: int) -> bool:
        """Go on by a token; False once nothing can follow."""
        return bool(self.state.consume_token(token)) and not self.state.is_stopped()


class Grammars:
    """Makes grammars for one tokenizer. Raises FledgeError for what llguidance cannot follow."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        try:
            import llguidance
        except ImportError:
            raise FledgeError("structured output needs llguidance", "pip install 'fledge[serve]'") from None
        self.llguidance, self.vocabulary = llguidance, tokenizer.vocab_size
        ends = list(dict.fromkeys([tokenizer.eos_id, tokenizer.document_id]))
        self.tokens = llguidance.LLTokenizer(json.dumps(tokenizer.spec), n_vocab=self.vocabulary, eos_token=ends)

    def json(self, schema: dict[str, Any]) -> Grammar:
        """JSON that satisfies `schema`, laid out as `json.dumps` does unless its `x-guidance` says otherwise."""
        try:
            source = self.llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema), defaults=LAYOUT)
        except ValueError as error:
            raise FledgeError(f"the JSON schema cannot be used: {error}", "correct it") from None
        return self._checked(source, "JSON schema")

    def regex(self, pattern: str) -> Grammar:
        """A text that matches the whole of `pattern`."""
        return self._checked(self.llguidance.LLMatcher.grammar_from_regex(pattern), "regular expression")

    def lark(self, text: str) -> Grammar:
        """A text of the language that a Lark grammar describes."""
        return self._checked(self.llguidance.LLMatcher.grammar_from_lark(text), "grammar")

    def _checked(self, source: str, what: str) -> Grammar:
        failed, messages = self.llguidance.LLMatcher.validate_grammar_with_warnings(source, self.tokens)
        if failed:
            raise FledgeError(f"the {what} cannot be used: {' '.join(messages[0].split())[:500]}", "correct it")
        return Grammar(source, self.tokens, self.vocabulary)
