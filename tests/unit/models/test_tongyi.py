"""TongyiChat against the service on a socket: what a healthy answer becomes."""

import asyncio
import subprocess
import sys
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage, ToolMessage

from agent.models import ModelMisused, ModelUnavailable
from agent.models.tongyi import TongyiChat
from tests.fakes.tongyi import Answer, Call, FakeTongyi
from tests.unit.models.conftest import Build

ADD = {"name": "add", "description": "Adds.", "input_schema": {"type": "object", "properties": {"a": {}, "b": {}}}}
LOOK = {"name": "look", "description": "Looks.", "input_schema": {"type": "object"}}


async def streamed(model: Any, text: str) -> list[AIMessageChunk]:
    return [chunk async for chunk in model.astream(text)]


def summed(chunks: list[AIMessageChunk]) -> AIMessageChunk:
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole = whole + chunk
    return whole


async def test_text_arrives_in_pieces_that_sum_to_the_answer(model: TongyiChat):
    chunks = await streamed(model, "{{long 500}}")

    assert sum(1 for chunk in chunks if chunk.content) > 5
    assert len(summed(chunks).text) == 500


async def test_first_text_is_given_out_before_the_answer_is_complete(model: TongyiChat, fake: FakeTongyi):
    fake.queue.append(Answer(text="word " * 20, hang_at=3))

    stream = model.astream("hello")
    async with asyncio.timeout(45):
        first = await anext(stream)
    await stream.aclose()

    assert first.text.startswith("word")


async def test_generated_answer_equals_the_streamed_one(model: TongyiChat):
    answer = await model.ainvoke("{{say all of it, in one piece}}")

    assert answer.text == "all of it, in one piece"
    assert answer.response_metadata["finish_reason"] == "stop"


async def test_request_is_native_incremental_and_carries_every_role(model: TongyiChat, fake: FakeTongyi):
    call = {"name": "add", "args": {"a": 1}, "id": "c1"}
    await model.ainvoke(
        [
            SystemMessage("be brief"),
            HumanMessage([{"type": "text", "text": "one "}, {"type": "text", "text": "message"}]),
            AIMessage("", tool_calls=[call], additional_kwargs={"reasoning_content": "secret thoughts"}),
            ToolMessage("1", tool_call_id="c1"),
        ],
        stop=["END"],
        max_tokens=7,
    )

    body = fake.requests[0]
    assert body["model"] == "qwen-plus"
    assert body["parameters"]["incremental_output"] is True
    assert body["parameters"]["result_format"] == "message"
    assert (body["parameters"]["stop"], body["parameters"]["max_tokens"]) == (["END"], 7)
    function = {"name": "add", "arguments": '{"a": 1}'}
    wire_call = {"id": "c1", "type": "function", "function": function}
    assert body["input"]["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "one message"},
        {"role": "assistant", "content": "", "tool_calls": [wire_call]},
        {"role": "tool", "content": "1", "tool_call_id": "c1"},
    ]


async def test_fragments_of_parallel_calls_are_merged_by_index(model: TongyiChat, fake: FakeTongyi):
    fake.queue.append(Answer(calls=[Call("add", '{"a": 11, "b": 22}', "c1"), Call("look", '{"at": "the moon"}', "c2")]))

    whole = summed(await streamed(model.bind_tools([ADD, LOOK]), "go"))

    assert [(call["id"], call["name"], call["args"]) for call in whole.tool_calls] == [
        ("c1", "add", {"a": 11, "b": 22}),
        ("c2", "look", {"at": "the moon"}),
    ]
    assert whole.invalid_tool_calls == []


async def test_tools_are_offered_as_functions_in_parallel(model: TongyiChat, fake: FakeTongyi):
    openai = {"type": "function", "function": {"name": "look", "description": "", "parameters": {"type": "object"}}}

    await model.bind_tools([ADD, openai]).ainvoke("hello")

    parameters = fake.requests[0]["parameters"]
    assert [tool["function"]["name"] for tool in parameters["tools"]] == ["add", "look"]
    assert parameters["tools"][0]["function"]["parameters"] == ADD["input_schema"]
    assert parameters["parallel_tool_calls"] is True


