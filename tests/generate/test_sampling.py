"""Sampling against transformers' logits processors, exact probabilities and the batch it happens in."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as budget
from hypothesis import strategies as st
from scipy import stats
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from fledge.generate import sampling as module
from fledge.generate.sampling import Sampling, draw, penalise, sample, settings, truncate, uniform


@pytest.fixture(autouse=True, params=["kernels", "torch"])
def way(request: pytest.FixtureRequest) -> Iterator[None]:
    """By compiled kernels, and by torch's operators as on a GPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "by_kernels", lambda scores: request.param == "kernels")
        yield


def scores(rows: int, vocabulary: int, seed: int = 0, spread: float = 3.0) -> torch.Tensor:
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed)) * spread


def kept(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """What may be drawn, as fledge sees it, with every row under the same sampling. [B, V] bool"""
    how = settings([sampling] * len(logits))
    warm = logits / sampling.temperature
    return truncate((warm - warm.amax(-1, keepdim=True)).exp(), how) > 0


def kept_by_transformers(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    warpers = [TemperatureLogitsWarper(sampling.temperature)]
    if sampling.top_k:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p > 0:
        warpers.append(MinPLogitsWarper(sampling.min_p))
    for warper in warpers:
        logits = warper(None, logits)
    return logits > -torch.inf


FILTERS = [
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": 300},
    {"top_k": 5000},
    {"top_p": 0.1},
    {"top_p": 0.9},
    {"top_p": 0.9999},
    {"min_p": 0.05},
    {"min_p": 1.0},
    {"temperature": 3.0, "top_p": 0.97},
    {"temperature": 0.3, "top_k": 50, "top_p": 0.8},
    {"temperature": 1.7, "top_k": 400, "top_p": 0.95, "min_p": 0.01},
]


@pytest.mark.parametrize("options", FILTERS, ids=str)
@pytest.mark.parametrize("spread", [0.1, 3.0])  # nearly flat: the nucleus outgrows the sorted head
def test_filters_keep_what_transformers_keeps(options: dict, spread: float) -> None:
    logits = scores(16, 1000, spread=spread)
    sampling = Sampling(**options)
    assert torch.equal(kept(logits, sampling), kept_by_transformers(logits, sampling))


def test_each_row_has_its_own_filters() -> None:
    logits = scores(len(FILTERS), 1000)
    samplings = [Sampling(**options) for options in FILTERS]
    how = settings(samplings)
    warm = logits / how.temperature[:, None]
    together = truncate((warm - warm.amax(-1, keepdim=True)).exp(), how) > 0
    for row, sampling in enumerate(samplings):
        assert torch.equal(together[row : row + 1], kept(logits[row : row + 1], sampling)), sampling


def test_ties_stay_together() -> None:
    weights = torch.tensor([[1.0, 0.5, 0.5, 0.5, 0.1]])
    assert (truncate(weights, settings([Sampling(top_k=2)])) > 0).tolist() == [[True, True, True, True, False]]
    assert (truncate(weights, settings([Sampling(top_p=0.5)])) > 0).tolist() == [[True, True, True, True, False]]


def test_repetition_penalty_as_in_transformers() -> None:
    logits, said = scores(4, 50), torch.randint(0, 50, (4, 12), generator=torch.Generator().manual_seed(1))
    seen = torch.zeros(4, 50, dtype=torch.bool).scatter_(1, said, True)
    ours = penalise(logits, settings([Sampling(repetition_penalty=1.3)] * 4), seen, torch.zeros(4, 50))
    assert torch.equal(ours, RepetitionPenaltyLogitsProcessor(1.3)(said, logits.clone()))


def test_presence_and_frequency_penalties_follow_their_definition() -> None:
    logits = torch.zeros(2, 4)
    counts = torch.tensor([[0.0, 1, 3, 0], [2, 0, 0, 0]])
    how = settings([Sampling(presence_penalty=0.5, frequency_penalty=0.25), Sampling(frequency_penalty=-1)])
    expected = [[0, -0.75, -1.25, 0], [2, 0, 0, 0]]
    assert penalise(logits, how, counts > 0, counts).tolist() == expected


def test_draws_follow_the_exact_distribution() -> None:
    """Chi-square over 200,000 draws, each with the number of its own (seed, position)."""
    logits = scores(1, 40, spread=2.0)
    for sampling in (Sampling(), Sampling(temperature=0.7, top_k=10), Sampling(top_p=0.8)):
        exact = torch.where(kept(logits, sampling), logits / sampling.temperature, -torch.inf).double().softmax(-1)[0]
        n = 200_000
        u = uniform(torch.arange(n) // 400, torch.arange(n) % 400)
        weights = truncate(((logits - logits.amax()) / sampling.temperature).exp(), settings([sampling])).expand(n, -1)
        drawn = torch.bincount(draw(weights, u), minlength=40)
        assert (drawn[exact == 0] == 0).all()
        common = exact * n >= 5
        observed = torch.cat([drawn[common], drawn[~common].sum()[None]]).double()
        expected = torch.cat([exact[common], exact[~common].sum()[None]]) * n
        present = expected > 0
        assert stats.chisquare(observed[present].numpy(), expected[present].numpy()).pvalue > 1e-3


def test_draw_never_lands_on_an_excluded_token() -> None:
    weights = torch.tensor([[0.0, 1.0, 0.0, 1e-7, 0.0]]).expand(4, -1)
    edges = torch.tensor([0.0, 0.5, 1 - 2.0**-53, 0.99999999], dtype=torch.float64)
    ids = draw(weights, edges)
    assert set(ids.tolist()) <= {1, 3}


@pytest.mark.parametrize("along", ["positions", "seeds", "negative seeds"])
def test_uniforms_are_uniform_and_uncorrelated(along: str) -> None:
    n, zeros = torch.arange(100_000), torch.zeros(100_000, dtype=torch.long)
    u = {
        "positions": lambda: uniform(zeros + 7, n),
        "seeds": lambda: uniform(n, zeros + 7),
        "negative seeds": lambda: uniform(-n, zeros + 7),
    }[along]()
    assert 0 <= u.min() < u.max() < 1
    assert stats.kstest(u.numpy(), "uniform").pvalue > 1e-3
    assert abs(stats.pearsonr(u[:-1].numpy(), u[1:].numpy()).statistic) < 0.02
    assert u.unique().numel() == n.numel()


def test_uniforms_are_splitmix64() -> None:
    """Against Python's unbounded integers, so that a seed means the same on every machine."""
    mask = (1 << 64) - 1

    def mix(x: int) -> int:
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & mask
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB & mask
        return x ^ (x >> 31)

    pairs = [(0, 0), (1, 2), (-5, 1000), ((1 << 63) - 1, 3), (-(1 << 63), 123_456)]
    seeds, positions = torch.tensor(pairs).T
    for (seed, position), ours in zip(pairs, uniform(seeds, positions).tolist()):
        assert ours == (mix((mix(seed & mask) + position * 0x9E3779B97F4A7C15) & mask) >> 11) / 2**53


SAMPLINGS = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    top_k=st.sampled_from([0, 1, 5, 290]),
    top_p=st.sampled_from([1.0, 0.9, 0.3]),
    min_p=st.sampled_from([0.0, 0.1]),
    repetition_penalty=st.sampled_from([1.0, 1.2]),
    presence_penalty=st.sampled_from([0.0, 0.4]),
)


@budget(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(SAMPLINGS, min_size=1, max_size=6), st.integers(0, 10_000))
def test_a_row_does_not_depend_on_its_batch(samplings: list[Sampling], seed: int) -> None:
    rows = len(samplings)
    logits = scores(rows, 300, seed)
    u = uniform(torch.full((rows,), seed), torch.arange(rows))
    counts = (scores(rows, 300, seed + 1) > 2).float()
    ids, logprobs = sample(logits, u, settings(samplings), counts > 0, counts)
    for row, sampling in enumerate(samplings):
        one = slice(row, row + 1)
        id_, logprob = sample(logits[one], u[one], settings([sampling]), counts[one] > 0, counts[one])
        assert id_ == ids[row]
        assert torch.allclose(logprob, logprobs[row], atol=1e-5)


def test_logprobs_are_of_the_raw_logits() -> None:
    logits = scores(3, 100)
    samplings = [Sampling(), Sampling(temperature=0.0), Sampling(temperature=0.5, top_k=3, presence_penalty=1)]
    for batch in ([samplings[0]] * 3, [samplings[1]] * 3, samplings):
        counts = torch.zeros(3, 100)
        ids, logprobs = sample(logits, torch.tensor([0.1, 0.5, 0.9]), settings(batch), counts > 0, counts)
        exact = logits.log_softmax(-1).gather(1, ids[:, None])[:, 0]
        assert torch.allclose(logprobs, exact, atol=1e-5)


def test_greedy_is_argmax_and_tiny_temperatures_agree() -> None:
    logits, u = scores(5, 100), torch.full((5,), 0.999)
    for temperature in (0.0, 1e-5):
        assert torch.equal(sample(logits, u, settings([Sampling(temperature=temperature)] * 5))[0], logits.argmax(-1))


@pytest.mark.parametrize("bad", [{"temperature": -1}, {"top_p": 0}, {"top_p": 1.1}, {"min_p": 2}, {"top_q": 1}])
def test_impossible_settings_are_refused(bad: dict) -> None:
    with pytest.raises(ValueError):
        Sampling(**bad)
