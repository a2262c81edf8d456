"""Files that are shared once: under an id that Slack gives before anybody sees them, and by which they are found."""

from typing import TYPE_CHECKING, Any
from uuid import UUID

from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient

from bot.client import FAILURES, Unclear, Unfit, code_of, meaning
from bot.payloads import Place

if TYPE_CHECKING:
    from agent.service import AgentService

_PAGE = 200
_NOT_FOUND = {"file_not_found", "file_deleted"}


class Uploader:
    """Shares files in a session's thread; each has a key, under which it is shared at most once.

    The file's id is stored after its bytes are with Slack and before it is shared. Whoever comes back after a crash
    looks for that id in the thread, and shares the same file again only where it isn't there.
    """

    def __init__(self, service: "AgentService", client: AsyncWebClient, once: AsyncWebClient) -> None:
        self._service = service
        self._client = client
        self._once = once

    async def share(self, session_id: UUID, place: Place, key: str, *, filename: str, content: bytes) -> None:
        """Have the file in the thread. Raises TryLater, NoSuchPlace or Unfit."""
        begun = await self._service.begin_post(session_id, key, "")
        ref = begun.ref or {}
        if "file" in ref:
            return
        again = "sharing" in ref
        if again:
            file_id = str(ref["sharing"])
            shared = await self._is_shared(place, file_id)
        else:
            file_id, shared = await self._bring(filename, content), False
            await self._service.record_post(session_id, key, {"sharing": file_id}, "")
        if not shared:
            await self._show(place, file_id, filename, again=again)
        await self._service.record_post(session_id, key, {"file": file_id}, "")

    async def _bring(self, filename: str, content: bytes) -> str:
        """Hand Slack the bytes; nobody sees them yet."""
        try:
            given = await self._client.files_getUploadURLExternal(filename=filename, length=len(content))
            assert self._client.session is not None
            url, proxy = str(given["upload_url"]), self._client.proxy
            async with self._client.session.post(url, data=content, proxy=proxy) as answer:
                if answer.status != 200:
                    refused = 400 <= answer.status < 500 and answer.status not in (408, 429)
                    raise (Unfit if refused else Unclear)(f"upload_{answer.status}")
        except FAILURES as error:
            raise meaning(error) from error
        return str(given["file_id"])

    async def _show(self, place: Place, file_id: str, title: str, *, again: bool) -> None:
        try:
            await self._once.files_completeUploadExternal(
                files=[{"id": file_id, "title": title}], channel_id=place.channel, thread_ts=place.thread_ts
            )
        except SlackApiError as error:
            # The one before us has shared it, and the thread doesn't show it yet, or somebody has deleted it.
            if again and code_of(error) in _NOT_FOUND:
                return
            raise meaning(error) from error
        except FAILURES as error:
            raise meaning(error) from error

    async def _is_shared(self, place: Place, file_id: str) -> bool:
        cursor: str | None = None
        while True:
            try:
                page = await self._client.conversations_replies(
                    channel=place.channel, ts=place.thread_ts, limit=_PAGE, cursor=cursor
                )
            except FAILURES as error:
                raise meaning(error) from error
            messages: list[dict[str, Any]] = page.get("messages") or []
            if any(file.get("id") == file_id for message in messages for file in message.get("files") or []):
                return True
            cursor = (page.get("response_metadata") or {}).get("next_cursor")
            if not cursor:
                return False
