"""Whether Slack takes the bot token, and which scopes it lacks."""

import asyncio
from dataclasses import dataclass

from slack_sdk.errors import SlackApiError

from bot.client import FAILURES, TOKEN_REJECTED, code_of, web_client

NEEDED_SCOPES = frozenset(
    {
        "app_mentions:read",
        "assistant:write",
        "channels:history",
        "channels:read",
        "chat:write",
        "files:write",
        "groups:history",
        "groups:read",
        "im:history",
        "im:write",
        "mpim:history",
        "usergroups:read",
        "users:read",
        "users:read.email",
    }
)
"""The bot scopes of manifest.yml; a test holds them together."""

_TIMEOUT_S = 10.0


class SlackTokenRejected(Exception):
    """Slack doesn't take a token; the message says which, and what to do."""


class SlackUnreachable(Exception):
    """Slack gave no usable answer; the message says what to look at."""


@dataclass(frozen=True, slots=True)
class SlackIdentity:
    """Who the bot token is."""

    team: str
    team_id: str
    bot_user: str
    url: str
    scopes: frozenset[str]

    @property
    def missing_scopes(self) -> list[str]:
        """The scopes to add in the app's settings; empty where Slack named none at all."""
        return sorted(NEEDED_SCOPES - self.scopes) if self.scopes else []


async def probe(token: str, api_url: str) -> SlackIdentity:
    """Return who the token is. Raises SlackTokenRejected or SlackUnreachable."""
    client = web_client(token, api_url, repeats=False)
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            answer = await client.auth_test()
    except FAILURES as error:
        code = code_of(error) if isinstance(error, SlackApiError) else type(error).__name__
        if code in TOKEN_REJECTED:
            raise SlackTokenRejected(
                f"Slack rejects SLACK_BOT_TOKEN ({code}): copy the Bot User OAuth Token from the app's page again."
            ) from error
        raise SlackUnreachable(
            f"Slack does not answer at {api_url} ({code}): check SLACK_API_URL and this machine's network."
        ) from error
    granted = str(answer.headers.get("X-OAuth-Scopes") or answer.headers.get("x-oauth-scopes") or "")
    return SlackIdentity(
        team=str(answer.get("team")),
        team_id=str(answer.get("team_id")),
        bot_user=str(answer.get("user_id")),
        url=str(answer.get("url")),
        scopes=frozenset(s.strip() for s in granted.split(",") if s.strip()),
    )
