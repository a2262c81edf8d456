"""The Bolt app: signatures, authorization, and an ack for whatever nobody listens to."""

import re
import secrets
from typing import TYPE_CHECKING

import structlog
from slack_bolt.async_app import AsyncApp
from slack_bolt.context.ack.async_ack import AsyncAck
from slack_bolt.response import BoltResponse

from bot.client import web_client
from bot.errands import Errands
from bot.ingress import build_ingress

if TYPE_CHECKING:
    from agent.service import AgentService

log = structlog.get_logger()

_ANYTHING = re.compile(".*")


def build_bolt(
    service: "AgentService", *, token: str, signing_secret: str | None, api_url: str, errands: Errands
) -> AsyncApp:
    """Return the app. Without a signing secret (Socket Mode) no HTTP request passes for one of Slack's."""
    client = web_client(token, api_url)
    app = AsyncApp(
        name="opsagent",
        client=client,
        signing_secret=signing_secret or secrets.token_hex(32),
        process_before_response=True,
        before_authorize=build_ingress(service, client, errands),
        ignoring_self_events_enabled=True,
    )
    # Slack shows people an error for whatever is not acked, and Bolt answers 404 where nothing matches.
    app.event(_ANYTHING)(_acked)
    for listen in (app.action, app.command, app.shortcut, app.view, app.view_closed, app.options):
        listen(_ANYTHING)(_acked)
    app.error(_failed)
    return app


async def _acked(ack: AsyncAck) -> None:
    await ack()


async def _failed(error: Exception) -> BoltResponse:
    log.error("slack.request_failed", error=type(error).__name__, exc_info=error)
    return BoltResponse(status=500, body="")
