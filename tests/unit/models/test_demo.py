"""The demo model: plans the demo tools by rules, and says what it is."""

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from agent.models.demo import FOOTER, DemoModel

TOOLS = [{"name": name, "description": "", "input_schema": {}} for name in
         ("service_status", "restart_service", "rotate_logs")]  # fmt: skip


async def ask(*messages: BaseMessage | str) -> AIMessage:
    history = [HumanMessage(message) if isinstance(message, str) else message for message in messages]
    return await DemoModel().bind_tools(TOOLS).ainvoke(history)


@pytest.mark.parametrize(
    ("text", "tool", "services"),
    [
        ("status of checkout", "service_status", ["checkout"]),
        ("What's the uptime for the payments-api?", "service_status", ["payments-api"]),
        ("status please", "service_status", ["web"]),
        ("Restart checkout because it leaks", "restart_service", ["checkout"]),
        ("restart the web and api, please", "restart_service", ["web", "api"]),
        ("restart web and api because of the leak", "restart_service", ["web", "api"]),
        ("restart web and tell me when done", "restart_service", ["web"]),
        ("restart", "restart_service", ["web"]),
        ("deploy web", "rotate_logs", ["web"]),
        ("break it", "rotate_logs", ["web"]),
        ("please fail", "rotate_logs", ["web"]),
    ],
)
async def test_words_choose_the_tool_and_the_services(text: str, tool: str, services: list[str]):
    answer = await ask(text)

    assert [(call["name"], call["args"]["service"]) for call in answer.tool_calls] == [(tool, s) for s in services]


async def test_restart_gives_the_reason_that_was_given():
    answer = await ask("restart web because it leaks memory")

    assert answer.tool_calls[0]["args"]["reason"] == "it leaks memory"


async def test_tool_that_is_not_offered_is_not_called():
    answer = await DemoModel().bind_tools(TOOLS[:1]).ainvoke("restart web")

    assert answer.tool_calls == []
    assert "isn't offered" in answer.text


async def test_anything_else_gets_help_with_three_examples_and_the_footer():
    answer = await ask("hello")

    assert answer.text.count("\n- `") == 3
    assert answer.text.endswith(FOOTER)


async def test_examples_in_the_help_do_what_they_say():
    help_text = (await ask("hello")).text
    examples = [line.split("`")[1] for line in help_text.splitlines() if line.startswith("- ")]

    called = [(await ask(example)).tool_calls[0]["name"] for example in examples]

    assert called == ["service_status", "restart_service", "rotate_logs"]


async def test_results_are_told_with_rejections_and_failures():
    calls = await ask("restart web and api because of the leak")
    first, second = (call["id"] or "" for call in calls.tool_calls)

    answer = await ask(
        "restart web and api because of the leak",
        calls,
        ToolMessage("web was restarted", tool_call_id=first),
        ToolMessage("Rejected by ann: not now", tool_call_id=second, status="error"),
    )

    assert answer.tool_calls == []
    assert "`restart_service` answered: web was restarted" in answer.text
    assert "`restart_service` was rejected and did not run: Rejected by ann: not now" in answer.text
    assert answer.text.endswith(FOOTER)


async def test_only_results_since_the_newest_message_count():
    calls = await ask("status")
    earlier = ToolMessage("fine", tool_call_id=calls.tool_calls[0]["id"] or "")

    answer = await ask("status", calls, earlier, AIMessage("It is fine."), "restart web")

    assert answer.tool_calls[0]["name"] == "restart_service"


async def test_answer_is_streamed_in_a_few_pieces():
    chunks = [chunk async for chunk in DemoModel().astream("hello")]

    assert 2 <= sum(1 for chunk in chunks if chunk.text) <= 6
    assert "".join(chunk.text for chunk in chunks).endswith(FOOTER)


async def test_streamed_call_equals_the_generated_one():
    chunks = [chunk async for chunk in DemoModel().bind_tools(TOOLS).astream("status of db")]

    assert [call["args"] for chunk in chunks for call in chunk.tool_calls] == [{"service": "db"}]
