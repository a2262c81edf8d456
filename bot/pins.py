"""Cards about changed tools, to each admin in a direct message: posted once, and drawn anew when somebody decided."""

import asyncio
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import aiohttp
import structlog
from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient

from agent.changes import CardState
from bot.client import FAILURES, NoSuchPlace, TryLater, Unfit, code_of, meaning, web_client
from bot.posting import METADATA_EVENT
from bot.views.blocks import Rendered
from bot.views.pin import change_card

if TYPE_CHECKING:
    from agent.changes import ChangeCard
    from agent.service import AgentService

log = structlog.get_logger()

EVERY_S = 2.0
_AT_MOST_S = 40.0
"""For one card: less than its lease."""
_LONGEST_WAIT_S = 300.0
_PAGE = 100
_NOBODY = {"user_not_found", "cannot_dm_bot", "user_disabled", "users_not_found"}

Ref = dict[str, Any]


class ChangeCards:
    """Posts and redraws the cards. Any number may run: each card is leased to one of them."""

    def __init__(self, service: "AgentService", client: AsyncWebClient) -> None:
        self._service = service
        self._client = web_client(client.token, client.base_url)
        self._once = web_client(client.token, client.base_url, repeats=False)
        self._owner = uuid4()

    async def run(self) -> None:
        """Look after the cards until cancelled."""
        timeout = aiohttp.ClientTimeout(total=30)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            self._client.session = self._once.session = session
            while True:
                try:
                    await self._sweep()
                except Exception as error:  # noqa: BLE001 - one sweep: the next comes in seconds
                    log.warning("pin.sweep_failed", error=type(error).__name__)
                await asyncio.sleep(EVERY_S)

    async def _sweep(self) -> None:
        cards = await self._service.lease_change_cards(self._owner)
        await asyncio.gather(*(self._deliver(card) for card in cards))

    async def _deliver(self, card: "ChangeCard") -> None:
        try:
            async with asyncio.timeout(_AT_MOST_S):
                ref = await self._show(card)
        except (NoSuchPlace, Unfit) as error:
            log.error("pin.undeliverable", tool_id=str(card.tool_id), user_id=str(card.user_id), reason=str(error))
            ref = card.ref
        except Exception as error:  # noqa: BLE001 - one delivery: the others go on, and it comes back
            reason = str(error) if isinstance(error, TryLater) else type(error).__name__
            log.info("pin.postponed", tool_id=str(card.tool_id), user_id=str(card.user_id), reason=reason)
            wait = min(_LONGEST_WAIT_S, 2.0 ** min(card.attempts, 9))
            await self._service.retry_change_card(card, self._owner, after_s=wait)
            return
        await self._service.record_change_card(card, self._owner, ref)

    async def _show(self, card: "ChangeCard") -> Ref | None:
        content = change_card(card)
        ref = card.ref
        if ref is None:
            channel = await self._channel(card.chat_user)
            key = f"pin:{card.tool_id}:{card.schema_hash}"
            ref = await self._find(channel, key) if card.begun_before else None
            if ref is None and card.state not in (CardState.OPEN, CardState.KEPT):
                return None  # decided before the card was there: nobody needs it any more
            if ref is None:
                return await self._post(channel, key, content)
        await self._update(ref, content)
        return ref

    async def _channel(self, user: str) -> str:
        try:
            answer = await self._client.conversations_open(users=user)
        except SlackApiError as error:
            if code_of(error) in _NOBODY:
                raise NoSuchPlace(code_of(error)) from error
            raise meaning(error) from error
        except FAILURES as error:
            raise meaning(error) from error
        return str((answer.get("channel") or {})["id"])

    async def _post(self, channel: str, key: str, content: Rendered) -> Ref:
        try:
            answer = await self._once.chat_postMessage(
                channel=channel,
                text=content.text,
                blocks=list(content.blocks),
                metadata={"event_type": METADATA_EVENT, "event_payload": {"key": key}},
                unfurl_links=False,
                unfurl_media=False,
            )
        except FAILURES as error:
            raise meaning(error) from error
        return {"channel": answer["channel"], "ts": answer["ts"]}

    async def _update(self, ref: Ref, content: Rendered) -> None:
        try:
            await self._client.chat_update(
                channel=ref["channel"], ts=ref["ts"], text=content.text, blocks=list(content.blocks)
            )
        except SlackApiError as error:
            if code_of(error) != "message_not_found":  # an admin who deleted the card has seen it
                raise meaning(error) from error
        except FAILURES as error:
            raise meaning(error) from error

    async def _find(self, channel: str, key: str) -> Ref | None:
        """Return our message with this key among the newest of the direct messages."""
        try:
            page = await self._client.conversations_history(channel=channel, include_all_metadata=True, limit=_PAGE)
        except FAILURES as error:
            raise meaning(error) from error
        messages: list[dict[str, Any]] = page.get("messages") or []
        found = next((message for message in messages if _key_of(message) == key), None)
        return {"channel": channel, "ts": found["ts"]} if found else None


def _key_of(message: dict[str, Any]) -> str | None:
    metadata = message.get("metadata") or {}
    if metadata.get("event_type") != METADATA_EVENT or not message.get("bot_id"):
        return None
    return (metadata.get("event_payload") or {}).get("key")
