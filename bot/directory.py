"""Slack's people and user groups, as the agent asks for them."""

import asyncio
from typing import Any

from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient

from agent.ports import ChatProfile, DirectoryUnavailable
from bot.client import FAILURES, code_of, web_client
from bot.mrkdwn import escape

_UNKNOWN_USER = {"user_not_found", "users_not_found", "user_not_visible"}
_UNKNOWN_GROUP = {"no_such_subteam", "subteam_not_found"}
_UNKNOWN_CHANNEL = {"channel_not_found"}
_CHANNEL = "channel:"
_MEMBERS_A_PAGE = 1_000
# A click waits for this, and Slack waits three seconds for the click's ack.
_TIMEOUT_S = 2.0


class _Asking:
    """Calls that give up in time."""

    def __init__(self, client: AsyncWebClient) -> None:
        self._client = web_client(client.token, client.base_url, repeats=False)


class SlackGroups(_Asking):
    """A GroupDirectory: who is in a Slack user group, or, for `channel:<id>`, in a channel."""

    async def members(self, group_id: str) -> list[str]:
        if group_id.startswith(_CHANNEL):
            return await self._in_channel(group_id.removeprefix(_CHANNEL))
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                answer = await self._client.usergroups_users_list(usergroup=group_id)
        except FAILURES as error:
            if _says(error, _UNKNOWN_GROUP):
                return []
            raise DirectoryUnavailable(_sentence(f"the members of user group {group_id}", error)) from error
        return [str(user) for user in answer.get("users") or []]

    async def _in_channel(self, channel: str) -> list[str]:
        found: list[str] = []
        cursor = ""
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                while True:
                    answer = await self._client.conversations_members(
                        channel=channel, cursor=cursor, limit=_MEMBERS_A_PAGE
                    )
                    found += [str(user) for user in answer.get("members") or []]
                    cursor = str((answer.get("response_metadata") or {}).get("next_cursor") or "")
                    if not cursor:
                        return found
        except FAILURES as error:
            if _says(error, _UNKNOWN_CHANNEL):
                return []
            raise DirectoryUnavailable(_sentence(f"the members of channel {channel}", error)) from error


class SlackProfiles(_Asking):
    """A ProfileDirectory: what Slack says of one person."""

    async def profile(self, team: str, user: str) -> ChatProfile:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                answer = await self._client.users_info(user=user)
        except FAILURES as error:
            if _says(error, _UNKNOWN_USER):
                return ChatProfile(display_name=None, email=None, is_guest=True, is_bot=False, deleted=False)
            raise DirectoryUnavailable(_sentence(f"the profile of {user}", error)) from error
        return _profile(team, answer.get("user") or {})


class SlackCourier(_Asking):
    """A Courier: private messages from the bot."""

    async def send(self, team: str, user: str, text: str) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await self._client.chat_postMessage(
                    channel=user, text=escape(text), mrkdwn=False, unfurl_links=False, unfurl_media=False
                )
        except FAILURES as error:
            raise DirectoryUnavailable(_sentence(f"a message to {user}", error)) from error


def _profile(team: str, found: dict[str, Any]) -> ChatProfile:
    """A guest is whoever is not a full member of this very workspace."""
    shown = found.get("profile") or {}
    limited = any(found.get(flag) for flag in ("is_restricted", "is_ultra_restricted", "is_stranger"))
    elsewhere = found.get("team_id") not in (None, team) and team not in (found.get("enterprise_user") or {}).get(
        "teams", []
    )
    return ChatProfile(
        display_name=shown.get("display_name") or shown.get("real_name") or found.get("name"),
        email=shown.get("email"),
        is_guest=limited or elsewhere,
        is_bot=bool(found.get("is_bot")),
        deleted=bool(found.get("deleted")),
    )


def _says(error: Exception, codes: set[str]) -> bool:
    return isinstance(error, SlackApiError) and code_of(error) in codes


def _sentence(what: str, error: Exception) -> str:
    reason = code_of(error) if isinstance(error, SlackApiError) else type(error).__name__
    return f"Slack could not be asked for {what} ({reason}): try again in a moment."
