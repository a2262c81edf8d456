"""Web API clients, and what an error of Slack's means for whoever called."""

import asyncio
from typing import Any

import aiohttp
from slack_sdk.errors import SlackApiError, SlackClientError
from slack_sdk.http_retry.builtin_async_handlers import (
    AsyncConnectionErrorRetryHandler,
    AsyncRateLimitErrorRetryHandler,
    AsyncServerErrorRetryHandler,
)
from slack_sdk.web.async_client import AsyncWebClient

LOST = (aiohttp.ClientError, asyncio.TimeoutError, ConnectionError)
"""The answer never came: whether the call had its effect is unknown."""

TOKEN_REJECTED = {
    "invalid_auth",
    "not_authed",
    "account_inactive",
    "token_revoked",
    "token_expired",
    "not_allowed_token_type",
}
_LATER = TOKEN_REJECTED | {
    "ratelimited",
    "rate_limited",
    "accesslimited",
    "internal_error",
    "fatal_error",
    "service_unavailable",
    "request_timeout",
    "team_added_to_org",
    "org_login_required",
    "missing_scope",
}
_NO_SUCH_PLACE = {
    "channel_not_found",
    "not_in_channel",
    "is_archived",
    "thread_not_found",
    "cannot_reply_to_message",
    "user_not_in_channel",
    "messages_tab_disabled",
    "no_permission",
    "restricted_action",
    "restricted_action_read_only_channel",
    "restricted_action_thread_only_channel",
    "restricted_action_non_threadable_channel",
    "restricted_action_thread_locked",
    "team_access_not_granted",
    "ekm_access_denied",
}


class TryLater(Exception):
    """Slack can't take it now; nothing is lost by coming back."""


class Unclear(TryLater):
    """The call may have had its effect: look before making it again."""


class NoSuchPlace(Exception):
    """Nothing can be posted there any more."""


class Unfit(Exception):
    """Slack refuses this content, and would again."""


def web_client(token: str | None, api_url: str, *, repeats: bool = True) -> AsyncWebClient:
    """Return a client that waits out rate limits; `repeats` also repeats calls whose effect is unknown."""
    handlers: list[Any] = [AsyncRateLimitErrorRetryHandler(max_retry_count=5)]
    if repeats:
        handlers.append(AsyncServerErrorRetryHandler(max_retry_count=3))
        handlers.append(AsyncConnectionErrorRetryHandler(max_retry_count=2))
    return AsyncWebClient(token=token, base_url=api_url, retry_handlers=handlers)


def code_of(error: SlackApiError) -> str:
    """Return Slack's own word for the error, or the HTTP status."""
    data = getattr(error.response, "data", None)
    named = data.get("error") if isinstance(data, dict) else None
    return str(named) if named else f"http_{status_of(error)}"


def status_of(error: SlackApiError) -> int:
    """Return the HTTP status of the answer."""
    found = getattr(error.response, "status_code", None) or getattr(error.response, "status", None)
    return int(found or 0)


def meaning(error: Exception) -> Exception:
    """Return the error as one of TryLater, Unclear, NoSuchPlace, Unfit."""
    if not isinstance(error, SlackApiError):
        return Unclear(type(error).__name__)
    code = code_of(error)
    if code in _NO_SUCH_PLACE:
        return NoSuchPlace(code)
    if status_of(error) == 429 or code in _LATER:
        return TryLater(code)
    if status_of(error) != 200:
        return Unclear(code)
    return Unfit(code)


FAILURES = (SlackClientError, *LOST)
"""All that a Web API call may raise."""
