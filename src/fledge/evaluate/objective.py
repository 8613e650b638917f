"""How well a model does at the objective it is trained on, on held-out text that is corrupted once and for all."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fledge.data.packing import Row, collate
from fledge.evaluate.language import predictions
from fledge.model.heads import Output
from fledge.model.inputs import inputs
from fledge.objectives import Loss
from fledge.objectives.language import supervised
from fledge.train.detector import Detection


@torch.no_grad()
def measure_objective(
    model: nn.Module, rows: Sequence[Row], loss: Callable[[Any, dict[str, Tensor]], Loss], rows_per_microbatch: int
) -> dict[str, float]:
    """`loss` per what it counts, `accuracy` of the tokens to be said (the likeliest is the right one), and the loss's
    own parts, over all rows."""
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    sums: dict[str, Tensor] = {}
    for start in range(0, len(rows), rows_per_microbatch):
        batch = {name: column.to(device) for name, column in collate(rows[start : start + rows_per_microbatch]).items()}
        output = model(**inputs(batch))
        found = loss(output, batch)
        said = output.generated if isinstance(output, Detection) else output
        pairs = {"loss": (found.sum, found.count), **found.parts}
        if isinstance(said, Output):
            places, targets = supervised(batch["targets"])
            right = predictions(said, places, targets)[2]
            pairs["accuracy"] = torch.tensor(right.sum()), torch.tensor(float(len(right)))
        for name, pair in pairs.items():
            sums[name] = sums.get(name, torch.zeros(2)) + torch.stack([each.float().cpu() for each in pair])
    model.train(training)
    return {name: (total / count).item() for name, (total, count) in sums.items() if count}
