"""History repair: whatever a crash leaves behind, the service accepts what is sent."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from agent.models.history import NO_RESULT, NOT_JSON, repair
from agent.models.wire import wire_messages
from tests.fakes.model_script import refusal


def calling(*ids: str, text: str = "") -> AIMessage:
    return AIMessage(text, tool_calls=[{"name": "add", "args": {}, "id": call_id} for call_id in ids])


def result(call_id: str, text: str = "done") -> ToolMessage:
    return ToolMessage(text, tool_call_id=call_id)


def told(messages: list[BaseMessage]) -> list[str]:
    return [f"{message.type}:{message.text}" for message in messages]


def test_healthy_history_stays_as_it_is():
    history = [SystemMessage("s"), HumanMessage("h"), calling("a", "b"), result("a"), result("b"), AIMessage("end")]

    assert repair(history) == history


def test_missing_result_is_said_to_be_missing():
    repaired = repair([HumanMessage("h"), calling("a", "b"), result("b"), HumanMessage("again")])

    assert told(repaired) == ["human:h", "ai:", f"tool:{NO_RESULT}", "tool:done", "human:again"]


def test_result_moves_right_behind_its_call():
    repaired = repair([calling("a"), HumanMessage("meanwhile"), result("a", "late")])

    assert told(repaired) == ["ai:", "tool:late", "human:meanwhile"]


def test_orphan_and_second_results_are_dropped():
    repaired = repair([result("a"), calling("a"), result("a", "first"), result("a", "second"), result("never asked")])

    assert told(repaired) == ["ai:", "tool:first"]


def test_id_used_again_belongs_to_the_newer_call():
    repaired = repair([calling("a"), result("a", "old"), AIMessage("then"), calling("a"), result("a", "new")])

    assert told(repaired) == ["ai:", "tool:old", "ai:then", "ai:", "tool:new"]


def test_call_with_unreadable_arguments_becomes_a_valid_one_that_did_not_run():
    broken = AIMessage("", invalid_tool_calls=[{"name": "add", "args": '{"a', "id": "a", "error": None}])

    ai, tool = repair([broken])

    assert isinstance(ai, AIMessage)
    assert ai.invalid_tool_calls == []
    assert ai.tool_calls[0]["args"] == {}
    assert tool.text == NOT_JSON


def test_result_recorded_for_an_unreadable_call_is_kept():
    broken = AIMessage("", invalid_tool_calls=[{"name": "add", "args": "x", "id": "a", "error": None}])

    assert repair([broken, result("a", "invalid arguments")])[1].text == "invalid arguments"


def test_empty_messages_are_dropped_but_not_empty_results():
    repaired = repair([SystemMessage(""), HumanMessage(" "), AIMessage(""), calling("a"), result("a", "")])

    assert told(repaired) == ["ai:", "tool:(no output)"]


def test_chunk_becomes_a_message():
    chunk = AIMessageChunk("hi", tool_calls=[{"name": "add", "args": {"a": 1}, "id": "a"}])

    ai = repair([chunk])[0]

    assert type(ai) is AIMessage
    assert ai.tool_calls[0]["args"] == {"a": 1}


def test_lone_surrogates_are_replaced_and_pairs_joined():
    ai = calling("a")
    ai.tool_calls[0]["args"] = {"pa\udc00th": ["x\ud83d\ude00y", "\ud800"]}
    human = HumanMessage("x").model_copy(update={"content": "broken \udfff end"})

    repaired = repair([human, ai])

    assert repaired[0].content == "broken \ufffd end"
    assert isinstance(repaired[1], AIMessage)
    assert repaired[1].tool_calls[0]["args"] == {"pa\ufffdth": ["x\U0001f600y", "\ufffd"]}


def test_input_is_left_alone():
    ai = AIMessage("", tool_calls=[{"name": "", "args": {}, "id": None}])

    repair([ai])

    assert ai.tool_calls[0]["id"] is None


IDS = st.sampled_from(["a", "b", "c", "", None])
TEXTS = st.text(st.characters(codec=None, exclude_categories=[]), max_size=4) | st.sampled_from(["", " ", "text"])


def unchecked(message: BaseMessage, **fields: Any) -> BaseMessage:
    return message.model_copy(update=fields)


CALLS = st.builds(
    lambda call_id, name, text: {"name": name, "args": {"x": text}, "id": call_id, "type": "tool_call"},
    IDS,
    st.sampled_from(["add", ""]),
    TEXTS,
)
INVALID = st.builds(
    lambda call_id, name: {
        "name": name,
        "args": "{",
        "id": call_id,
        "error": None,
        "type": "invalid_tool_call",
    },
    IDS,
    st.sampled_from(["add", None]),
)
CONTENT = TEXTS | st.lists(st.builds(lambda text: {"type": "text", "text": text}, TEXTS), max_size=2)
MESSAGES = st.one_of(
    st.builds(lambda content: unchecked(HumanMessage(""), content=content), CONTENT),
    st.builds(lambda content: unchecked(SystemMessage(""), content=content), CONTENT),
    st.builds(
        lambda content, calls, invalid: unchecked(
            AIMessage(""), content=content, tool_calls=calls, invalid_tool_calls=invalid
        ),
        CONTENT,
        st.lists(CALLS, max_size=3),
        st.lists(INVALID, max_size=2),
    ),
    st.builds(lambda content, call_id: unchecked(result(call_id or ""), content=content), CONTENT, IDS),
)


@given(st.lists(MESSAGES, max_size=10))
def test_service_accepts_every_repaired_history(history: list[BaseMessage]):
    repaired = repair(history)

    sent = wire_messages(repaired)
    if sent:
        assert refusal(sent) is None
    str(sent).encode()
    assert repair(repaired) == repaired


@given(st.lists(MESSAGES, max_size=10))
def test_what_people_and_the_model_said_keeps_its_order(history: list[BaseMessage]):
    def said(messages: list[BaseMessage]) -> list[str]:
        return [message.text for message in messages if not isinstance(message, ToolMessage) and message.text.strip()]

    sendable = [message for message in history if message.text.isascii()]

    assert said(repair(sendable)) == said(sendable)


@pytest.mark.parametrize(
    "history",
    [
        [calling("a")],
        [result("a")],
        [calling("a"), HumanMessage("x"), result("a")],
        [calling("a", "a"), result("a")],
        [HumanMessage(" ")],
    ],
)
def test_the_strict_rule_refuses_what_was_not_repaired(history: list[BaseMessage]):
    assert refusal(wire_messages(history)) is not None
