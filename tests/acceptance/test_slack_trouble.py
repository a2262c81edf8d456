"""When Slack refuses, loses answers, or the product dies half-way through a post: everything is said once."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from aiohttp import web

from tests.acceptance.world import World, cloned
from tests.fakes.slack import ALICE, BOB, OPS, FakeSlack

pytestmark = pytest.mark.asyncio(loop_scope="module")
POST = "chat.postMessage"


class HoldingSlack(FakeSlack):
    """Where `held` is set, a post has its effect and its answer never leaves."""

    held = False

    async def serve_api(self, request: web.Request) -> web.Response:
        answer = await super().serve_api(request)
        if self.held and request.match_info["method"] == POST:
            await asyncio.Event().wait()
        return answer


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(server: str, template: str) -> AsyncIterator[World]:
    async with cloned(server, template) as dsn, World(dsn, workspace=HoldingSlack) as world:
        yield world


async def test_an_answer_that_slack_throttles_comes_once_after_the_time_that_slack_named(world: World) -> None:
    slack = world.slack
    slack.throttle[POST] = [1.0]
    asked = await slack.say(ALICE, "throttled")
    await slack.bot_message(OPS, asked["ts"], containing="answer 1: throttled")
    refused, posted = [c for c in slack.called(POST) if c.args["thread_ts"] == asked["ts"]]
    assert refused.error == "ratelimited"
    assert posted.error is None
    assert posted.at - refused.at >= 1.0


async def test_an_answer_comes_once_though_slack_fails_twice(world: World) -> None:
    slack = world.slack
    slack.down[POST] = 2
    asked = await slack.say(ALICE, "through failures")
    await slack.bot_message(OPS, asked["ts"], containing="answer 1: through failures", timeout=45)
    await answered_again(world, asked["ts"])
    assert len(slack.bot_says(OPS, asked["ts"])) == 2


async def test_a_post_whose_answer_was_lost_is_found_and_not_made_again(world: World) -> None:
    slack = world.slack
    slack.drop_response_after[POST] = 1
    asked = await slack.say(ALICE, "lost")
    await slack.bot_message(OPS, asked["ts"], containing="answer 1: lost")
    await answered_again(world, asked["ts"])
    assert len(slack.bot_says(OPS, asked["ts"])) == 2


async def answered_again(world: World, root: str) -> None:
    """Once the next answer stands there, everything before it is settled: a thread is rendered in order."""
    await world.slack.say(ALICE, "and again", thread_ts=root)
    await world.slack.bot_message(OPS, root, containing="answer 2: and again", timeout=45)


async def test_posts_that_a_kill_cut_off_from_their_record_are_not_made_again(world: World) -> None:
    slack = world.slack
    assert isinstance(slack, HoldingSlack)
    slack.held = True
    answered = await slack.say(ALICE, "before the cut")
    waiting = await slack.say(ALICE, '{{tool restart {"service": "web"}}}')
    await slack.bot_message(OPS, answered["ts"], containing="before the cut")
    card = await slack.card(OPS, waiting["ts"])

    world.product.kill()
    slack.held = False
    await world.run()

    await slack.click(BOB, OPS, card, "approval_approve")
    # The dead presenter's lease on a thread runs out first.
    await slack.bot_message(OPS, waiting["ts"], containing="tools said: restarted web", timeout=45)
    await slack.say(ALICE, "and again", thread_ts=answered["ts"])
    await slack.bot_message(OPS, answered["ts"], containing="answer 2: and again", timeout=45)
    assert len(slack.bot_says(OPS, answered["ts"])) == 2
    assert len(slack.bot_says(OPS, waiting["ts"])) == 2
    assert world.probe.count("restart") == 1
    shown = slack.find(OPS, card["ts"])
    assert shown is not None
    assert "Approved by" in slack.rendered(shown)


async def test_a_start_while_slack_is_down_is_ready_says_so_and_connects_later(world: World) -> None:
    slack = world.slack
    assert await world.product.stop() == 0
    slack.auth_test_broken = True
    slack.down["apps.connections.open"] = 5
    await world.run()
    try:
        ready = (await world.product.http.get("/readyz")).json()
        assert "SLACK_API_URL" in ready["parts"]["slack"]
        asked = await slack.say(ALICE, "late, but there")
        await slack.bot_message(OPS, asked["ts"], containing="answer 1: late, but there")
    finally:
        slack.auth_test_broken = False
