"""Clicks and modals on approvals, taken to the service one by one: the door finds and reads, the service decides."""

import asyncio
from typing import TYPE_CHECKING, Any
from uuid import UUID

import structlog

from agent.approvals.grants import GrantRefused
from agent.approvals.life import NotUnknown
from agent.approvals.types import (
    Action,
    AlreadySettled,
    Approval,
    ChangedMeanwhile,
    Decision,
    Door,
    ExecutionStatus,
    InvalidArguments,
    Seen,
)
from agent.errors import Conflict, Invalid, NotFound, Refusal
from agent.tools.arguments import problems
from agent.tools.base import ToolSpec
from agent.types import ChatUser
from bot import answers, forms, payloads
from bot.forms import Form
from bot.inputs import NotThisForm, Unreadable
from bot.payloads import Click, Named, Submission
from bot.views.approval import review_modal
from bot.views.blocks import Block
from bot.views.forms import edit_modal, reason_modal
from bot.views.more import extend_modal, reassign_modal
from bot.views.outcome import resolve_modal
from bot.views.refusal import (
    BAD_BUTTON,
    BAD_FORM,
    CHANGED,
    KNOWN_BY_NOW,
    NO_REASON,
    RULE_TOO_LARGE,
    TOO_LARGE,
    TOOL_CHANGED,
    refusal_modal,
)
from bot.views.remember import remember_modal

if TYPE_CHECKING:
    from agent.service import AgentService

log = structlog.get_logger()

_AT_ONCE = (payloads.WITHDRAW, payloads.CANCEL, payloads.RUN_AGAIN, payloads.REVOKE)
_RESOLVERS = {payloads.MARK_DONE: Action.DONE, payloads.MARK_FAILED: Action.FAILED}

Answer = dict[str, Any]
"""What a submitted modal is answered with; none closes it."""


