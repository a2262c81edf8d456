"""Events into Slack: which message each one posts, updates, or leaves as it is."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING
from uuid import UUID

import structlog

from agent.approvals.types import ApprovalStatus
from agent.errors import Refusal
from agent.types import Event, EventKind
from bot.cards import Cards
from bot.client import NoSuchPlace, Unfit
from bot.payloads import Place
from bot.posting import Poster
from bot.results import Results
from bot.status import ACTIVE, PROCESSING, SUSPENDED, ThreadStatus
from bot.views import news
from bot.views.answer import answer, plain_answer
from bot.views.notice import STOPPED, WAITS, notice
from bot.views.progress import progress
from bot.views.question import question_card

if TYPE_CHECKING:
    from agent.service import AgentService

log = structlog.get_logger()

_CARD = {
    EventKind.APPROVAL_OPENED,
    EventKind.APPROVAL_CHANGED,
    EventKind.GRANT_REVOKED,
    EventKind.EXECUTION_STARTED,
    EventKind.EXECUTION_FINISHED,
}
HAS_SEQUEL = {EventKind.APPROVAL_CHANGED, EventKind.EXECUTION_STARTED}
"""What is followed at once, as a rule, by more about the same card: a decision by its call, a call by its end."""
_NEWS = {
    EventKind.APPROVAL_REASSIGNED,
    EventKind.APPROVAL_REMINDED,
    EventKind.APPROVAL_ESCALATED,
    EventKind.APPROVAL_RESOLVED,
}
_STATUS = {
    EventKind.TURN_STARTED: PROCESSING,
    EventKind.QUESTION_OPENED: SUSPENDED,
    EventKind.QUESTION_SETTLED: PROCESSING,
    EventKind.EXECUTION_STARTED: PROCESSING,
    EventKind.TURN_WAITING: SUSPENDED,
    EventKind.TURN_COMPLETED: ACTIVE,
    EventKind.TURN_FAILED: ACTIVE,
    EventKind.TURN_CANCELLED: ACTIVE,
}
_GOES_ON = {ApprovalStatus.APPROVED, ApprovalStatus.REJECTED, ApprovalStatus.EXPIRED}


def drawings(events: Iterable[Event]) -> dict[int, list[UUID]]:
    """Return which approvals' cards to draw at which `seq` of a batch; at the others nothing is drawn.

    A card is drawn from the rows as they stand: where it is opened, so that it keeps its place, else at the last
    change. Those of one turn are opened together, where the first of them is.
    """
    opened: dict[UUID, int] = {}
    changed: dict[UUID, int] = {}
    firsts: dict[object, int] = {}
    for event in events:
        approval_id = event.data.get("approval_id")
        if event.kind not in _CARD or approval_id is None:
            continue
        if event.kind is EventKind.APPROVAL_OPENED:
            opened[UUID(approval_id)] = firsts.setdefault(event.data.get("turn_id"), event.seq)
        else:
            changed[UUID(approval_id)] = event.seq
    drawn: dict[int, list[UUID]] = defaultdict(list)
    for approval_id, seq in {**changed, **opened}.items():
        drawn[seq].append(approval_id)
    return drawn


class Renderer:
    """Renders one event of a session; doing it again changes nothing."""

    def __init__(self, service: "AgentService", poster: Poster, status: ThreadStatus) -> None:
        self._service = service
        self._poster = poster
        self._status = status
        self._cards = Cards(service, poster)
        self._results = Results(service, poster)

    async def render(self, place: Place, event: Event, *, draws: Sequence[UUID] = ()) -> None:
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
        if event.kind is EventKind.EXECUTION_FINISHED:
            await self._results.show(place, event)
        if (status := _status(event)) is not None:
            self._status.show(place, status)
        if event.kind is EventKind.TOOL_PROGRESS:
            self._status.say(place, progress(event.data))
        elif event.kind is EventKind.EXECUTION_FINISHED:
            self._status.say(place, "")

    async def _render(self, place: Place, event: Event, *, draws: Sequence[UUID]) -> None:
        session_id, data = event.session_id, event.data
        match event.kind:
            case EventKind.TURN_QUEUED:
                await self._queued(session_id, place, event)
            case EventKind.TURN_COMPLETED:
                await self._answer(session_id, place, data["turn_id"], data.get("reply") or "")
            case EventKind.TURN_FAILED:
                await self._poster.post(session_id, place, f"failed:{data['turn_id']}", notice(data["error"]))
            case EventKind.TURN_CANCELLED:
                await self._poster.post(session_id, place, f"cancelled:{data['turn_id']}", notice(STOPPED))
            case EventKind.QUESTION_OPENED | EventKind.QUESTION_SETTLED:
                await self._question(session_id, place, UUID(str(data["question_id"])))
            case kind if kind in _NEWS:
                await self._news(session_id, place, event)
            case _ if draws:
                await self._cards.show(session_id, place, draws)
            case _:
                pass

    async def _queued(self, session_id: UUID, place: Place, event: Event) -> None:
        data = event.data
        if data.get("instead_of"):
            said = news.instead({**data["by"], "chat": data.get("chat")}, data["text"])
            await self._poster.post(session_id, place, f"instead:{data['turn_id']}", said)
        if data.get("waits"):
            await self._poster.post(session_id, place, f"queued:{data['turn_id']}", notice(WAITS))

    async def _news(self, session_id: UUID, place: Place, event: Event) -> None:
        """Tell the thread what befell an approval; what nobody waits for any more is passed over."""
        try:
            approval = await self._service.read_approval(UUID(str(event.data["approval_id"])), by=None)
        except Refusal as error:
            log.info("approval.not_shown", approval_id=event.data["approval_id"], code=error.code)
            return
        said = news.about(event.kind, event.data, approval)
        if said is not None:
            await self._poster.post(session_id, place, f"{event.kind}:{event.seq}", said)

    async def _answer(self, session_id: UUID, place: Place, turn_id: str, reply: str) -> None:
        for i, message in enumerate(answer(reply)):
            key = f"answer:{turn_id}:{i}"
            try:
                await self._poster.post(session_id, place, key, message)
            except Unfit as error:
                log.warning("answer.refused_as_blocks", turn_id=turn_id, part=i, reason=str(error))
                for j, piece in enumerate(plain_answer(message)):
                    await self._poster.post(session_id, place, f"{key}:plain:{j}", piece)

    async def _question(self, session_id: UUID, place: Place, question_id: UUID) -> None:
        try:
            question = await self._service.read_question(question_id, by=None)
        except Refusal as error:
            log.info("question.not_shown", question_id=str(question_id), code=error.code)
            return
        key = f"question:{question_id}"
        await self._poster.show(session_id, place, key, question_card(question), keep=question.is_open)


def _status(event: Event) -> str | None:
    """The thread's status from this event on; a decision sets its turn to work again, until it waits for the next.

    A word on a call of unknown outcome comes after its turn's end: nothing goes on by it.
    """
    if event.kind is EventKind.APPROVAL_CHANGED:
        goes_on = event.data.get("status") in _GOES_ON and "resolution_id" not in event.data
        return PROCESSING if goes_on else None
    return _STATUS.get(event.kind)
