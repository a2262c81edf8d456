"""Tokens, sockets and directories, against a Slack that says no or nothing."""

import asyncio
import contextlib
import json

import httpx
import pytest
from slack_bolt.async_app import AsyncBoltRequest
from starlette.applications import Starlette
from starlette.routing import Route

from agent.ports import DirectoryUnavailable
from bot import check, socket
from bot.bolt import build_bolt
from bot.check import NEEDED_SCOPES, SlackTokenRejected, SlackUnreachable, probe
from bot.client import web_client
from bot.directory import SlackCourier, SlackGroups, SlackProfiles
from bot.errands import Errands
from bot.http import SlackEndpoint
from tests.fakes.slack import ALICE, BOB, BOT_USER, CAROL, GUEST, SRE, STRANGER, TEAM
from tests.fakes.slack_workspace import OPS


@pytest.fixture
def client(slack):
    return web_client(slack.bot_token, slack.api_url)


async def test_a_good_token_tells_who_it_is_and_what_it_lacks(slack):
    slack.scopes = set(NEEDED_SCOPES - {"files:write"})
    found = await probe(slack.bot_token, slack.api_url)
    assert (found.team_id, found.bot_user) == (TEAM, BOT_USER)
    assert found.missing_scopes == ["files:write"]


async def test_a_wrong_token_is_rejected_without_showing_it(slack):
    with pytest.raises(SlackTokenRejected) as refused:
        await probe("xoxb-fake-and-wrong", slack.api_url)
    assert "SLACK_BOT_TOKEN" in str(refused.value)
    assert "xoxb-fake-and-wrong" not in str(refused.value)


async def test_a_slack_that_is_not_there_is_unreachable():
    with pytest.raises(SlackUnreachable, match="SLACK_API_URL"):
        await probe("xoxb-fake-not-a-token", "http://127.0.0.1:9/api/")


async def test_a_slack_that_does_not_answer_in_time_is_unreachable(slack, mocker):
    mocker.patch.object(check, "_TIMEOUT_S", 0.05)
    slack.slow["auth.test"] = 2
    with pytest.raises(SlackUnreachable):
        await probe(slack.bot_token, slack.api_url)


async def test_a_groups_members_are_read_from_slack(client):
    assert await SlackGroups(client).members(SRE) == [BOB, CAROL]


async def test_a_channels_members_are_read_page_by_page(slack, client, mocker):
    mocker.patch("bot.directory._MEMBERS_A_PAGE", 2)
    found = await SlackGroups(client).members(f"channel:{OPS}")
    assert sorted(found) == sorted(slack.channels[OPS]["members"])
    assert sum(call.method == "conversations.members" for call in slack.calls) == (len(found) + 1) // 2 > 1


async def test_a_channel_that_the_bot_can_not_see_has_no_members(client):
    assert await SlackGroups(client).members("channel:C0NOBODY") == []


async def test_a_group_that_does_not_exist_has_no_members(client):
    assert await SlackGroups(client).members("S0NOBODY") == []


@pytest.mark.parametrize("trouble", ["down", "slow", "scope"])
async def test_a_directory_that_cannot_be_asked_says_so(slack, client, mocker, trouble):
    mocker.patch("bot.directory._TIMEOUT_S", 0.3)
    if trouble == "scope":
        slack.scopes = {"chat:write"}
    for method in ("usergroups.users.list", "users.info", "conversations.members"):
        slack.down[method] = 1 if trouble == "down" else 0
        slack.slow[method] = 2.0 if trouble == "slow" else 0.0
    with pytest.raises(DirectoryUnavailable, match="try again"):
        await SlackGroups(client).members(SRE)
    with pytest.raises(DirectoryUnavailable, match="try again"):
        await SlackGroups(client).members(f"channel:{OPS}")
    with pytest.raises(DirectoryUnavailable, match="try again"):
        await SlackProfiles(client).profile(TEAM, ALICE)


async def test_a_profile_tells_members_from_guests_and_strangers(client):
    profiles = SlackProfiles(client)
    alice = await profiles.profile(TEAM, ALICE)
    assert (alice.display_name, alice.email, alice.is_guest, alice.is_bot) == (
        "alice",
        "alice@example.com",
        False,
        False,
    )
    assert (await profiles.profile(TEAM, GUEST)).is_guest
    assert (await profiles.profile(TEAM, STRANGER)).is_guest
    assert (await profiles.profile(TEAM, BOT_USER)).is_bot
    assert (await profiles.profile(TEAM, "U0NOBODY")).is_guest