@pytest.mark.parametrize(
    ("choice", "tools", "sent"),
    [
        (None, [ADD, LOOK], None),
        ("auto", [ADD, LOOK], "auto"),
        ("none", [ADD, LOOK], "none"),
        ("any", [ADD, LOOK], "auto"),
        (True, [ADD], {"type": "function", "function": {"name": "add"}}),
        ("look", [ADD, LOOK], {"type": "function", "function": {"name": "look"}}),
    ],
)
async def test_tool_choice_is_mapped_to_what_the_service_knows(
    model: TongyiChat, fake: FakeTongyi, choice: Any, tools: list[Any], sent: Any
):
    await model.bind_tools(tools, tool_choice=choice).ainvoke("hello")

    assert fake.requests[0]["parameters"].get("tool_choice") == sent


async def test_choice_of_a_tool_that_is_not_offered_is_a_mistake(model: TongyiChat):
    with pytest.raises(ValueError, match="isn't one of the tools"):
        model.bind_tools([ADD], tool_choice="subtract")


@pytest.mark.parametrize("arguments", ['{"path": "/tmp/a', "[1, 2]", "rm -rf"])
async def test_arguments_that_are_not_a_whole_object_make_an_invalid_call(
    model: TongyiChat, fake: FakeTongyi, arguments: str
):
    fake.queue.extend([Answer(calls=[Call("add", arguments, "c1"), Call("look", "{}", "c2")], finish="length")] * 2)

    for answer in (summed(await streamed(model, "go")), await model.ainvoke("go")):
        assert [call["id"] for call in answer.tool_calls] == ["c2"]
        assert [(call["id"], call["name"]) for call in answer.invalid_tool_calls] == [("c1", "add")]


async def test_call_without_arguments_or_id_is_a_call(model: TongyiChat, fake: FakeTongyi):
    fake.queue.append(Answer(calls=[Call("look", "", "")]))

    (call,) = (await model.ainvoke("go")).tool_calls

    assert call["args"] == {}
    assert call["id"]


async def test_usage_is_counted_once_with_its_cached_tokens(model: TongyiChat, fake: FakeTongyi):
    usage = {"input_tokens": 100, "output_tokens": 20, "prompt_tokens_details": {"cached_tokens": 64}}
    fake.queue.append(Answer(text="many frames, each with the usage so far " * 5, usage=usage))

    whole = summed(await streamed(model, "hello"))

    assert whole.usage_metadata is not None
    assert whole.usage_metadata["input_tokens"] == 100
    assert whole.usage_metadata["output_tokens"] == 20
    assert whole.usage_metadata["total_tokens"] == 120
    assert whole.usage_metadata.get("input_token_details", {}).get("cache_read") == 64


async def test_reasoning_stays_out_of_the_answer(model: TongyiChat, fake: FakeTongyi):
    fake.queue.append(Answer(text="42", reasoning="let me think about that for quite a while"))

    whole = summed(await streamed(model, "hello"))

    assert whole.content == "42"
    assert whole.additional_kwargs["reasoning_content"] == "let me think about that for quite a while"


async def test_endpoint_of_a_model_is_learned_once_for_all_instances(build: Build, fake: FakeTongyi):
    for model in (build(model_name="qwen3.7-plus"), build(model_name="qwen3.7-plus")):
        assert (await model.ainvoke("{{say in parts}}")).text == "in parts"
    assert (await build().ainvoke("{{say on the other}}")).text == "on the other"

    assert fake.paths == ["text-generation", "multimodal-generation", "multimodal-generation", "text-generation"]


async def test_tool_calls_work_on_the_multimodal_endpoint(build: Build):
    model = build(model_name="qwen3.7-plus").bind_tools([ADD])

    answer = await model.ainvoke('{{tool add {"a": 1}}}')

    assert answer.tool_calls[0]["args"] == {"a": 1}


