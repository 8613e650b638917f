"""Each corruption against its own inverse or a statistic of its paper, on random texts, settings and seeds."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fledge.core.errors import FledgeError
from fledge.data.corruption import masking, order, pairs, spans
from fledge.data.corruption.marks import Marks
from fledge.data.corruption.sample import Corruption, CorruptionConfig, Sample, Setting, arrange, corrupted
from fledge.data.packing import IGNORED, Example, Row, collate
from fledge.data.stream import Stream

ENCODER: dict[str, Corruption] = {"mlm": masking.mlm, "rtd": masking.rtd, "nsp": pairs.nsp, "sop": pairs.sop}
DECODER: dict[str, Corruption] = {"lm": order.lm, "prefix_lm": order.prefix_lm, "permutation": order.permutation}
BOTH: dict[str, Corruption] = {
    "seq2seq_lm": spans.seq2seq_lm, "span_mask": spans.span_mask, "infilling": spans.infilling,
    "shuffling": spans.shuffling, "ul2": spans.ul2,
}  # fmt: skip
ALL = ENCODER | DECODER | BOTH | {"tlm": masking.tlm}

seeds = st.integers(0, 2**32)
lengths = st.integers(12, 70)


def plain_texts(marks: Marks, rng: np.random.Generator, count: int) -> list[Example]:
    """Texts of random ordinary tokens, full stops among them."""
    stops = marks.ordinary[marks.ends_sentence[marks.ordinary] | marks.ends_blank[marks.ordinary]]
    texts = []
    for _ in range(count):
        ids = rng.choice(marks.ordinary, rng.integers(0, 150))
        ids = np.where(rng.random(len(ids)) < 0.2, rng.choice(stops, len(ids)), ids)
        texts.append(Example.of(ids))
    return texts


def setting_for(name: str, marks: Marks, length: int, texts: list[Example], **config: object) -> Setting:
    target = 0 if name not in BOTH else length
    return Setting(marks, length, target, CorruptionConfig(**config), texts)


def two_sided(example: Example, rng: np.random.Generator) -> Example:
    """The example as a text and its translation."""
    return Example(example.ids, np.arange(len(example.ids)) >= rng.integers(0, len(example.ids) + 1))


def samples_of(name: str, marks: Marks, length: int, seed: int, **config: object) -> list[tuple[Example, list[Sample]]]:
    rng = np.random.default_rng(seed)
    texts = plain_texts(marks, rng, 4)
    if name == "tlm":
        texts = [two_sided(text, rng) for text in texts]
    setting = setting_for(name, marks, length, texts, **config)
    return [(text, ALL[name](text, np.random.default_rng([seed, i]), setting)) for i, text in enumerate(texts)]


@pytest.mark.parametrize("name", list(ALL))
@settings(max_examples=25, deadline=None)
@given(length=lengths, seed=seeds)
def test_the_same_seed_gives_the_same_and_the_text_is_left_as_it_was(
    name: str, marks: Marks, length: int, seed: int
) -> None:
    before = samples_of(name, marks, length, seed)
    for (text, samples), (again, others) in zip(before, samples_of(name, marks, length, seed), strict=True):
        assert (text.ids == again.ids).all()
        for one, other in zip(samples, others, strict=True):
            for column in ("ids", "targets", "source"):
                np.testing.assert_equal(getattr(one, column), getattr(other, column))
            for key in one.columns:
                np.testing.assert_array_equal(one.columns[key], other.columns[key])


@pytest.mark.parametrize("name", list(ALL))
@settings(max_examples=25, deadline=None)
@given(length=lengths, seed=seeds)
def test_samples_fit_into_rows_and_learn_something(name: str, marks: Marks, length: int, seed: int) -> None:
    columns = None
    for _, samples in samples_of(name, marks, length, seed):
        for sample in samples:
            assert len(sample.ids) == len(sample.targets) <= length
            assert all(len(column) == len(sample.ids) for column in sample.columns.values())
            assert sample.source is None or 0 < len(sample.source) <= length
            assert (sample.targets != IGNORED).any() or (name == "lm" and len(sample.ids) == 1)
            assert ((sample.targets >= 0) | (sample.targets == IGNORED)).all()
            columns = columns or sample.columns.keys()
            assert sample.columns.keys() == columns


@pytest.mark.parametrize("name", list(ALL))
@settings(max_examples=25, deadline=None)
@given(length=lengths, seed=seeds)
def test_packed_rows_hold_every_sample_once_and_apart(name: str, marks: Marks, length: int, seed: int) -> None:
    samples = [sample for _, found in samples_of(name, marks, length, seed) for sample in found]
    rows = arrange(samples, setting_for(name, marks, length, []))
    seen = []
    for row in rows:
        assert len(row.ids) == length
        numbers = [number for number, _, _ in row.places]
        seen += numbers
        at = source_at = 0
        for document, (number, (_, start, size)) in enumerate(zip(numbers, row.places), 1):
            sample = samples[number]
            assert (start, size) == (at, len(sample.ids))
            here = np.flatnonzero(row.documents == document)
            np.testing.assert_array_equal(here, np.arange(at, at + size))
            np.testing.assert_array_equal(row.ids[here], sample.ids)
            np.testing.assert_array_equal(row.targets[here], sample.targets)
            np.testing.assert_array_equal(row.positions[here], sample.columns.get("positions", np.arange(size)))
            for key, column in sample.columns.items():
                if key != "positions":
                    np.testing.assert_array_equal(row.columns[key][here], column)
            if sample.source is not None:
                there = np.flatnonzero(row.columns["source_documents"] == document)
                np.testing.assert_array_equal(there, np.arange(source_at, source_at + len(sample.source)))
                np.testing.assert_array_equal(row.columns["source_ids"][there], sample.source)
                np.testing.assert_array_equal(row.columns["source_positions"][there], np.arange(len(there)))
                source_at += len(there)
            at += size
        assert not row.documents[at:].any()
        assert (row.targets[at:] == IGNORED).all()
        assert not any((row.columns[k][at:] != IGNORED).any() for k in row.columns if k.endswith("targets"))
    assert sorted(seen) == list(range(len(samples)))


def plain(marks: Marks, ids: np.ndarray) -> np.ndarray:
    """Without special tokens."""
    return ids[np.isin(ids, marks.ordinary)]


@pytest.mark.parametrize("name", ["mlm", "rtd"])
@pytest.mark.parametrize("whole_words", [False, True])
@settings(max_examples=40, deadline=None)
@given(length=lengths, seed=seeds, share=st.sampled_from([None, 0.05, 0.4]))
def test_masked_text_comes_back(
    name: str, whole_words: bool, marks: Marks, length: int, seed: int, share: float | None
) -> None:
    """What is shown, with the targets put in, is the text; as many are hidden as asked, and of specials none."""
    for text, samples in samples_of(name, marks, length, seed, whole_words=whole_words, share=share):
        restored = []
        for sample in samples:
            picked = sample.targets != IGNORED
            window = np.where(picked, sample.targets, sample.ids)
            assert (window[0], window[-1]) == (marks.cls, marks.sep)
            assert not picked[[0, -1]].any()
            restored.append(window[1:-1])
            size = len(window) - 2
            budget = max(1, round((share or 0.15) * size))
            words = marks.words(window[1:-1])
            hidden_words = set(words[picked[1:-1]])
            if not whole_words:
                assert picked.sum() == budget
            else:
                assert all(picked[1:-1][words == word].all() for word in hidden_words)
                assert picked.sum() <= budget or len(hidden_words) == 1
            if name == "rtd":
                assert (sample.ids[picked] == marks.mask).all()
                assert ((sample.columns["draws"] >= 0) & (sample.columns["draws"] < 1)).all()
        np.testing.assert_array_equal(np.concatenate([*restored, text.ids[:0]]), text.ids)


def test_mlm_hides_15_percent_as_bert_does(marks: Marks) -> None:
    rng = np.random.default_rng(0)
    text = Example.of(rng.choice(marks.ordinary, 200_000))
    samples = masking.mlm(text, rng, Setting(marks, 512))
    ids = np.concatenate([s.ids[1:-1] for s in samples])
    targets = np.concatenate([s.targets[1:-1] for s in samples])
    picked = targets != IGNORED
    assert picked.mean() == pytest.approx(0.15, abs=1e-3)
    assert (ids[picked] == marks.mask).mean() == pytest.approx(0.8, abs=0.01)
    assert (ids[picked] == targets[picked]).mean() == pytest.approx(0.1, abs=0.01)
    random = picked & (ids != marks.mask) & (ids != targets)
    assert random.sum() / picked.sum() == pytest.approx(0.1, abs=0.01)
    assert len(np.unique(ids[random])) > 0.95 * len(marks.ordinary)  # from the whole vocabulary


def segments(sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """The two segments of a pair, as they were before tokens were hidden."""
    whole = np.where(sample.targets != IGNORED, sample.targets, sample.ids)
    second = np.flatnonzero(sample.columns["token_types"])
    return whole[1 : second[0] - 1], whole[second[0] : -1]


def contains(text: np.ndarray, part: np.ndarray) -> bool:
    return any((text[i : i + len(part)] == part).all() for i in range(len(text) - len(part) + 1))


@pytest.mark.parametrize("name", ["nsp", "sop"])
@settings(max_examples=40, deadline=None)
@given(length=lengths, seed=seeds)
def test_pairs_are_what_their_label_says(name: str, marks: Marks, length: int, seed: int) -> None:
    found = samples_of(name, marks, length, seed)
    for number, (text, samples) in enumerate(found):
        for sample in samples:
            a, b = segments(sample)
            assert len(a)
            assert len(b)
            labels = sample.columns["pair_targets"]
            assert (labels[1:] == IGNORED).all()
            assert sample.columns["pair_weights"].sum() == (sample.targets != IGNORED).sum()
            if labels[0] == 0:
                assert contains(text.ids, np.concatenate([a, b]))
            elif name == "sop":
                assert contains(text.ids, np.concatenate([b, a]))
            else:
                assert contains(text.ids, a)
                assert any(contains(other.ids, b) for i, (other, _) in enumerate(found) if i != number)


@pytest.mark.parametrize("name", ["nsp", "sop"])
def test_half_of_the_pairs_are_as_written(name: str, marks: Marks) -> None:
    labels = [s.columns["pair_targets"][0] for seed in range(150) for _, found in samples_of(name, marks, 40, seed)
              for s in found]  # fmt: skip
    assert len(labels) > 1000
    assert np.mean(labels) == pytest.approx(0.5, abs=0.05)


def test_texts_of_one_sentence_give_no_pairs(marks: Marks, tokenizer) -> None:
    one = Example.of(tokenizer.array("only one sentence"))
    setting = Setting(marks, 64, texts=[one])
    assert pairs.nsp(one, np.random.default_rng(0), setting) == []
    assert pairs.sop(one, np.random.default_rng(0), setting) == []
    assert spans.shuffling(one, np.random.default_rng(0), dataclasses.replace(setting, target_length=64)) == []


def answer(marks: Marks, sample: Sample) -> np.ndarray:
    """What the decoder says, after a check that it reads the same text one step behind."""
    assert sample.ids[0] == marks.start
    assert sample.targets[-1] == marks.end
    assert sample.source is not None
    assert sample.source[-1] == marks.end
    np.testing.assert_array_equal(sample.ids[1:], sample.targets[:-1])
    return sample.targets[:-1]


def fill_sentinels(marks: Marks, source: np.ndarray, said: np.ndarray) -> np.ndarray:
    """The text: each sentinel of the source replaced by what stands behind it in the answer."""
    starts = np.flatnonzero(np.isin(said, marks.sentinels))
    hidden = dict(zip(said[starts].tolist(), (part[1:].tolist() for part in np.split(said, starts[1:]))))
    assert list(hidden) == marks.sentinels[: len(hidden)].tolist() == [t for t in source if t in marks.sentinels]
    assert all(hidden.values())
    return np.array([token for t in source.tolist() for token in hidden.get(t, [t])], np.int64)


@settings(max_examples=60, deadline=None)
@given(length=lengths, seed=seeds, share=st.sampled_from([None, 0.3, 0.5]), mean=st.sampled_from([1.0, 3.0, 8.0]))
def test_span_mask_comes_back(marks: Marks, length: int, seed: int, share: float | None, mean: float) -> None:
    rng = np.random.default_rng(seed)
    for text in plain_texts(marks, rng, 3):
        target = spans.span_target(length, share or 0.15, mean)
        setting = Setting(marks, length, target, CorruptionConfig(share=share, mean_span=mean))
        samples = spans.span_mask(text, rng, setting)
        restored = []
        for sample in samples:
            assert len(sample.ids) <= target
            said = answer(marks, sample)
            restored.append(fill_sentinels(marks, sample.source[:-1], said))
            hidden = len(plain(marks, said))
            assert hidden == min(len(restored[-1]) - 1, max(1, round((share or 0.15) * len(restored[-1]))))
        whole = np.concatenate([*restored, text.ids[:0]])
        assert len(text.ids) - len(whole) <= 1  # a last window of one token has nothing to show
        np.testing.assert_array_equal(whole, text.ids[: len(whole)])


def test_every_place_is_hidden_alike(marks: Marks) -> None:
    rng = np.random.default_rng(0)
    ids = rng.permutation(marks.ordinary)[:20]
    hits = np.zeros(20)
    for _ in range(4000):
        _, said = spans.with_sentinels(ids, rng, 0.15, 1.0, Setting(marks, 64, 64))
        hits += np.isin(ids, said)
    assert hits.sum() == 4000 * 3
    np.testing.assert_allclose(hits / 4000, 0.15, atol=0.03)


@settings(max_examples=60, deadline=None)
@given(length=lengths, seed=seeds, share=st.sampled_from([None, 0.1, 0.7]), mean=st.sampled_from([0.5, 3.0]))
def test_infilling_hides_its_share(marks: Marks, length: int, seed: int, share: float | None, mean: float) -> None:
    for text, samples in samples_of("infilling", marks, length, seed, share=share, mean_span=mean):
        said = [answer(marks, sample) for sample in samples]
        whole = np.concatenate([*said, text.ids[:0]])
        assert len(text.ids) - len(whole) <= 1
        np.testing.assert_array_equal(whole, text.ids[: len(whole)])
        for sample, window in zip(samples, said):
            source = sample.source[:-1]
            kept = source[source != marks.mask]
            budget = min(len(window) - 1, max(1, round((share or 0.3) * len(window))))
            cut = len(source) == length - 1  # a source full of empty spans may lose its end
            assert cut or len(window) - len(kept) == budget
            assert is_subsequence(kept, window)
            assert not ((source[1:] == marks.mask) & (source[:-1] == marks.mask)).any()


def is_subsequence(part: np.ndarray, whole: np.ndarray) -> bool:
    rest = iter(whole.tolist())
    return all(token in rest for token in part.tolist())


def test_infilling_draws_its_spans_as_bart_does(marks: Marks) -> None:
    rng = np.random.default_rng(0)
    lengths = np.concatenate([spans.poisson_spans(500, rng, Setting(marks, 512, 512))[1] for _ in range(400)])
    assert lengths.mean() == pytest.approx(3, abs=0.1)
    assert (lengths == 0).mean() == pytest.approx(np.exp(-3), abs=0.01)


@settings(max_examples=60, deadline=None)
@given(length=lengths, seed=seeds)
def test_shuffled_sentences_are_the_same_ones(marks: Marks, length: int, seed: int) -> None:
    for text, samples in samples_of("shuffling", marks, length, seed):
        for sample in samples:
            said = answer(marks, sample)
            assert contains(text.ids, said)
            starts = marks.sentences(said)
            mine = [tuple(part) for part in np.split(said, starts[1:])]
            assert len(mine) > 1
            source = tuple(sample.source[:-1])
            assert sorted(source) == sorted(said)
            assert can_be_laid(source, mine)


def can_be_laid(source: tuple[int, ...], sentences: list[tuple[int, ...]]) -> bool:
    """Whether the sentences, each once, make up the source in some order."""
    if not sentences:
        return not source
    return any(
        source[: len(s)] == s and can_be_laid(source[len(s) :], sentences[:i] + sentences[i + 1 :])
        for i, s in enumerate(sentences)
        if s not in sentences[:i]
    )


@settings(max_examples=60, deadline=None)
@given(length=lengths, seed=seeds)
def test_ul2_comes_back_and_says_its_mode(marks: Marks, length: int, seed: int) -> None:
    for text, samples in samples_of("ul2", marks, length, seed):
        at = 0
        for sample in samples:
            source, said = sample.source, answer(marks, sample)
            assert source[0] in marks.modes
            window = fill_sentinels(marks, source[1:-1], said)
            np.testing.assert_array_equal(window, text.ids[at : at + len(window)])
            at += len(window)
            if source[0] == marks.modes[1]:  # S: one span at the end, at most half
                assert source[-2] == marks.sentinels[0]
                assert len(said) - 1 <= max(1, round(0.5 * len(window)))


def test_ul2_draws_its_denoisers_evenly(marks: Marks) -> None:
    rng = np.random.default_rng(0)
    text = Example.of(rng.choice(marks.ordinary, 60 * 7000))
    modes = [s.source[0] for s in spans.ul2(text, rng, Setting(marks, 63, 63))]
    shares = [np.mean([mode == token for mode in modes]) for token in marks.modes]
    assert shares == pytest.approx([2 / 7, 1 / 7, 4 / 7], abs=0.02)


@settings(max_examples=60, deadline=None)
@given(length=lengths, seed=seeds)
def test_sequence_to_sequence_is_cut_somewhere(marks: Marks, length: int, seed: int) -> None:
    for text, samples in samples_of("seq2seq_lm", marks, length, seed):
        whole = np.concatenate([*(np.append(s.source[:-1], answer(marks, s)) for s in samples), text.ids[:0]])
        assert len(text.ids) - len(whole) <= 1
        np.testing.assert_array_equal(whole, text.ids[: len(whole)])


@settings(max_examples=60, deadline=None)
@given(length=lengths, seed=seeds)
def test_a_translation_is_said_from_its_text(marks: Marks, length: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for text in [two_sided(text, rng) for text in plain_texts(marks, rng, 3)]:
        if text.mask.all() or not text.mask.any():
            continue
        (sample,) = spans.seq2seq_lm(text, rng, Setting(marks, length, length))
        np.testing.assert_array_equal(sample.source[:-1], text.ids[~text.mask][: length - 1])
        np.testing.assert_array_equal(answer(marks, sample), text.ids[text.mask][: length - 1])


@settings(max_examples=60, deadline=None)
@given(length=lengths, seed=seeds)
def test_tlm_hides_in_both_languages(marks: Marks, length: int, seed: int) -> None:
    for text, samples in samples_of("tlm", marks, length, seed):
        a, b = text.ids[~text.mask], text.ids[text.mask]
        if not len(a) or not len(b):
            assert samples == []
            continue
        first, second = segments(samples[0])
        np.testing.assert_array_equal(first, a[: len(first)])
        np.testing.assert_array_equal(second, b[: len(second)])
        assert len(first) + len(second) == min(len(a) + len(b), length - 3)
        positions = samples[0].columns["positions"]
        np.testing.assert_array_equal(positions, [*range(len(first) + 2), *range(len(second) + 1)])


@settings(max_examples=60, deadline=None)
@given(length=lengths, seed=seeds)
def test_language_models_say_the_next_token(marks: Marks, length: int, seed: int) -> None:
    for name in ("lm", "prefix_lm"):
        for text, samples in samples_of(name, marks, length, seed):
            whole = [marks.end, *text.ids, marks.end]
            shown = [token for sample in samples for token in sample.ids]
            assert shown == (whole if name == "lm" else whole[: len(shown)])
            for sample in samples:
                asked = np.flatnonzero(sample.targets != IGNORED)
                cut = int(sample.columns["prefix"].sum())
                assert asked.tolist() == list(range(max(cut - 1, 0), len(sample.ids) - 1))
                assert (sample.targets[asked] == sample.ids[asked + 1]).all()
                assert sample.columns["prefix"][:cut].all()
                assert not sample.columns["prefix"][asked + 1].any()  # nothing that is asked for can be seen


@settings(max_examples=60, deadline=None)
@given(length=lengths, seed=seeds)
def test_an_order_is_a_permutation_and_shows_no_answer(marks: Marks, length: int, seed: int) -> None:
    for text, samples in samples_of("permutation", marks, length, seed):
        contents = []
        for sample in samples:
            order_, positions = sample.columns["order"], sample.columns["positions"]
            slots = order_ < 0
            size = int((~slots).sum())
            contents.append(sample.ids[:size])
            assert sorted(order_[:size]) == list(range(size))
            assert slots[size:].all()
            assert (sample.ids[size:] == marks.mask).all()
            np.testing.assert_array_equal(sample.targets != IGNORED, slots)
            np.testing.assert_array_equal(sample.targets[slots], sample.ids[:size][positions[slots]])
            ranks = -1 - order_[slots]
            np.testing.assert_array_equal(ranks, order_[:size][positions[slots]])
            assert sorted(ranks) == list(range(size - len(ranks), size))  # the last of the order
            assert len(ranks) == int(np.ceil(size / 6))
        np.testing.assert_array_equal(np.concatenate([*contents, text.ids[:0]]), text.ids)


def arranged(name: str, marks: Marks, seed: int, microbatches: int = 2) -> Stream:
    texts = {
        "a": plain_texts(marks, np.random.default_rng(1), 30),
        "b": plain_texts(marks, np.random.default_rng(2), 9),
    }
    if name == "tlm":
        texts = {k: [two_sided(t, np.random.default_rng(3)) for t in v] for k, v in texts.items()}

    def arrange_(examples: list[Example], chosen: list[int], seed: list[int]) -> list[Row]:
        return corrupted(ALL[name], setting_for(name, marks, 48, examples), examples, chosen, seed)

    return Stream(texts, {"a": 2, "b": 1}, 48, 3, microbatches, seed, split=False, arrange=arrange_)


@pytest.mark.parametrize("name", list(ALL))
def test_a_stream_goes_on_from_any_step_to_the_same_bits(name: str, marks: Marks) -> None:
    whole = arranged(name, marks, 5)
    steps = []
    for _ in range(25):  # several passes over b
        state = whole.state()
        steps.append((state, next(whole)))
    for at in (0, 7, 19):
        again = arranged(name, marks, 5)
        again.load_state(steps[at][0])
        for _, expected in steps[at:]:
            for batch, wanted in zip(next(again), expected, strict=True):
                assert batch.keys() == wanted.keys()
                assert all((batch[key] == wanted[key]).all() for key in wanted)
    other = next(arranged(name, marks, 6))
    assert any((a["ids"] != b["ids"]).any() for a, b in zip(other, steps[0][1]))


def test_a_text_is_corrupted_anew_in_every_pass(marks: Marks) -> None:
    texts = plain_texts(marks, np.random.default_rng(0), 5)
    setting = Setting(marks, 64)
    first, second = (corrupted(masking.mlm, setting, texts, range(5), [0, epoch]) for epoch in (0, 1))
    assert any((a.ids != b.ids).any() for a, b in zip(first, second))


def test_what_a_text_becomes_does_not_depend_on_its_company(marks: Marks) -> None:
    texts = plain_texts(marks, np.random.default_rng(0), 8)
    setting = Setting(marks, 200)
    alone = corrupted(masking.mlm, setting, texts, [3], [7])
    together = corrupted(masking.mlm, setting, texts, [1, 3, 2], [7])
    ids = alone[0].ids[alone[0].documents > 0]
    assert any(contains(row.ids, ids) for row in together)


def test_a_source_that_makes_no_rows_is_refused(marks: Marks) -> None:
    def nothing(examples: Sequence[Example], chosen: Iterable[int], seed: Sequence[int]) -> list[Row]:
        return []

    texts = {"a": plain_texts(marks, np.random.default_rng(0), 5)}
    stream = Stream(texts, {"a": 1}, 48, 1, 1, 0, False, arrange=nothing)
    with pytest.raises(FledgeError, match="made no row"):
        next(stream)


def test_collated_columns_have_their_kinds(marks: Marks) -> None:
    texts = plain_texts(marks, np.random.default_rng(0), 5)
    batch = collate(corrupted(order.prefix_lm, Setting(marks, 64), texts, range(5), [0]))
    assert batch["prefix"].dtype == torch.bool
    batch = collate(corrupted(spans.span_mask, Setting(marks, 64, 64), texts, range(5), [0]))
    kinds = {name: batch[name].dtype for name in ("source_ids", "source_documents", "documents", "targets")}
    assert list(kinds.values()) == [torch.int64, torch.int32, torch.int32, torch.int64]
