"""Every way of computing attention against an exact slow reference: one head, one query, one key at a time."""

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from fledge.model import attention
from fledge.model.attention import Mask, attend, attend_by_pieces
from fledge.model.flex import flex_attend, flexed, rule_of
from fledge.model.positions import alibi_slopes, bucket
from fledge.model.visibility import Bias, Visibility

B, H, HKV, T, D = 2, 4, 2, 11, 16
DOCUMENTS = torch.tensor([[1] * 4 + [2] * 5 + [0] * 2, [1] * 11], dtype=torch.int32)
BRANCHES = torch.tensor([[0, 0, 1, 2, 0, 1, 1, 3, 3, 0, 0], [0, 0, 0, 1, 1, 1, 2, 2, 3, 4, 4]])
TABLE = torch.linspace(-1, 1, 8 * H, dtype=torch.float64).view(8, H)
STEPS = torch.arange(T)


def rules() -> dict[str, Visibility]:
    """The rules, by what bounds them."""
    order = torch.stack([torch.randperm(T, generator=torch.Generator().manual_seed(i)) for i in range(B)])
    order[:, 7:] = -1 - order[:, 7:]
    prefix = (STEPS < 3).expand(B, T)
    packed = {"documents": DOCUMENTS, "key_documents": DOCUMENTS}
    slopes = Bias(alibi_slopes(H).double(), None, 0, False)
    return {
        "causal": Visibility(STEPS, T, True),
        "both ways": Visibility(STEPS, T, False),
        "documents": Visibility(STEPS, T, True, **packed),
        "documents, both ways": Visibility(STEPS, T, False, **packed),
        "window": Visibility(STEPS, T, True, 3, **packed),
        "window, both ways": Visibility(STEPS, T, False, 3),
        "prefix": Visibility(STEPS, T, True, prefix=prefix, **packed),
        "order": Visibility(STEPS, T, False, order=order, **packed),
        "branches": Visibility(STEPS, T, True, branches=BRANCHES, **packed),
        "padding": Visibility(STEPS, T, False, key_documents=DOCUMENTS),
        "alibi": Visibility(STEPS, T, True, bias=slopes, **packed),
        "buckets": Visibility(STEPS, T, True, bias=Bias(None, TABLE, 6, False), **packed),
        "buckets, both ways": Visibility(STEPS, T, False, bias=Bias(None, TABLE, 6, True)),
    }


def sees(visible: Visibility, b: int, t: int, s: int) -> bool:
    """The rule in words."""
    if visible.key_documents is not None:
        theirs = int(visible.key_documents[b, s])
        if theirs != int(visible.documents[b, t]) if visible.documents is not None else theirs == 0:
            return False
    if visible.branches is not None and int(visible.branches[b, s]) not in (0, int(visible.branches[b, t])):
        return False
    if visible.window is not None and not -visible.window < s - t < visible.window:
        return False
    if visible.order is not None:
        mine, other = int(visible.order[b, t]), int(visible.order[b, s])
        return s == t or 0 <= other < (mine if mine >= 0 else -1 - mine)
    in_prefix = visible.prefix is not None and bool(visible.prefix[b, s])
    return not visible.causal or s <= t or in_prefix


