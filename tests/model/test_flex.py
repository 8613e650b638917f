"""What surrounds FlexAttention on a GPU, tried on a CPU: the trial before its use, and a compiler around the model.

Its values are checked in `test_attention`. Here torch's check that a CPU cannot train with it is left out: the plain
computation can, and a compiler's backend that only traces runs that.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
import torch._dynamo
from torch.nn.attention import flex_attention as torchs

from fledge.model import attention, flex
from fledge.model.config import ModelConfig
from fledge.model.heads import LanguageModel
from fledge.model.transformer import set_checkpointing
from fledge.model.visibility import Visibility

CPU = torch.device("cpu")
T = 160  # tokens: more than one of its blocks of 128


@pytest.fixture(autouse=True)
def trains_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torchs, "_validate_device", lambda *tensors: None)
    monkeypatch.setattr(flex, "compiled_once", lambda function: function)
    tried = flex.tried
    tried.cache_clear()
    torch.compiler.reset()
    yield
    tried.cache_clear()
    torch.compiler.reset()


SURROUNDINGS = {
    "nothing": nullcontext,
    "no gradients": torch.no_grad,
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


@pytest.mark.parametrize("around", SURROUNDINGS)
def test_the_trial_does_not_depend_on_where_it_is_asked_for(around: str) -> None:
    surroundings: AbstractContextManager[object] = SURROUNDINGS[around]()
    before = torch.get_rng_state()
    with surroundings:
        assert flex.agrees(CPU)
    assert torch.equal(torch.get_rng_state(), before), "the trial drew random numbers: a resumed job would differ"


def test_the_trial_notices_other_values_and_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flex, "rule_of", lambda visible: lambda b, h, q, k: k <= q)  # sees other documents
    assert not flex.agrees(CPU)

    def unknown(*inputs: Any, **how: Any) -> None:
        raise RuntimeError("no kernel for this device")

    flex.tried.cache_clear()
    monkeypatch.setattr(flex, "flex_attention", unknown)
    assert not flex.agrees(CPU)


def logits_and_gradients(model: Any, parameters: list[torch.nn.Parameter], batch: dict[str, torch.Tensor]) -> Any:
    logits = model(**batch).logits()
    real = logits[batch["documents"] != 0]  # padding sees other padding in one way, nothing at all in another
    return real.detach(), torch.autograd.grad(real.square().mean(), parameters)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("axes", [{}, {"window": 50}, {"positions": "alibi"}], ids=str)
def test_a_compiled_model_is_one_graph_and_the_same(
    axes: dict[str, Any], checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape: dict[str, Any] = {"vocab_size": 40, "width": 32, "layers": 2, "heads": 4, "kv_heads": 2, "head_size": 16}
    shape |= {"hidden": 48, "context": T} | axes
    torch.manual_seed(0)
    model = LanguageModel(ModelConfig(**shape))
    set_checkpointing(model, checkpointing)
    parameters = list(model.parameters())
    asked: list[torch.device] = []

    def trial(device: torch.device) -> bool:
        asked.append(device)
        return tried(device)

    def worth(visible: Visibility, x: torch.Tensor, head_size: int) -> bool:
        return flex.agrees(x.device)

    tried = flex.tried
    monkeypatch.setattr(flex, "tried", trial)
    compiled = torch.compile(model, backend="aot_eager", dynamic=False, fullgraph=True)
    for step in range(3):
        documents = torch.ones(2, T, dtype=torch.int32)
        documents[:, 60 + 20 * step :] = 2
        documents[1, 150:] = 0
        batch = {"ids": torch.randint(0, 40, (2, T)), "documents": documents}
        with monkeypatch.context() as patched, torch._dynamo.config.patch(error_on_recompile=True):
            patched.setattr(attention, "worth_flexing", worth)
            found = logits_and_gradients(compiled, parameters, batch)
        expected = logits_and_gradients(model, parameters, batch)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert asked == [CPU], "the trial belongs to no compiled graph: it runs once, while the first is made"
