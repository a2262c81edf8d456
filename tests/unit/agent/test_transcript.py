"""What of the transcript the model sees again."""

from typing import Any
from uuid import UUID, uuid4

from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from agent import transcript

SESSION, TURN = uuid4(), uuid4()


class Rows:
    """A transaction that knows one session's messages."""

    def __init__(self, *rows: tuple[str, str], tokens: int = 10) -> None:
        self._rows = [
            {
                "role": role,
                "content": content,
                "tool_calls": [{"name": "uptime", "args": {}, "id": "call_1", "type": "tool_call"}]
                if content == "calls"
                else None,
                "tool_call_id": "call_1" if role == "tool" else None,
                "tool_name": "uptime" if role == "tool" else None,
                "tokens": tokens,
            }
            for role, content in rows
        ]

    async def fetch(self, _statement: str, session_id: UUID, before: UUID, limit: int) -> list[Any]:
        assert (session_id, before) == (SESSION, TURN)
        return self._rows[::-1][:limit]


TALK = (
    ("user", "one"),
    ("assistant", "calls"),
    ("tool", "up"),
    ("assistant", "first"),
    ("user", "two"),
    ("assistant", "second"),
)


async def window(*rows: tuple[str, str], tokens: int) -> list[Any]:
    return await transcript.window(Rows(*rows), SESSION, before=TURN, tokens=tokens)


async def test_everything_that_fits_is_seen_in_order() -> None:
    assert await window(*TALK, tokens=60) == [
        HumanMessage("one"),
        AIMessage("calls", tool_calls=[{"name": "uptime", "args": {}, "id": "call_1", "type": "tool_call"}]),
        ToolMessage("up", tool_call_id="call_1", name="uptime"),
        AIMessage("first"),
        HumanMessage("two"),
        AIMessage("second"),
    ]


async def test_what_does_not_fit_falls_out_up_to_the_next_message_of_a_person() -> None:
    for tokens in (59, 50, 40, 30, 20):
        assert [message.content for message in await window(*TALK, tokens=tokens)] == ["two", "second"]


async def test_an_answer_without_its_question_is_not_shown() -> None:
    assert await window(*TALK, tokens=19) == []
    assert await window(("assistant", "hello"), tokens=100) == []


async def test_tokens_count_every_letter_of_other_scripts() -> None:
    assert transcript.estimate_tokens("重启服务") - transcript.estimate_tokens("") == 4
    assert transcript.estimate_tokens("abcd" * 100) - transcript.estimate_tokens("") == 100


async def test_a_step_that_runs_again_has_the_same_id_and_no_other_step_has_it() -> None:
    ids = [transcript.step_id(TURN, "model", n) for n in range(3)] + [transcript.step_id(TURN, "answer")]
    assert len(set(ids)) == 4
    assert ids[0] == transcript.step_id(TURN, "model", 0)


async def test_cleaned_text_is_text_that_postgres_takes() -> None:
    assert transcript.clean("a\x00b\ud83dc重") == "a\ufffdb?c重"