async def test_history_is_repaired_before_the_call(model: TongyiChat, fake: FakeTongyi):
    broken = AIMessage("", tool_calls=[{"name": "add", "args": {}, "id": "lost"}])

    answer = await model.ainvoke([HumanMessage("one"), broken, HumanMessage("two")])

    assert answer.text == "answer 2: two"
    assert fake.refused == []


async def test_nothing_to_answer_is_said_without_asking_the_service(model: TongyiChat, fake: FakeTongyi):
    with pytest.raises(ModelMisused) as caught:
        await model.ainvoke([HumanMessage("  ")])

    assert "send one" in caught.value.sentence
    assert fake.paths == []


async def test_cancelled_turn_lets_go_of_the_connection(model: TongyiChat, fake: FakeTongyi):
    fake.queue.append(Answer(text="a long answer " * 10, hang_at=4))
    turn = asyncio.create_task(model.ainvoke("hello"))
    await asyncio.wait_for(fake.writing.wait(), 45)

    turn.cancel()

    with pytest.raises(asyncio.CancelledError):
        await turn
    await asyncio.wait_for(fake.disconnected.wait(), 45)


async def test_stream_that_nobody_reads_on_lets_go_of_the_connection(model: TongyiChat, fake: FakeTongyi):
    fake.queue.append(Answer(text="a long answer " * 10, hang_at=4))
    stream = model.astream("hello")
    await anext(stream)

    await stream.aclose()

    await asyncio.wait_for(fake.disconnected.wait(), 45)


async def test_many_answers_at_once_share_one_client(model: TongyiChat):
    answers = await asyncio.gather(*(model.ainvoke(f"{{{{say {number}}}}}") for number in range(40)))

    assert [answer.text for answer in answers] == [str(number) for number in range(40)]


async def test_closed_model_can_be_used_again(model: TongyiChat):
    await model.ainvoke("one")
    await model.aclose()

    assert (await model.ainvoke("two")).text == "answer 1: two"


async def test_synchronous_call_has_connections_of_its_own(model: TongyiChat):
    await model.ainvoke("one")

    answer = await asyncio.to_thread(model.invoke, "two")

    assert answer.text == "answer 1: two"
    assert (await model.ainvoke("three")).text == "answer 1: three"


async def test_environment_of_the_sdk_decides_nothing(
    build: Build, fake: FakeTongyi, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
):
    (tmp_path / "config.toml").write_text('workspace = "someone-elses"\n')
    monkeypatch.setenv("DASHSCOPE_CONFIG", str(tmp_path / "config.toml"))
    monkeypatch.setenv("DASHSCOPE_API_KEY", "sk-fake-other-key")
    monkeypatch.setenv("DASHSCOPE_BASE_URL", "http://127.0.0.1:9/nowhere")
    monkeypatch.setenv("DASHSCOPE_PROTOCOL", "openai")
    monkeypatch.setenv("DASHSCOPE_TIMEOUT", "0.0001")

    answer = await build().ainvoke("{{say still here}}")

    assert answer.text == "still here"


def test_sdk_is_not_imported_before_it_is_needed():
    script = "import sys, agent.models; sys.exit('dashscope' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


async def test_key_is_in_no_representation(build: Build, fake: FakeTongyi):
    model = build()
    await model.ainvoke("hello")

    assert fake.api_key not in repr(model) + str(model._identifying_params) + str(model.model_dump())


async def test_silence_longer_than_the_timeout_ends_the_call(build: Build, fake: FakeTongyi):
    fake.queue.extend([Answer(text="never", hang_at=0), Answer(text="some text, then nothing", hang_at=2)])
    model = build(timeout=0.1)

    for _ in range(2):
        with pytest.raises(ModelUnavailable) as caught:
            await model.ainvoke("hello")
        assert "in time" in caught.value.sentence
    assert len(fake.requests) == 2
