"""What a model is called with: the columns of a batch that are its inputs, by name."""

from torch import Tensor

INPUTS = (
    "ids",
    "positions",
    "documents",
    "token_types",
    "source_ids",
    "source_positions",
    "source_documents",
    "prefix",
    "order",
    "branches",
)


def inputs(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inputs that are present in a batch, for model(**inputs(batch)).

    ids, positions, documents, token_types [B,T]; source_ids, source_positions, source_documents [B,S]; prefix [B,T]
    bool; order, branches [B,T] int. What they mean: `Transformer.forward`.
    """
    return {name: batch[name] for name in INPUTS if name in batch}