async def test_a_courier_writes_to_one_person_and_nothing_in_it_is_alive(slack, client):
    await SlackCourier(client).send(TEAM, ALICE, "Approved: <!channel> & more")
    (message,) = slack.messages[slack.dm(ALICE)]
    assert slack.rendered(message) == "Approved: <!channel> & more"
    assert slack.pings(message) == []


@pytest.fixture
async def over_http(slack, service):
    app = build_bolt(
        service, token=slack.bot_token, signing_secret=slack.signing_secret, api_url=slack.api_url, errands=Errands()
    )
    site = Starlette(routes=[Route("/slack/events", SlackEndpoint(app).handle, methods=["POST"])])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(site), base_url="http://opsagent.example") as http:
        yield http


def direct_message(slack):
    event = {
        "type": "message",
        "user": ALICE,
        "text": "hi",
        "ts": "1.1",
        "channel": slack.dm(ALICE),
        "channel_type": "im",
    }
    return json.dumps(slack.event_body({**event, "team": TEAM}))


async def test_a_signed_request_over_http_is_stored_and_answered(slack, service, over_http):
    body = direct_message(slack)
    headers = {"Content-Type": "application/json", **slack.sign(body)}
    assert (await over_http.post("/slack/events", content=body, headers=headers)).status_code == 200
    assert [s.text for s in service.submitted] == ["hi"]


async def test_an_unsigned_request_over_http_is_401(slack, service, over_http):
    answer = await over_http.post("/slack/events", content=direct_message(slack))
    assert answer.status_code == 401
    assert service.submitted == []


async def test_a_body_no_slack_would_send_is_not_read(over_http):
    assert (await over_http.post("/slack/events", content=b"x" * 4_000_001)).status_code == 413


async def test_without_a_signing_secret_nothing_over_http_is_slacks(slack, service):
    app = build_bolt(service, token=slack.bot_token, signing_secret=None, api_url=slack.api_url, errands=Errands())
    body = direct_message(slack)
    for secret in ("", "None"):
        request = AsyncBoltRequest(body=body, headers=slack.sign(body, secret=secret))
        assert (await app.async_dispatch(request)).status == 401


@pytest.fixture
async def connected(slack, service, mocker):
    mocker.patch.object(socket, "PING_S", 0.2)
    errands = Errands()
    app = build_bolt(service, token=slack.bot_token, signing_secret=None, api_url=slack.api_url, errands=errands)
    running = asyncio.create_task(socket.run(app, slack.app_token))
    await slack.connected()
    yield running
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    await errands.drain()


async def test_a_socket_carries_messages_and_acks(slack, service, connected):
    await slack.say(ALICE, "hello")
    await slack.settled()
    assert [s.text for s in service.submitted] == ["hello"]
    assert slack.failures == []


async def test_an_envelope_that_could_not_be_stored_is_not_acked(slack, service, connected):
    slack.ack_timeout_s, slack.retry_delays_s = 0.3, (0.05,)
    service.down = True
    await slack.say(ALICE, "hello", channel=slack.dm(ALICE))
    await slack.until(lambda: slack.failures)
    service.down = False
    await slack.settled()
    assert [s.text for s in service.submitted] == ["hello"]


async def test_a_dropped_connection_is_opened_again(slack, connected):
    await slack.disconnect()
    await slack.connected()
    await slack.disconnect(politely=True)
    await slack.connected()


async def test_closing_leaves_no_connection(slack, connected):
    connected.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await connected
    await slack.until(lambda: not slack.sockets)


async def test_a_wrong_app_token_is_one_sentence(slack, service):
    app = build_bolt(service, token=slack.bot_token, signing_secret=None, api_url=slack.api_url, errands=Errands())
    with pytest.raises(SlackTokenRejected, match="SLACK_APP_TOKEN"):
        await socket.run(app, "xapp-fake-and-wrong")


async def test_a_slack_that_is_away_at_the_start_is_asked_again(slack, service, mocker):
    mocker.patch("bot.socket.asyncio.sleep", new=mocker.AsyncMock())
    slack.down["apps.connections.open"] = 9
    app = build_bolt(service, token=slack.bot_token, signing_secret=None, api_url=slack.api_url, errands=Errands())
    assert (await socket._first_url(app, slack.app_token)).startswith("ws://")


async def test_errands_are_waited_for_and_a_failing_one_harms_nobody():
    errands = Errands()
    done = []

    async def good():
        await asyncio.sleep(0.01)
        done.append("good")

    async def bad():
        raise ValueError("no")

    errands.run(bad())
    errands.run(good())
    await errands.drain()
    assert done == ["good"]
