"""The engine serves every decoder: where the packed copy does not know the shape, the model itself runs."""

import pytest
import torch

from fledge.generate.engine import Engine
from fledge.generate.packed import can_be_packed
from fledge.generate.request import Request
from fledge.generate.sampling import Sampling
from fledge.model.config import ModelConfig
from fledge.model.heads import build

PLAIN = {"qk_norm": False, "gated": False, "norm": "layer"}
SHAPES = {
    "as created": {},
    "learned": PLAIN | {"positions": "learned"},
    "alibi": PLAIN | {"positions": "alibi", "embedding_norm": True},
    "parallel, partly rotary": PLAIN | {"residual": "parallel", "rope_fraction": 0.5},
    "experts": {"experts": 4, "top_k": 2},
    "narrow table, post": PLAIN | {"residual": "post", "final_norm": False, "embedding_width": 16},
}


@pytest.mark.parametrize("name", SHAPES)
def test_greedy_answers_are_those_of_the_whole_forward_pass(name: str) -> None:
    torch.manual_seed(0)
    model = build(ModelConfig.sized(1, 40, 64, **SHAPES[name]))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    assert can_be_packed(model.config) == (name == "as created")
    prompts = [[3, 1, 4], [1, 5, 9, 2, 6, 5], [7]]
    requests = [Request(prompt, 9, sampling=Sampling(temperature=0.0)) for prompt in prompts]
    found = Engine(model, dtype=torch.float32).run(requests)
    for prompt, completion in zip(prompts, found, strict=True):
        ids = list(prompt)
        for _ in range(9):
            ids.append(int(model(torch.tensor([ids])).logits()[0, -1].argmax()))
        assert list(completion.ids) == ids[len(prompt) :]
