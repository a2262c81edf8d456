"""TongyiChat against the service on a socket: what goes wrong, what is tried again, and what people are told."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from pydantic import SecretStr

from agent.models import (
    ModelError,
    ModelKeyRejected,
    ModelMisused,
    ModelQuota,
    ModelRefusedContent,
    ModelUnavailable,
)
from agent.models.tongyi import TongyiChat
from tests.fakes.tongyi import Answer, Call, FakeTongyi, error
from tests.unit.models.conftest import Build


@pytest.mark.parametrize(
    ("status", "code", "kind", "attempts"),
    [
        (400, "DataInspectionFailed", ModelRefusedContent, 1),
        (401, "InvalidApiKey", ModelKeyRejected, 1),
        (403, "AccessDenied.Unpurchased", ModelKeyRejected, 1),
        (400, "Arrearage", ModelQuota, 1),
        (429, "Throttling.RateQuota", ModelQuota, 3),
        (400, "InvalidParameter", ModelMisused, 1),
        (404, "Model.NotExist", ModelMisused, 1),
        (408, "RequestTimeOut", ModelUnavailable, 3),
        (409, "Odd", ModelUnavailable, 3),
        (500, "InternalError", ModelUnavailable, 3),
        (503, "ServiceUnavailable", ModelUnavailable, 3),
        (504, "GatewayTimeout", ModelUnavailable, 3),
    ],
)
async def test_error_has_its_type_and_only_what_may_pass_is_tried_again(
    build: Build, fake: FakeTongyi, status: int, code: str, kind: type[ModelError], attempts: int
):
    model = build(max_retries=2)

    with pytest.raises(ModelError) as caught:
        await model.ainvoke(f"{{{{error {status} {code}}}}}")

    assert type(caught.value) is kind
    assert caught.value.trouble.status == status
    assert len(fake.requests) == attempts


@pytest.mark.parametrize(("status", "code"), [(429, "Throttling"), (500, "InternalError"), (502, "Odd")])
async def test_stream_opens_after_passing_errors(model: TongyiChat, fake: FakeTongyi, status: int, code: str):
    chunks = [chunk.text async for chunk in model.astream(f"{{{{error {status} {code} 2}}}} {{{{say at last}}}}")]

    assert "".join(chunks) == "at last"
    assert len(fake.requests) == 3


async def test_wait_that_the_service_asks_for_is_honoured(build: Build, fake: FakeTongyi):
    model = build(first_pause=15)
    fake.queue.append(error(429, "Throttling", Retry_After="0"))

    async with asyncio.timeout(45):
        assert (await model.ainvoke("{{say now}}")).text == "now"


async def test_wait_that_is_too_long_is_not_begun(model: TongyiChat, fake: FakeTongyi):
    fake.queue.append(error(429, "Throttling", Retry_After="3600"))

    with pytest.raises(ModelQuota) as caught:
        await model.ainvoke("hello")

    assert caught.value.trouble.retry_after == 3600
    assert len(fake.requests) == 1


@pytest.mark.parametrize("drop_at", [0, 1, 3])
async def test_stream_dropped_before_any_text_is_opened_again(model: TongyiChat, fake: FakeTongyi, drop_at: int):
    fake.queue.append(Answer(text="lost", reasoning="a long thought about it", drop_at=drop_at))

    answer = await model.ainvoke("{{say whole}}")

    assert answer.text == "whole"
    assert "reasoning_content" not in answer.additional_kwargs
    assert len(fake.requests) == 2


async def test_stream_dropped_amid_tool_calls_is_opened_again(model: TongyiChat, fake: FakeTongyi):
    fake.queue.append(Answer(calls=[Call("add", '{"a": 1}', "lost")], drop_at=2))
    fake.queue.append(Answer(calls=[Call("add", '{"a": 1}', "kept")]))

    answer = await model.ainvoke("hello")

    assert [call["id"] for call in answer.tool_calls] == ["kept"]


@pytest.mark.parametrize("trouble", [{"drop_at": 3}, {"end_at": 3}])
async def test_stream_dropped_after_text_is_unavailable(model: TongyiChat, fake: FakeTongyi, trouble: dict[str, int]):
    fake.queue.append(Answer(text="the beginning of a long answer", **trouble))
    said: list[str] = []

    with pytest.raises(ModelUnavailable) as caught:
        said.extend([chunk.text async for chunk in model.astream("hello")])

    assert "broke off" in caught.value.sentence
    assert len(fake.requests) == 1


async def test_error_frame_after_text_has_its_type(model: TongyiChat, fake: FakeTongyi):
    fake.queue.append(Answer(text="something that the filter objects to", error_at=3, code="DataInspectionFailed"))

    with pytest.raises(ModelRefusedContent):
        await model.ainvoke("hello")

    assert len(fake.requests) == 1


async def test_passing_error_frame_before_text_is_tried_again(model: TongyiChat, fake: FakeTongyi):
    fake.queue.append(Answer(text="no", error_at=1, code="Throttling.AllocationQuota"))

    assert (await model.ainvoke("{{say yes}}")).text == "yes"


async def test_plain_answer_of_status_200_with_a_code_is_an_error(model: TongyiChat, fake: FakeTongyi):
    fake.queue.append(Answer(plain=json.dumps({"code": "InvalidApiKey", "message": "no", "request_id": "r"})))

    with pytest.raises(ModelKeyRejected):
        await model.ainvoke("hello")


async def test_url_error_in_a_frame_moves_to_the_other_endpoint(model: TongyiChat, fake: FakeTongyi):
    frame = Answer(error_at=0, code="InvalidParameter", message="url error, please check url!")
    fake.queue.append(frame)

    with pytest.raises(ModelMisused) as caught:
        await model.ainvoke("hello")

    assert fake.paths == ["text-generation", "multimodal-generation"]
    assert "TONGYI_MODEL_NAME" in caught.value.sentence


async def test_wrong_key_is_told_without_the_key(build: Build):
    key = "sk-wrongfakekey0123456789"

    with pytest.raises(ModelKeyRejected) as caught:
        await build(api_key=SecretStr(key)).ainvoke("hello")

    assert caught.value.sentence == "The model service rejected the API key: check TONGYI_API_KEY."
    assert key not in str(caught.value) + caught.value.detail


async def test_key_that_no_header_can_carry_is_rejected(build: Build):
    with pytest.raises(ModelKeyRejected):
        await build(api_key=SecretStr("sk-fake-schlüssel-密钥")).ainvoke("hello")


@pytest.mark.parametrize("base_url", ["http://127.0.0.1:1/api/v1", "no-scheme/api/v1", "http://[bad/api/v1"])
async def test_address_that_does_not_answer_is_named_as_the_setting(build: Build, base_url: str):
    with pytest.raises(ModelError) as caught:
        await build(base_url=base_url, max_retries=0).ainvoke("hello")

    assert "TONGYI_BASE_URL" in caught.value.sentence


@pytest.fixture
async def other_server() -> AsyncIterator[str]:
    async def page(request: web.Request) -> web.Response:
        return web.Response(text="<h1>Welcome</h1>", content_type="text/html")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", page)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/api/v1"
    await runner.cleanup()


async def test_another_server_at_the_address_is_told_apart(build: Build, other_server: str):
    with pytest.raises(ModelMisused) as caught:
        await build(base_url=other_server).ainvoke("hello")

    assert "TONGYI_BASE_URL" in caught.value.sentence


async def test_frame_that_is_not_json_is_unavailable(build: Build, fake: FakeTongyi):
    async def garbage(request: web.Request) -> web.Response:
        return web.Response(text="data:{not json\n\n", content_type="text/event-stream")

    app = web.Application()
    app.router.add_post("/{path:.*}", garbage)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()

    with pytest.raises(ModelUnavailable) as caught:
        await build(base_url=f"http://127.0.0.1:{runner.addresses[0][1]}/api/v1", max_retries=0).ainvoke("hello")

    await runner.cleanup()
    assert "can't be read" in caught.value.sentence
