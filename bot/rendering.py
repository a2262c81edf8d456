"""Events into Slack: which message each one posts, updates, or leaves as it is."""

from collections.abc import Iterable
from typing import TYPE_CHECKING
from uuid import UUID

import structlog

from agent.approvals.types import Approval
from agent.errors import Refusal
from agent.types import Event, EventKind
from bot.client import NoSuchPlace, Unfit
from bot.payloads import Place
from bot.posting import Poster
from bot.status import ACTIVE, PROCESSING, SUSPENDED, ThreadStatus
from bot.views import arguments
from bot.views.answer import answer, plain_answer
from bot.views.approval import approval_card
from bot.views.arguments import Room
from bot.views.blocks import Rendered
from bot.views.notice import STOPPED, WAITS, notice

if TYPE_CHECKING:
    from agent.service import AgentService

log = structlog.get_logger()

_CARD = {
    EventKind.APPROVAL_OPENED,
    EventKind.APPROVAL_CHANGED,
    EventKind.EXECUTION_STARTED,
    EventKind.EXECUTION_FINISHED,
}
_STATUS = {
    EventKind.TURN_STARTED: PROCESSING,
    EventKind.EXECUTION_STARTED: PROCESSING,
    EventKind.TURN_WAITING: SUSPENDED,
    EventKind.TURN_COMPLETED: ACTIVE,
    EventKind.TURN_FAILED: ACTIVE,
    EventKind.TURN_CANCELLED: ACTIVE,
}


def overtaken(events: Iterable[Event]) -> set[int]:
    """Return the `seq` of each event whose card is drawn by an earlier or later one of the same batch.

    A card is drawn from the row as it stands: where it is opened, so that it keeps its place, else at the last change.
    """
    drawn_by: dict[str, int] = {}
    skipped: set[int] = set()
    opened: set[str] = set()
    for event in events:
        approval_id = event.data.get("approval_id")
        if event.kind not in _CARD or approval_id is None:
            continue
        if approval_id in opened:
            skipped.add(event.seq)
            continue
        if approval_id in drawn_by:
            skipped.add(drawn_by[approval_id])
        if event.kind is EventKind.APPROVAL_OPENED:
            opened.add(approval_id)
        drawn_by[approval_id] = event.seq
    return skipped


class Renderer:
    """Renders one event of a session; doing it again changes nothing."""

    def __init__(self, service: "AgentService", poster: Poster, status: ThreadStatus) -> None:
        self._service = service
        self._poster = poster
        self._status = status

    async def render(self, place: Place, event: Event, *, draws: bool = True) -> None:
        """Show what the event tells. Raises TryLater; what can't be shown at all is logged and passed over."""
        try:
            await self._render(place, event, draws=draws)
        except (NoSuchPlace, Unfit) as error:
            log.error(
                "delivery.undeliverable",
                session_id=str(event.session_id),
                seq=event.seq,
                kind=event.kind,
                reason=str(error),
            )
        if (status := _STATUS.get(event.kind)) is not None:
            self._status.show(place, status)

    async def _render(self, place: Place, event: Event, *, draws: bool) -> None:
        session_id, data = event.session_id, event.data
        match event.kind:
            case EventKind.TURN_QUEUED if data.get("waits"):
                await self._poster.post(session_id, place, f"queued:{data['turn_id']}", notice(WAITS))
            case EventKind.TURN_COMPLETED:
                await self._answer(session_id, place, data["turn_id"], data.get("reply") or "")
            case EventKind.TURN_FAILED:
                await self._poster.post(session_id, place, f"failed:{data['turn_id']}", notice(data["error"]))
            case EventKind.TURN_CANCELLED:
                await self._poster.post(session_id, place, f"cancelled:{data['turn_id']}", notice(STOPPED))
            case kind if kind in _CARD and draws and data.get("approval_id"):
                await self._card(session_id, place, UUID(str(data["approval_id"])))
            case _:
                pass

    async def _answer(self, session_id: UUID, place: Place, turn_id: str, reply: str) -> None:
        for i, message in enumerate(answer(reply)):
            key = f"answer:{turn_id}:{i}"
            try:
                await self._poster.post(session_id, place, key, message)
            except Unfit as error:
                log.warning("answer.refused_as_blocks", turn_id=turn_id, part=i, reason=str(error))
                for j, piece in enumerate(plain_answer(message)):
                    await self._poster.post(session_id, place, f"{key}:plain:{j}", piece)

    async def _card(self, session_id: UUID, place: Place, approval_id: UUID) -> None:
        try:
            approval = await self._service.read_approval(approval_id, by=None)
        except Refusal as error:
            log.info("approval.not_shown", approval_id=str(approval_id), code=error.code)
            return
        room = arguments.room(approval)
        try:
            await self._draw(session_id, place, approval, approval_card(approval, room=room))
        except Unfit as error:
            log.warning("approval.card_refused", approval_id=str(approval_id), reason=str(error))
            smaller = Room.MODAL if room is Room.CARD else Room.FILE
            await self._draw(session_id, place, approval, approval_card(approval, room=smaller))
        if room is Room.FILE and not approval.is_settled:
            await self._file(session_id, place, approval)

    async def _draw(self, session_id: UUID, place: Place, approval: Approval, card: Rendered) -> None:
        keep = not approval.is_settled
        await self._poster.show(session_id, place, f"approval:{approval.approval_id}", card, keep=keep)

    async def _file(self, session_id: UUID, place: Place, approval: Approval) -> None:
        key, text = f"arguments:{approval.approval_id}", arguments.as_text(approval)
        name = f"{approval.tool_name}-arguments.txt"
        try:
            await self._poster.upload(session_id, place, key, filename=name, text=text)
        except Unfit as error:
            log.warning("approval.file_refused", approval_id=str(approval.approval_id), reason=str(error))
