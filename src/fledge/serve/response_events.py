"""The events of a streamed response: items are opened, filled and closed, each event numbered."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from fledge.serve.answers import Answer, Part
from fledge.serve.generation import new_id

Finished = Callable[[Answer, list[dict[str, Any]]], dict[str, Any]]


class Writer:
    """Makes events and keeps the items they describe."""

    def __init__(self) -> None:
        self.number = 0
        self.items: list[dict[str, Any]] = []
        self.open: dict[str, Any] | None = None

    def event(self, kind: str, **values: Any) -> bytes:
        """One event."""
        data = {"type": kind, "sequence_number": self.number, **values}
        self.number += 1
        return f"event: {kind}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode("utf-8", "replace")

    def text(self, piece: str) -> list[bytes]:
        """More of a message."""
        found: list[bytes] = []
        if self.open is None or self.open["type"] != "message":
            found += self.close()
            self.open = {"id": new_id("msg"), "type": "message", "role": "assistant", "status": "in_progress"}
            found.append(self._added(self.open | {"content": []}))
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            found.append(self.event("response.content_part.added", **self._at(), content_index=0, part=part))
            self.open["content"] = [part]
        self.open["content"][0]["text"] += piece
        delta = self.event("response.output_text.delta", **self._at(), content_index=0, delta=piece, logprobs=[])
        return [*found, delta]

    def call(self, name: str, call_id: str) -> list[bytes]:
        """A function call begins."""
        found = self.close()
        about = {"call_id": call_id, "name": name, "arguments": ""}
        self.open = {"id": new_id("fc"), "type": "function_call", "status": "in_progress"} | about
        return [*found, self._added(dict(self.open))]

    def arguments(self, piece: str) -> list[bytes]:
        """More of its arguments."""
        assert self.open is not None
        self.open["arguments"] += piece
        return [self.event("response.function_call_arguments.delta", **self._at(), delta=piece)]

    def close(self) -> list[bytes]:
        """The item in hand is whole."""
        if self.open is None:
            return []
        item, self.open = self.open, None
        at = {"item_id": item["id"], "output_index": len(self.items)}
        if item["type"] == "message":
            part = item["content"][0]
            found = [
                self.event("response.output_text.done", **at, content_index=0, text=part["text"], logprobs=[]),
                self.event("response.content_part.done", **at, content_index=0, part=part),
            ]
        else:
            values = {"arguments": item["arguments"], "name": item["name"]}
            found = [self.event("response.function_call_arguments.done", **at, **values)]
        item["status"] = "completed"
        self.items.append(item)
        return [*found, self.event("response.output_item.done", output_index=len(self.items) - 1, item=item)]

    def _added(self, item: dict[str, Any]) -> bytes:
        return self.event("response.output_item.added", output_index=len(self.items), item=item)

    def _at(self) -> dict[str, Any]:
        assert self.open is not None
        return {"item_id": self.open["id"], "output_index": len(self.items)}


async def events(response: dict[str, Any], parts: AsyncIterator[Part], finished: Finished) -> AsyncIterator[bytes]:
    """The events of an answer; `finished` makes the whole response of it."""
    writer, answer = Writer(), Answer()
    yield writer.event("response.created", response=response)
    yield writer.event("response.in_progress", response=response)
    async for part in parts:
        answer.add(part)
        for delta in part.deltas:
            if delta.text:
                found = writer.text(delta.text)
            elif delta.name:
                found = writer.call(delta.name, delta.id)
            else:
                found = writer.arguments(delta.arguments)
            for each in found:
                yield each
    if not writer.items and writer.open is None:
        for each in writer.text(""):
            yield each
    for each in writer.close():
        yield each
    done = finished(answer, writer.items)
    yield writer.event(f"response.{done['status']}", response=done)
