"""Nouns of the field."""

from fledge.core.nouns import Conversation, Message, messages_of


def test_the_prompt_is_what_comes_before_the_last_answer() -> None:
    turns = (
        Message("system", "s"),
        Message("user", "a"),
        Message("assistant", "b"),
        Message("user", "c"),
        Message("assistant", "d"),
    )
    assert Conversation(turns).prompt == turns[:4]
    assert Conversation(turns[:4]).prompt == turns[:2]


def test_messages_and_their_json_form() -> None:
    rows = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert [message.as_dict() for message in messages_of(rows)] == rows
