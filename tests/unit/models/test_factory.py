"""Which model the settings mean, and whether it answers."""

import pytest
from pydantic import SecretStr

from agent.models import ModelKeyRejected, build_model, probe
from agent.models.demo import DemoModel
from agent.models.tongyi import TongyiChat
from tests.fakes.tongyi import FakeTongyi


@pytest.mark.parametrize("key", [None, SecretStr(""), SecretStr("  ")])
async def test_without_a_key_the_demo_answers(key: SecretStr | None):
    model = build_model(api_key=key, model_name="qwen-plus", base_url=None)

    await probe(model)

    assert isinstance(model, DemoModel)


async def test_with_a_key_the_service_is_asked_at_the_base_url_for_one_token(fake: FakeTongyi):
    model = build_model(api_key=SecretStr(f" {fake.api_key}\n"), model_name="qwen-plus", base_url=f"{fake.base_url}/")
    assert isinstance(model, TongyiChat)

    await probe(model)

    await model.aclose()
    assert fake.requests[0]["parameters"]["max_tokens"] == 1


async def test_probe_raises_why_the_model_cannot_answer(fake: FakeTongyi):
    model = build_model(api_key=SecretStr("sk-wrong-fake-key"), model_name="qwen-plus", base_url=fake.base_url)
    assert isinstance(model, TongyiChat)

    with pytest.raises(ModelKeyRejected):
        await probe(model)

    await model.aclose()
