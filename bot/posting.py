"""Posts that are made once: intended before, recorded after, looked for where nobody knows whether they were made."""

import asyncio
from typing import TYPE_CHECKING, Any
from uuid import UUID

import structlog
from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient
from slack_sdk.web.async_slack_response import AsyncSlackResponse

from bot.client import FAILURES, Unclear, code_of, meaning, web_client
from bot.payloads import Place
from bot.uploads import Uploader
from bot.views.blocks import Rendered

if TYPE_CHECKING:
    from agent.service import AgentService

log = structlog.get_logger()

METADATA_EVENT = "opsagent_post"
_PAGE = 200
_WAITS = (0.3, 1.0)

Ref = dict[str, Any]


class Poster:
    """Posts and updates messages for a session; each has a key, under which it is posted at most once."""

    def __init__(self, service: "AgentService", client: AsyncWebClient) -> None:
        self._service = service
        self._client = client
        # chat.postMessage is not idempotent: this client never repeats a call whose effect is unknown.
        self._once = web_client(client.token, client.base_url, repeats=False)
        self.uploads = Uploader(service, self._client, self._once)

    @property
    def clients(self) -> tuple[AsyncWebClient, AsyncWebClient]:
        return self._client, self._once

    async def post(self, session_id: UUID, place: Place, key: str, content: Rendered) -> Ref:
        """Return where the message with this key stands, having posted it if it wasn't there."""
        begun = await self._service.begin_post(session_id, key, content.digest)
        if begun.ref is not None:
            return begun.ref
        ref = await self._find(place, key) if begun.begun_before else None
        # What stands there since before a crash reads as it was meant then.
        digest = begun.digest if ref is not None and begun.digest is not None else content.digest
        if ref is None:
            ref = await self._send(place, key, content)
        await self._service.record_post(session_id, key, ref, digest)
        return ref

    async def show(self, session_id: UUID, place: Place, key: str, content: Rendered, *, keep: bool) -> None:
        """Make the message with this key read like this; where it was deleted, post it again if `keep`."""
        found = await self._service.find_post(session_id, key)
        if found is None or found.ref is None:
            await self.post(session_id, place, key, content)
            found = await self._service.find_post(session_id, key)
        if found is None or found.ref is None or found.digest == content.digest:
            return
        ref = found.ref
        if not await self._update(ref, content) and keep:
            ref = await self.post(session_id, place, f"{key}:after:{ref['ts']}", content)
            # A crash may have left this second message as the card stood then.
            await self._update(ref, content)
        await self._service.record_post(session_id, key, ref, content.digest)

    async def _update(self, ref: Ref, content: Rendered) -> bool:
        """Return False where the message is gone."""
        try:
            await self._client.chat_update(
                channel=ref["channel"], ts=ref["ts"], text=content.text, blocks=list(content.blocks)
            )
        except SlackApiError as error:
            if code_of(error) == "message_not_found":
                return False
            raise meaning(error) from error
        except FAILURES as error:
            raise meaning(error) from error
        return True

    async def _send(self, place: Place, key: str, content: Rendered) -> Ref:
        for wait in _WAITS:
            try:
                return await self._try(place, key, content)
            except Unclear as lost:
                log.info("post.unclear", key=key, reason=str(lost))
            await asyncio.sleep(wait)
            if (ref := await self._find(place, key)) is not None:
                return ref
        return await self._try(place, key, content)

    async def _try(self, place: Place, key: str, content: Rendered) -> Ref:
        try:
            answer = await self._once.chat_postMessage(
                channel=place.channel,
                thread_ts=place.thread_ts,
                text=content.text,
                blocks=list(content.blocks) or None,
                metadata={"event_type": METADATA_EVENT, "event_payload": {"key": key}},
                unfurl_links=False,
                unfurl_media=False,
            )
        except FAILURES as error:
            raise meaning(error) from error
        return {"channel": answer["channel"], "ts": answer["ts"]}

    async def _find(self, place: Place, key: str) -> Ref | None:
        """Return our message with this key, where the thread has it."""
        cursor: str | None = None
        while True:
            page = await self._page(place, cursor)
            for message in page.get("messages") or []:
                if _key_of(message) == key:
                    return {"channel": place.channel, "ts": message["ts"]}
            cursor = (page.get("response_metadata") or {}).get("next_cursor")
            if not cursor:
                return None

    async def _page(self, place: Place, cursor: str | None) -> AsyncSlackResponse:
        try:
            return await self._client.conversations_replies(
                channel=place.channel, ts=place.thread_ts, include_all_metadata=True, limit=_PAGE, cursor=cursor
            )
        except FAILURES as error:
            raise meaning(error) from error


def _key_of(message: dict[str, Any]) -> str | None:
    metadata = message.get("metadata") or {}
    if metadata.get("event_type") != METADATA_EVENT or not message.get("bot_id"):
        return None
    return (metadata.get("event_payload") or {}).get("key")
