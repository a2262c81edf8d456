"""A fake Slack, a service in memory, and the real Bolt app between them."""

from collections.abc import AsyncIterator

import pytest

from tests.fakes.service import FakeService
from tests.fakes.slack import FakeSlack
from tests.fakes.slack_door import Door, open_door


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
async def slack() -> AsyncIterator[FakeSlack]:
    async with FakeSlack() as fake:
        yield fake


@pytest.fixture
async def door(slack: FakeSlack, service: FakeService) -> AsyncIterator[Door]:
    """The Bolt app on a loopback port, and the fake Slack posting signed requests to it."""
    async with open_door(slack, service) as door:
        yield door