class Deciding:
    """What people do to approvals in Slack. Whatever is refused comes back as a Refusal, for who clicked."""

    def __init__(self, service: "AgentService") -> None:
        self._service = service

    async def decide(self, click: Click) -> None:
        """Do what one click says, for exactly what the card showed; the votes of APPROVE_ALL each on its own."""
        if not click.named or click.session_id is None:
            raise Invalid(BAD_BUTTON)
        if click.action in _AT_ONCE:
            await self._at_once(click, click.named[0], Seen(click.session_id, click.named[0].seen))
            return
        if click.decision is not None:
            await self._decide(click, click.named[0], click.decision)
            return
        refusals = await asyncio.gather(*(self._refused(click, named) for named in click.named))
        if said := [refusal for refusal in refusals if refusal is not None]:
            raise Conflict("\n".join(["Not approved:", *said]))

    async def _at_once(self, click: Click, named: Named, seen: Seen) -> None:
        try:
            match click.action:
                case payloads.WITHDRAW:
                    await self._service.withdraw_vote(named.approval_id, by=click.by, seen=Seen(seen.session_id))
                case payloads.CANCEL:
                    await self._service.cancel_approval(named.approval_id, by=click.by, seen=Seen(seen.session_id))
                case payloads.RUN_AGAIN if named.seen is not None:
                    await self._service.resolve_approval(
                        named.approval_id, Action.RUN_AGAIN, by=click.by, door=Door.SLACK, seen=seen
                    )
                case payloads.REVOKE if click.grant_id is not None:
                    await self._service.revoke_grant(click.grant_id, by=click.by, shown_on=named.approval_id, seen=seen)
                case _:
                    raise Invalid(BAD_BUTTON)
        except Refusal as error:
            log.info("approval.click_refused", approval_id=str(named.approval_id), code=error.code)
            raise

    async def _refused(self, click: Click, named: Named) -> str | None:
        try:
            await self._decide(click, named, Decision.APPROVE)
        except Refusal as error:
            return f"• {named.seen}: {error.message}"
        return None

    async def _decide(self, click: Click, named: Named, decision: Decision) -> None:
        try:
            await self._service.decide_approval(
                named.approval_id,
                decision,
                by=click.by,
                expected_digest=named.seen,
                within=click.session_id,
                door=Door.SLACK,
            )
        except Refusal as error:
            log.info("approval.click_refused", approval_id=str(named.approval_id), code=error.code)
            raise

    async def modal(self, click: Click) -> tuple[Block, Approval]:
        """Return the modal that a button opens, and the approval that it shows."""
        approval = await self._found(click, click.named[0].approval_id)
        if click.action == payloads.SHOW_ARGUMENTS:
            return review_modal(approval), approval
        if click.action in _RESOLVERS:
            if approval.execution is not ExecutionStatus.UNKNOWN:
                raise NotUnknown(KNOWN_BY_NOW)
            return resolve_modal(approval, _RESOLVERS[click.action]), approval
        if approval.is_settled:
            raise AlreadySettled(f"This is already {approval.status}.", approval)
        return await self._modal_of_open(click, approval), approval

    async def _modal_of_open(self, click: Click, approval: Approval) -> Block:
        match click.action:
            case payloads.REJECT_REASON:
                return reason_modal(approval)
            case payloads.EXTEND:
                return extend_modal(approval)
            case payloads.REASSIGN:
                return reassign_modal(approval)
            case payloads.REMEMBER:
                offer = await self._service.offer_to_remember(approval.approval_id, by=click.by)
                view, too_large = remember_modal(approval, offer), RULE_TOO_LARGE
            case _:
                form, _ = await self._form(approval, click.by)
                view, too_large = edit_modal(approval, form), TOO_LARGE
        if view is None:
            raise Invalid(too_large)
        return view

    async def submitted(self, sent: Submission) -> Answer | None:
        """Take a submitted modal to the service, and return what to answer Slack."""
        try:
            if sent.named is None or sent.session_id is None:
                raise Invalid(BAD_FORM)
            if sent.modal == payloads.EDIT_FORM:
                return await self._edited(sent, sent.named)
            if sent.modal == payloads.REASON_FORM:
                return await self._rejected(sent, sent.named)
            if sent.modal == payloads.REMEMBER_FORM:
                return await self._remembered(sent, sent.named)
            if sent.modal != payloads.REVIEW:
                return await self._changed(sent, sent.named, Seen(sent.session_id, sent.named.seen))
            await self._vote(sent, sent.named, Decision.APPROVE)
        except Refusal as error:
            log.info("approval.modal_refused", modal=sent.modal, code=error.code)
            return {"response_action": "update", "view": refusal_modal(error.message)}
        return None

    async def _rejected(self, sent: Submission, named: Named) -> Answer | None:
        reason = str(sent.filled.get(payloads.REASON_FIELD) or "").strip()
        if not reason:
            return _errors({payloads.REASON_FIELD: NO_REASON})
        await self._vote(
            sent, named, Decision.REJECT, reason=reason, instead=answers.text(sent, payloads.INSTEAD_FIELD)
        )
        return None

    async def _remembered(self, sent: Submission, named: Named) -> Answer | None:
        try:
            wanted = answers.remember(sent)
        except Unreadable as error:
            return _errors({payloads.RULE_FIELD: str(error)})
        try:
            await self._vote(sent, named, Decision.APPROVE, remember=wanted)
        except GrantRefused as error:
            if error.part is None:
                raise
            return _errors({answers.FIELD_OF[error.part]: error.message})
        return None

    async def _changed(self, sent: Submission, named: Named, seen: Seen) -> Answer | None:
        """Take more time, other approvers, or a word on the outcome; what is wrong is said at the field."""
        which, by = named.approval_id, sent.by
        match sent.modal:
            case payloads.EXTEND_FORM:
                field = payloads.TIME_FIELD
                change = self._service.extend_approval(which, answers.seconds(sent), by=by, seen=seen)
            case payloads.REASSIGN_FORM:
                field = payloads.OTHERS_FIELD if sent.filled.get(payloads.OTHERS_FIELD) else payloads.PEOPLE_FIELD
                change = self._service.reassign_approval(which, answers.approvers(sent), by=by, seen=seen)
            case _:
                field = payloads.RESULT_FIELD
                change = self._service.resolve_approval(
                    which,
                    Action.DONE if sent.modal == payloads.DONE_FORM else Action.FAILED,
                    by=by,
                    reason=answers.text(sent, payloads.REASON_FIELD),
                    result=answers.text(sent, payloads.RESULT_FIELD),
                    door=Door.SLACK,
                    seen=seen,
                )
        try:
            await change
        except Invalid as error:
            return _errors({field: error.message})
        return None

    async def _edited(self, sent: Submission, named: Named) -> Answer | None:
        approval = await self._service.read_approval(named.approval_id, by=None)
        if approval.args_digest != named.seen:
            raise ChangedMeanwhile(CHANGED)
        form, spec = await self._form(approval, sent.by)
        try:
            args = forms.read(form, sent.filled)
        except forms.BadFields as error:
            return _errors(error.errors)
        except NotThisForm as error:
            raise Invalid(BAD_FORM) from error
        try:
            await self._vote(sent, named, Decision.APPROVE, args=args)
        except InvalidArguments as error:
            return _errors(_located(form, spec, args) or {form.fields[0].field_id: error.message})
        return None

    async def _vote(self, sent: Submission, named: Named, decision: Decision, **more: Any) -> None:
        await self._service.decide_approval(
            named.approval_id,
            decision,
            by=sent.by,
            expected_digest=named.seen,
            within=sent.session_id,
            door=Door.SLACK,
            **more,
        )

    async def _found(self, click: Click, approval_id: UUID) -> Approval:
        """Return the approval, if it belongs to the thread of the click: a button speaks for no other."""
        approval = await self._service.read_approval(approval_id, by=None)
        if approval.session_id != click.session_id:
            raise NotFound("There is no such approval.")
        return approval

    async def _form(self, approval: Approval, by: ChatUser) -> tuple[Form, ToolSpec]:
        """Return the form for a call's arguments as they stand, and its tool; the same for the same digest."""
        who = await self._service.principal_of_chat(by)
        spec = (await self._service.read_tool(approval.tool_id, by=who)).spec
        if spec.schema_hash != approval.schema_hash:
            raise Conflict(TOOL_CHANGED)
        form = forms.form(spec.input_schema, approval.args)
        if form is None:
            raise Invalid(TOO_LARGE)
        return form, spec


def _located(form: Form, spec: ToolSpec, args: dict[str, Any]) -> dict[str, str]:
    """Return what is wrong with the arguments, each at the field where it can be put right."""
    errors: dict[str, str] = {}
    for problem in problems(spec, args):
        errors.setdefault(form.field_at(problem.path).field_id, problem.sentence)
    return errors


def _errors(by_field: dict[str, str]) -> Answer:
    return {"response_action": "errors", "errors": by_field}
