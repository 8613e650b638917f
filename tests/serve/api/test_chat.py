"""Chat completions: whole and streamed, as OpenAI answers."""

import json
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

import fledge

ASKED = [{"role": "user", "content": "Where is the zebra?"}]


def events(text: str) -> list[dict[str, Any]]:
    lines = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_an_answer_is_the_assistants(client: TestClient, tiny: Path) -> None:
    body = {"model": "tiny", "messages": ASKED, "temperature": 0, "max_tokens": 24}
    answer = client.post("/v1/chat/completions", json=body).json()
    own = fledge.load(tiny / "base", dtype="bfloat16").complete([ASKED], temperature=0, max_new_tokens=24)[0]
    assert answer["choices"][0]["message"]["content"] == own.text
    assert answer["usage"]["completion_tokens"] == len(own.ids)


def test_a_streamed_answer_is_the_whole_one(client: TestClient) -> None:
    body = {"model": "tiny", "messages": ASKED, "seed": 7, "n": 3, "max_tokens": 20}
    whole = client.post("/v1/chat/completions", json=body).json()
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    found = events(client.post("/v1/chat/completions", json=body).text)
    texts = ["", "", ""]
    for event in found:
        for choice in event["choices"]:
            texts[choice["index"]] += choice["delta"].get("content", "")
    assert texts == [choice["message"]["content"] for choice in whole["choices"]]
    assert len(set(texts)) == 3
    assert found[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]


def test_too_long_is_a_400_that_says_by_how_much(client: TestClient) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "zebra " * 60}], "max_tokens": 120}
    answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert "too many" in error["message"]
