"""The real `openai` client against a real server: every call of it that this server answers."""

import json
from typing import Any

import numpy as np
import pytest
import torch

openai = pytest.importorskip("openai", reason="pip install openai")

ASKED: list[Any] = [{"role": "user", "content": "Where is the zebra?"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
CLOCK: Any = {
    "type": "function",
    "function": {
        "name": "clock",
        "parameters": {"type": "object", "properties": {"zone": {"enum": ["UTC", "CET"]}}, "required": ["zone"],
                       "additionalProperties": False},
    },
}  # fmt: skip
SCHEMA: Any = {
    "type": "object",
    "properties": {"animal": {"enum": ["zebra", "lion"]}, "legs": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["animal", "legs"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def client(url: str) -> Any:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def test_models(client: Any) -> None:
    assert [model.id for model in client.models.list()] == ["tiny", "wide"]
    assert client.models.retrieve("tiny").owned_by == "fledge"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")


def test_chat(client: Any) -> None:
    system = {"role": "system", "content": "Be brief."}
    turns = [system, *ASKED, {"role": "assistant", "content": "There."}, {"role": "user", "content": "Where?"}]
    answer = client.chat.completions.create(model="tiny", messages=turns, max_completion_tokens=9, seed=1, n=2)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.usage.completion_tokens <= 18
    again = client.chat.completions.create(model="tiny", messages=turns, max_completion_tokens=9, seed=1, n=2)
    assert [choice.message for choice in again.choices] == [choice.message for choice in answer.choices]
    assert again.usage.prompt_tokens_details.cached_tokens > 0


def test_logprobs_are_the_models(client: Any, tiny: Any) -> None:
    import fledge

    answer = client.chat.completions.create(
        model="tiny", messages=ASKED, max_tokens=5, temperature=0, logprobs=True, top_logprobs=3
    )
    content = answer.choices[0].logprobs.content
    own = fledge.load(tiny / "base").complete([ASKED], max_new_tokens=5, temperature=0)[0]
    assert [each.logprob for each in content] == pytest.approx(own.logprobs, abs=0.05)  # bfloat16 against float32
    for each in content:
        assert each.logprob == max(top.logprob for top in each.top_logprobs)
        assert len(each.top_logprobs) == 3
        assert bytes(each.bytes).decode("utf-8", "replace") == each.token


def test_stream_with_usage(client: Any) -> None:
    options = {"model": "tiny", "messages": ASKED, "max_tokens": 12, "seed": 3}
    whole = client.chat.completions.create(**options)
    chunks = list(client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason


def test_structured_output(client: Any) -> None:
    for form, check in (
        ({"type": "json_object"}, lambda value: isinstance(value, dict)),
        (
            {"type": "json_schema", "json_schema": {"name": "animal", "schema": SCHEMA, "strict": True}},
            lambda value: value["animal"] in ("zebra", "lion") and 0 <= value["legs"] <= 9,
        ),
    ):
        for seed in range(6):
            answer = client.chat.completions.create(
                model="tiny", messages=ASKED, response_format=form, seed=seed, max_tokens=60, temperature=0.7
            ).choices[0]
            if answer.finish_reason == "stop":
                assert check(json.loads(answer.message.content))
            else:
                assert form["type"] == "json_object"  # a random model may never close its braces
    with pytest.raises(openai.BadRequestError, match="JSON schema"):
        client.chat.completions.create(
            model="tiny",
            messages=ASKED,
            response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}},
        )


@pytest.mark.parametrize("single", [True, False])
def test_a_forced_tool_call_is_whole_and_valid(client: Any, single: bool) -> None:
    choice: Any = {"type": "function", "function": {"name": "weather"}} if single else "required"
    counts = set()
    for seed in range(5):
        options: Any = {
            "model": "wide",
            "messages": ASKED,
            "tools": [WEATHER, CLOCK],
            "tool_choice": choice,
            "seed": seed,
            "max_tokens": 300,
        }
        answer = client.chat.completions.create(**options).choices[0]
        calls = answer.message.tool_calls
        counts.add(len(calls))
        assert answer.message.content is None
        for call in calls:
            arguments = json.loads(call.function.arguments)
            if call.function.name == "weather":
                assert arguments["city"] in ("Rome", "Oslo")
            else:
                assert not single
                assert arguments["zone"] in ("UTC", "CET")
        assert answer.finish_reason == "tool_calls"
        streamed: dict[int, list[str]] = {}
        finish = None
        for chunk in client.chat.completions.create(**options, stream=True):
            finish = chunk.choices[0].finish_reason or finish
            for piece in chunk.choices[0].delta.tool_calls or []:
                if piece.function.name:
                    assert piece.id
                    assert piece.index == len(streamed)
                    streamed[piece.index] = [piece.function.name, ""]
                streamed[piece.index][1] += piece.function.arguments or ""
        assert list(streamed.values()) == [[call.function.name, call.function.arguments] for call in calls]
        assert finish == "tool_calls"
    assert counts == {1} if single else max(counts) > 1


def test_a_conversation_with_tools_goes_on(client: Any) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "clock", "arguments": '{"zone": "UTC"}'}}
    turns = [
        *ASKED,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "noon"},
    ]
    answer = client.chat.completions.create(model="wide", messages=turns, tools=[CLOCK], max_tokens=5)
    assert answer.usage.completion_tokens <= 5


def test_completions(client: Any) -> None:
    answer = client.completions.create(
        model="tiny", prompt=["The zebra", "A lion"], max_tokens=4, logprobs=2, echo=True
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.choices[1].text.startswith("A lion")
    first = answer.choices[0].logprobs
    assert first.token_logprobs[0] is None
    assert len(first.tokens) == len(first.token_logprobs) == len(first.text_offset) == len(first.top_logprobs)
    whole = client.completions.create(model="tiny", prompt="The zebra", max_tokens=6, seed=1)
    pieces = client.completions.create(model="tiny", prompt="The zebra", max_tokens=6, seed=1, stream=True)
    assert "".join(piece.choices[0].text for piece in pieces) == whole.choices[0].text


def test_logit_bias_stop_and_penalties(client: Any) -> None:
    options: Any = {"model": "wide", "prompt": "The zebra", "max_tokens": 20, "temperature": 0}
    free = client.completions.create(**options, logprobs=0).choices[0]
    first = free.logprobs.token_ids[0]
    other = client.completions.create(**options, logit_bias={str(first): -100}, logprobs=0).choices[0]
    assert first not in other.logprobs.token_ids
    forced = client.completions.create(**options, logit_bias={"40": 100}, logprobs=0).choices[0]
    assert set(forced.logprobs.token_ids) == {40}
    unlike = client.completions.create(**options, logit_bias={"40": 20}, frequency_penalty=2, logprobs=0).choices[0]
    assert len(set(unlike.logprobs.token_ids)) > 1
    middle = free.text[5:8]
    stopped = client.completions.create(**options, stop=[middle]).choices[0]
    assert stopped.text == free.text[: free.text.index(middle)]
    assert stopped.finish_reason == "stop"


def test_embeddings(client: Any, tiny: Any) -> None:
    import fledge

    texts = ["The zebra.", "The zebra sees the lion at the river.", "x"]
    answer = client.embeddings.create(model="tiny", input=texts)
    vectors = np.array([each.embedding for each in answer.data])
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assistant = fledge.load(tiny / "base")
    ids = assistant.tokenizer.encode(texts[1])
    hidden = assistant.model.backbone(torch.tensor([ids]))[0].mean(0).detach().numpy()
    assert np.allclose(vectors[1], hidden / np.linalg.norm(hidden), atol=1e-4)
    plain = client.embeddings.create(model="tiny", input=ids, encoding_format="float", dimensions=8)
    assert np.allclose(plain.data[0].embedding, vectors[1][:8] / np.linalg.norm(vectors[1][:8]), atol=1e-4)


def test_responses(client: Any) -> None:
    answer = client.responses.create(model="wide", input="Where is the zebra?", max_output_tokens=9, temperature=0)
    assert answer.output[0].content[0].text == answer.output_text
    chat = client.chat.completions.create(model="wide", messages=ASKED, max_tokens=9, temperature=0)
    assert answer.output_text == chat.choices[0].message.content
    assert client.responses.retrieve(answer.id).output_text == answer.output_text
    more = client.responses.create(
        model="wide", input="And now?", previous_response_id=answer.id, max_output_tokens=4, instructions="Be brief."
    )
    assert more.usage.input_tokens > answer.usage.input_tokens
    text, kinds = "", []
    for event in client.responses.create(
        model="wide", input="Where is the zebra?", max_output_tokens=9, temperature=0, stream=True
    ):
        kinds.append(event.type)
        text += event.delta if event.type == "response.output_text.delta" else ""
    assert text == answer.output_text
    assert kinds[0] == "response.created"
    assert kinds[-1] in ("response.completed", "response.incomplete")
    client.responses.delete(answer.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(answer.id)


def test_responses_call_tools(client: Any) -> None:
    tool = {"type": "function", **WEATHER["function"]}
    options: Any = {"model": "wide", "input": "Weather?", "tools": [tool], "tool_choice": "required"}
    answer = client.responses.create(**options, parallel_tool_calls=False, max_output_tokens=200)
    (call,) = [item for item in answer.output if item.type == "function_call"]
    assert json.loads(call.arguments)["city"] in ("Rome", "Oslo")
    arguments, done = "", None
    for event in client.responses.create(**options, stream=True, max_output_tokens=200, parallel_tool_calls=False):
        if event.type == "response.function_call_arguments.delta":
            arguments += event.delta
        done = event
    assert done.response.output[0].arguments == arguments
    turns = [
        {"role": "user", "content": "Weather?"},
        {"type": "function_call", "call_id": call.call_id, "name": call.name, "arguments": call.arguments},
        {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"},
    ]
    client.responses.create(model="wide", input=turns, tools=[tool], max_output_tokens=5)


def test_parsed_structured_output(client: Any) -> None:
    from pydantic import BaseModel, Field

    class Animal(BaseModel):
        name: str = Field(pattern="^(zebra|lion)$")
        wild: bool

    answer = client.chat.completions.parse(model="wide", messages=ASKED, response_format=Animal, max_tokens=80)
    assert answer.choices[0].message.parsed.name in ("zebra", "lion")


def test_errors_are_the_clients_own(client: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="too many") as refused:
        client.chat.completions.create(model="tiny", messages=ASKED, max_tokens=500)
    assert refused.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="nobody", messages=ASKED)
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="tiny", messages=ASKED, temperature=-1)
    picture = [{"type": "image_url", "image_url": {"url": "data:"}}]
    with pytest.raises(openai.BadRequestError, match="text only"):
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": picture}])
