"""What calls gave to people, into their thread: tables as messages, files and long texts as uploads."""

from typing import TYPE_CHECKING, Any
from uuid import UUID

import structlog

from agent.approvals.types import ExecutionStatus
from agent.errors import NotFound
from agent.tools.attachments import Kind, Shown, clean_name
from agent.tools.tables import Table
from agent.types import Event
from bot.client import NoSuchPlace, Unfit
from bot.payloads import Place
from bot.posting import Poster
from bot.views.notice import notice
from bot.views.result import is_cut, table_message, text_message

if TYPE_CHECKING:
    from agent.service import AgentService

log = structlog.get_logger()

_RAN = (ExecutionStatus.SUCCEEDED, ExecutionStatus.FAILED)


class Results:
    """Shows what one `execution.finished` tells of; doing it again changes nothing."""

    def __init__(self, service: "AgentService", poster: Poster) -> None:
        self._service = service
        self._poster = poster

    async def show(self, place: Place, event: Event) -> None:
        """Raises TryLater; what Slack does not take is said in the thread and passed over."""
        data = event.data
        given: list[dict[str, Any]] = data.get("attachments") or []
        for one in given:
            await self._passing(event, self._attachment(place, event, UUID(one["attachment_id"])))
        # A table that leaves rows out comes with the text.
        if data.get("approval_id") and not any(one["kind"] in (Kind.TEXT, Kind.TABLE) for one in given):
            await self._passing(event, self._rest(place, event, UUID(str(data["approval_id"]))))

    async def _passing(self, event: Event, showing: Any) -> None:
        try:
            await showing
        except (NoSuchPlace, Unfit) as error:
            log.error("result.undeliverable", session_id=str(event.session_id), seq=event.seq, reason=str(error))
        except NotFound as error:
            log.info("result.not_shown", session_id=str(event.session_id), seq=event.seq, code=error.code)

    async def _attachment(self, place: Place, event: Event, attachment_id: UUID) -> None:
        shown, content = await self._service.read_attachment(event.session_id, attachment_id, by=None)
        if shown.kind is Kind.TABLE:
            await self._table(place, event, shown, Table.of_json(content))
        elif shown.kind is Kind.TEXT and not is_cut(text := content.decode("utf-8", "replace")):
            message = text_message(str(event.data["tool_name"]), text)
            await self._poster.post(event.session_id, place, f"result:{attachment_id}", message)
        else:
            await self._file(place, event, f"result:{attachment_id}", shown.name, content)

    async def _table(self, place: Place, event: Event, shown: Shown, table: Table) -> None:
        key = f"result:{shown.attachment_id}"
        message = table_message(str(event.data["tool_name"]), table)
        if message is not None:
            try:
                await self._poster.post(event.session_id, place, key, message)
            except Unfit as error:
                log.warning("result.table_refused", session_id=str(event.session_id), reason=str(error))
            else:
                return
        await self._file(place, event, f"{key}:csv", f"{shown.name.rpartition('.')[0]}.csv", table.as_csv().encode())

    async def _rest(self, place: Place, event: Event, approval_id: UUID) -> None:
        """The whole text of a call that people decided, where its card has room for the start only."""
        approval = await self._service.read_approval(approval_id, by=None)
        if approval.result is None or approval.execution not in _RAN or not is_cut(approval.result):
            return
        name = clean_name(f"{approval.tool_name}.txt")
        await self._file(place, event, f"result:{approval_id}:text", name, approval.result.encode("utf-8", "replace"))

    async def _file(self, place: Place, event: Event, key: str, name: str, content: bytes) -> None:
        try:
            await self._poster.uploads.share(event.session_id, place, key, filename=name, content=content)
        except Unfit as error:
            log.warning("result.file_refused", session_id=str(event.session_id), name=name, reason=str(error))
            said = f"Slack did not take the file {name} ({error}); it is in the REST API for a week."
            await self._poster.post(event.session_id, place, f"{key}:refused", notice(said))
