"""The Python API: what `fledge.load` gives."""

from pathlib import Path

import pytest
import torch

import fledge
from fledge.checkpoint.directory import save_model
from fledge.core.errors import FledgeError
from fledge.core.nouns import Conversation, Message
from fledge.generate.assistant import Assistant, find_model, trim
from fledge.model.config import ModelConfig
from fledge.model.heads import LanguageModel, ScalarModel
from fledge.text.template import render
from fledge.text.tokenizer import Tokenizer

HELLO = [{"role": "user", "content": "I love New York"}]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, model: LanguageModel, tokenizer: Tokenizer) -> Path:
    """A run directory with a pretrained model, an SFT model and a reward model."""
    path = tmp_path_factory.mktemp("run")
    save_model(model, path / "pretrain", tokenizer=tokenizer)
    save_model(model, path / "sft", tokenizer=tokenizer)
    torch.manual_seed(1)
    reward = ScalarModel(ModelConfig(**(model.config.model_dump() | {"head": "scalar"})))
    torch.nn.init.normal_(reward.score.weight)
    save_model(reward, path / "reward", tokenizer=tokenizer, extra={"reward_mean": 0.5})
    return path


@pytest.fixture(scope="module")
def assistant(run: Path) -> Assistant:
    return fledge.load(run, device="cpu")


def test_find_model_takes_the_most_advanced(run: Path, tmp_path: Path) -> None:
    assert find_model(run) == run / "sft"
    assert find_model(run / "pretrain") == run / "pretrain"
    with pytest.raises(FledgeError, match="holds no model"):
        find_model(tmp_path)
    with pytest.raises(FledgeError, match="does not exist"):
        find_model(tmp_path / "nowhere")


def test_logits_are_the_models(assistant: Assistant, model: LanguageModel) -> None:
    ids = torch.randint(0, 300, (2, 9))
    logits = assistant.logits(ids)
    assert logits.shape == (2, 9, assistant.config.vocab_size)
    assert torch.allclose(logits, model(ids).logits(), atol=1e-5)


def test_strings_are_continued_and_conversations_answered(assistant: Assistant) -> None:
    greedy = {"temperature": 0, "max_new_tokens": 12}
    text, answer, again = assistant.generate(["I love", HELLO, [Message("user", "I love New York")]], **greedy)
    assert answer == again
    for prompt, given in (("I love", text), (HELLO, answer)):
        ids = assistant.encode(prompt)
        for _ in range(12):
            ids.append(int(assistant.logits(torch.tensor([ids]))[0, -1].argmax()))
        said = ids[-12:]
        ends = [i for i, token in enumerate(said) if token in assistant.request(prompt).stop_ids]
        assert given == assistant.tokenizer.decode(said[: ends[0]] if ends else said)
    assert (
        assistant.encode(HELLO)
        == render(assistant.tokenizer, [Message("user", "I love New York")], add_generation_prompt=True).ids
    )


def test_seeds_repeat_and_differ(assistant: Assistant) -> None:
    first, again = (assistant.generate([HELLO] * 2, seed=3, max_new_tokens=20) for _ in range(2))
    assert first == again
    assert first[0] != first[1]
    assert assistant.generate([HELLO], seed=4, max_new_tokens=20) == first[1:]


def test_chat_streams_what_generate_gives(assistant: Assistant) -> None:
    options = {"seed": 5, "temperature": 0.9, "max_new_tokens": 25}
    assert "".join(assistant.chat(HELLO, **options)) == assistant.generate([HELLO], **options)[0]


def test_an_empty_prompt_begins_a_document(assistant: Assistant) -> None:
    assert assistant.encode("") == [assistant.tokenizer.document_id]


def test_mistakes_are_named(assistant: Assistant, run: Path) -> None:
    with pytest.raises(FledgeError, match="context is 96"):
        assistant.generate(["snowman " * 200])
    with pytest.raises(FledgeError, match="temprature") as caught:
        assistant.generate(["a"], temprature=1)
    assert "did you mean 'temperature'" in caught.value.remedy
    with pytest.raises(FledgeError, match="not a message"):
        assistant.generate([[{"content": "a"}]])
    with pytest.raises(FledgeError, match="unknown role 'robot'"):
        assistant.generate([[{"role": "robot", "content": "a"}]])
    with pytest.raises(FledgeError, match="leaves room for 95 of the 96 new ones"):
        assistant.generate(["a"], max_new_tokens=96)
    with pytest.raises(FledgeError, match="gives no scores"):
        assistant.score([HELLO])
    with pytest.raises(FledgeError, match="cannot write"):
        fledge.load(run / "reward").generate(["a"])


def test_scores_are_read_at_the_end_of_the_last_answer(run: Path) -> None:
    reward = fledge.load(run / "reward", device="cpu")
    short = [*HELLO, {"role": "assistant", "content": "Zoo"}]
    long = [*short, *HELLO, {"role": "assistant", "content": "The snowman says héllo"}]
    conversations = [long, short, Conversation(tuple(Message(**turn) for turn in long))]
    scores = reward.score(conversations)
    for conversation, score in zip((long, short, long), scores):
        ids = render(reward.tokenizer, [Message(**turn) for turn in conversation]).ids
        last = max(i for i, token in enumerate(ids) if token == reward.tokenizer.eos_id)
        exact = reward.model(torch.tensor([ids])).values[0, last].item() - 0.5
        assert score == pytest.approx(exact, abs=1e-5)
    assert reward.score(conversations, max_batch=1) == pytest.approx(scores, abs=1e-5)


def test_trim_keeps_the_system_message_and_whole_exchanges(assistant: Assistant) -> None:
    turns = [Message("system", "x")]
    for _ in range(12):
        turns += [Message("user", "I love"), Message("assistant", "New York Zoo")]
    turns.append(Message("user", "New"))
    kept, dropped = trim(assistant, turns, reserve=20)
    assert kept[0] == turns[0]
    assert kept[1:] == turns[1 + dropped :]
    assert kept[1].role == "user"
    assert 0 < dropped < 24
    assert dropped % 2 == 0
    assert len(assistant.encode(kept)) + 20 <= 96 < len(assistant.encode([kept[0], *turns[dropped - 1 :]])) + 20
    assert trim(assistant, turns[-1:], reserve=20) == (turns[-1:], 0)
    with pytest.raises(FledgeError, match="context is 96"):
        trim(assistant, [Message("user", "snowman " * 200)], reserve=20)