def reference(q: Tensor, k: Tensor, v: Tensor, visible: Visibility, scale: float) -> Tensor:
    """The textbook, nothing at once."""
    slopes = [2 ** (-8 * (h + 1) / H) for h in range(H)]
    found = torch.zeros(q.shape, dtype=torch.float64)
    for b, h, t in product(range(B), range(H), range(T)):
        seen = [s for s in range(T) if sees(visible, b, t, s)]
        scores = torch.stack([q[b, h, t] @ k[b, h // (H // HKV), s] * scale for s in seen])
        if visible.bias is not None and visible.bias.slopes is not None:
            scores = scores - slopes[h] * torch.tensor([abs(s - t) for s in seen])
        elif visible.bias is not None:
            rows = [bucket_in_words(s - t, 8, 6, visible.bias.both_ways) for s in seen]
            scores = scores + TABLE[rows, h]
        weights = torch.softmax(scores, 0)
        found[b, h, t] = sum(w * v[b, h // (H // HKV), s] for w, s in zip(weights, seen))
    return found


def bucket_in_words(distance: int, buckets: int, furthest: int, both_ways: bool) -> int:
    """T5's rule: single distances first, then logarithmic ones; keys behind the query have a half of their own."""
    first = 0
    if both_ways:
        buckets //= 2
        first = buckets if distance > 0 else 0
    elif distance > 0:
        distance = 0
    distance, exact = abs(distance), buckets // 2
    if distance < exact:
        return first + distance
    far = exact + int(math.log(distance / exact) / math.log(furthest / exact) * (buckets - exact))
    return first + min(far, buckets - 1)


def drawn(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(B, heads, T, D, dtype=torch.float64).to(dtype) for heads in (H, HKV, HKV)]


WAYS = ("dense", "pieces", "flex")


def computed(way: str, q: Tensor, k: Tensor, v: Tensor, visible: Visibility, scale: float | None) -> Tensor:
    if way == "pieces":
        return attend_by_pieces(q, k, v, visible, scale)
    if way == "flex":
        return flex_attend(q, k, v, flexed(visible, B, T, compiled=False), scale)
    mask = Mask(None if visible.trivial else visible.mask(q.dtype), visible.causal)
    return attend(q, k, v, mask, scale)


@pytest.mark.parametrize("name", rules())
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("scale", [None, 0.7])
@torch.no_grad()
def test_every_way_is_the_textbooks(way: str, name: str, scale: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "PIECE", 3 * B * T)  # a few queries at a time
    q, k, v = drawn()
    visible = rules()[name]
    expected = reference(q, k, v, visible, scale or D**-0.5)
    torch.testing.assert_close(computed(way, q, k, v, visible, scale), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", rules())
def test_the_rule_of_the_gpu_kernel_is_the_rule_of_the_mask(name: str) -> None:
    visible = rules()[name]
    index = (torch.arange(B)[:, None, None], torch.zeros(1, dtype=torch.int64), STEPS[None, :, None], STEPS[None, None])
    found = rule_of(visible)(*index).expand(B, T, T)
    assert torch.equal(found, visible.allowed().expand(B, T, T))
    assert found.tolist() == [[[sees(visible, b, t, s) for s in range(T)] for t in range(T)] for b in range(B)]


@pytest.mark.parametrize("name", ["documents", "alibi", "buckets", "buckets, both ways", "order"])
def test_pieces_have_the_gradients_of_the_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "PIECE", 3 * B * T)
    gradients = []
    for way in ("dense", "pieces"):
        leaves = [x.requires_grad_() for x in drawn()]
        table = TABLE.clone().requires_grad_()
        visible = rules()[name]
        if "buckets" in name and visible.bias is not None:
            visible = Visibility(STEPS, T, visible.causal, bias=Bias(None, table, 6, visible.bias.both_ways))
            leaves.append(table)
        gradients.append(torch.autograd.grad(computed(way, *leaves[:3], visible, None).square().sum(), leaves))
    for whole, piecewise in zip(*gradients, strict=True):
        torch.testing.assert_close(whole, piecewise, atol=1e-9, rtol=0)


def test_training_in_bfloat16_stays_near() -> None:
    for name, visible in rules().items():
        q, k, v = (x.requires_grad_() for x in drawn(torch.bfloat16))
        expected = reference(*drawn(), visible, D**-0.5)
        found = computed("dense", q, k, v, visible, None)
        assert (found.double() - expected).abs().max() < 0.06, name


@pytest.mark.parametrize("both_ways", [True, False])
def test_buckets_are_t5s(both_ways: bool) -> None:
    distances = torch.arange(-300, 301)
    found = bucket(distances, 32, 128, both_ways=both_ways)
    assert found.tolist() == [bucket_in_words(int(d), 32, 128, both_ways) for d in distances]
    assert set(found.tolist()) <= set(range(32))


@pytest.mark.parametrize("heads", [1, 2, 8, 12, 20])
def test_slopes_fall_geometrically(heads: int) -> None:
    slopes = alibi_slopes(heads).tolist()
    assert len(set(slopes)) == heads
    if heads == 8:
        assert slopes == [2.0**-i for i in range(1, 9)]
    assert all(0 < slope < 1 for slope in slopes)


@pytest.mark.parametrize("training", [True, False])
def test_memory_grows_with_the_length_and_not_with_its_square(training: bool) -> None:
    """The largest tensor that attention over packed documents allocates: four times the length, about four times it."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            found = func(*args, **(kwargs or {}))
            for tensor in found if isinstance(found, tuple | list) else [found]:
                if isinstance(tensor, Tensor):
                    self.size = max(self.size, tensor.untyped_storage().nbytes())
            return found

    sizes = []
    for length in (512, 2048):
        steps, owners = torch.arange(length), torch.arange(length)[None] // 100
        visible = Visibility(steps, length, True, documents=owners, key_documents=owners)
        q, k, v = (torch.randn(1, 1, length, 16, requires_grad=training) for _ in range(3))
        original, attention.PIECE = attention.PIECE, 2**16
        try:
            with torch.set_grad_enabled(training), Largest() as watch:
                y = attend_by_pieces(q, k, v, visible, None)
                if training:
                    y.sum().backward()
        finally:
            attention.PIECE = original
        sizes.append(watch.size)
    assert sizes[1] <= 4.5 * sizes[0]
    assert sizes[1] < 2048 * 2048
