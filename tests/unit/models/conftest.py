"""A fake service, and models that talk to it."""

from collections.abc import AsyncIterator, Callable

import pytest
from pydantic import SecretStr

from agent.models import service
from agent.models.tongyi import TongyiChat
from tests.fakes.tongyi import FakeTongyi

Build = Callable[..., TongyiChat]


@pytest.fixture
async def fake() -> AsyncIterator[FakeTongyi]:
    async with FakeTongyi() as fake:
        yield fake


@pytest.fixture
async def build(fake: FakeTongyi) -> AsyncIterator[Build]:
    models: list[TongyiChat] = []

    def build(**settings: object) -> TongyiChat:
        known: dict[str, object] = {
            "model_name": "qwen-plus",
            "api_key": SecretStr(fake.api_key),
            "base_url": fake.base_url,
            "timeout": 10,
            "first_pause": 0.001,
        }
        models.append(TongyiChat(**{**known, **settings}))
        return models[-1]

    yield build
    for model in models:
        await model.aclose()


@pytest.fixture
def model(build: Build) -> TongyiChat:
    return build()


@pytest.fixture(autouse=True)
def _nothing_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "_MULTIMODAL", {})
