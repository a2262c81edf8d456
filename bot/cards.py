"""Which approvals share a card: those of one answer, opened while others of it still wait."""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING
from uuid import UUID

import structlog

from agent.approvals.types import Approval
from agent.errors import Refusal
from bot.client import Unfit
from bot.payloads import Place
from bot.posting import Poster
from bot.views import arguments
from bot.views.approval import approval_card
from bot.views.arguments import Room
from bot.views.blocks import Rendered
from bot.views.calls import MOST_ROWS, calls_card, fit_together

if TYPE_CHECKING:
    from agent.service import AgentService

log = structlog.get_logger()


class Cards:
    """Draws cards from the approvals as they stand. A card's message is known by the first approval on it.

    Which approvals stand on which card is written down, per turn, before it is drawn: a crash in between, or
    rendering the same events again, finds each approval where it was put.
    """

    def __init__(self, service: "AgentService", poster: Poster) -> None:
        self._service = service
        self._poster = poster

    async def show(self, session_id: UUID, place: Place, approval_ids: Sequence[UUID]) -> None:
        """Draw the cards of these approvals, each card once; an approval that has none yet is put on one."""
        cards: dict[str, list[str]] = {}
        for approval_id in approval_ids:
            if (approval := await self._read(approval_id)) is not None:
                card = await self._card_of(session_id, approval)
                cards[card[0]] = card
        for card in cards.values():
            await self._draw(session_id, place, await self._read_all(card))

    async def _read(self, approval_id: UUID) -> Approval | None:
        try:
            return await self._service.read_approval(approval_id, by=None)
        except Refusal as error:
            log.info("approval.not_shown", approval_id=str(approval_id), code=error.code)
            return None

    async def _read_all(self, card: Sequence[str]) -> list[Approval]:
        found = [await self._read(UUID(approval_id)) for approval_id in card]
        return [approval for approval in found if approval is not None]

    async def _card_of(self, session_id: UUID, approval: Approval) -> list[str]:
        approval_id, key = str(approval.approval_id), f"cards:{approval.turn_id}"
        kept = await self._service.find_post(session_id, key)
        cards: list[list[str]] = kept.ref["cards"] if kept is not None and kept.ref else []
        if (card := next((card for card in cards if approval_id in card), None)) is not None:
            return card
        if cards and await self._joins(session_id, cards[-1], approval):
            cards[-1].append(approval_id)
        else:
            cards.append([approval_id])
        await self._service.begin_post(session_id, key, "")
        await self._service.record_post(session_id, key, {"cards": cards}, "")
        return cards[-1]

    async def _joins(self, session_id: UUID, card: list[str], approval: Approval) -> bool:
        """Whether the call belongs to the same answer as those on the card, and still fits there.

        A model is asked again only when all its calls are settled: while one waits, what is opened is its sibling.
        """
        if approval.is_settled or len(card) >= MOST_ROWS:
            return False
        if await self._service.find_post(session_id, _key(str(approval.approval_id))) is not None:
            return False
        others = await self._read_all(card)
        return any(not other.is_settled for other in others) and fit_together([*others, approval])

    async def _draw(self, session_id: UUID, place: Place, approvals: list[Approval]) -> None:
        if not approvals:
            return
        try:
            await self._show(session_id, place, approvals, _rendered(approvals))
        except Unfit as error:
            log.warning("approval.card_refused", approval_id=str(approvals[0].approval_id), reason=str(error))
            await self._show(session_id, place, approvals, _smaller(approvals))
        for approval in approvals:
            if not approval.is_settled and arguments.room(approval) is Room.FILE:
                await self._file(session_id, place, approval)

    async def _show(self, session_id: UUID, place: Place, approvals: list[Approval], card: Rendered) -> None:
        keep = any(not approval.is_settled for approval in approvals)
        await self._poster.show(session_id, place, _key(str(approvals[0].approval_id)), card, keep=keep)
        for approval in approvals:
            if not approval.is_settled:
                await self._note(approval, "card", card.digest)

    async def _file(self, session_id: UUID, place: Place, approval: Approval) -> None:
        key, text = f"arguments:{approval.approval_id}", arguments.as_text(approval)
        name = f"{approval.tool_name}-arguments.txt"
        try:
            await self._poster.uploads.share(session_id, place, key, filename=name, content=text.encode())
        except Unfit as error:
            log.warning("approval.file_refused", approval_id=str(approval.approval_id), reason=str(error))
            return
        await self._note(approval, "file", hashlib.sha256(text.encode()).hexdigest())

    async def _note(self, approval: Approval, form: str, rendered_digest: str) -> None:
        await self._service.note_shown(
            approval.approval_id,
            door="slack",
            form=form,
            args_digest=approval.args_digest,
            rendered_digest=rendered_digest,
            to=None,
        )


def _key(first: str) -> str:
    return f"approval:{first}"


def _rendered(approvals: list[Approval]) -> Rendered:
    return approval_card(approvals[0]) if len(approvals) == 1 else calls_card(approvals)


def _smaller(approvals: list[Approval]) -> Rendered:
    if len(approvals) > 1:
        return calls_card(approvals, short=True)
    room = arguments.room(approvals[0])
    return approval_card(approvals[0], room=Room.MODAL if room is Room.CARD else Room.FILE)
