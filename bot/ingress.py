"""The before_authorize middleware: what people send is stored before it is acked, with or without Slack's auth.test."""

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING
from uuid import UUID
from weakref import WeakValueDictionary

import structlog
from slack_bolt.async_app import AsyncBoltRequest
from slack_bolt.response import BoltResponse
from slack_sdk.web.async_client import AsyncWebClient
from slack_sdk.webhook.async_client import AsyncWebhookClient

from agent.errors import Refusal
from agent.questions.types import Question, WrongAnswer
from bot import payloads
from bot.client import FAILURES
from bot.deciding import Deciding
from bot.errands import Errands
from bot.payloads import Click, Filled, Incoming, Parsed, PinClick, Place, QuestionClick, Stop, Submission
from bot.views import question as question_view
from bot.views.blocks import digest
from bot.views.refusal import BAD_PIN, BAD_QUESTION, COULD_NOT_OPEN, refusal, refusal_modal

if TYPE_CHECKING:
    from agent.service import AgentService

log = structlog.get_logger()

_TOLD = 500

Next = Callable[[], Awaitable[BoltResponse]]
Middleware = Callable[[AsyncBoltRequest, Next], Awaitable[BoltResponse]]


def build_ingress(service: "AgentService", client: AsyncWebClient, errands: Errands) -> Middleware:
    """Return the middleware; an error it raises is a 500, so Slack delivers again."""
    desk = _Desk(service, client, errands)

    async def ingress(req: AsyncBoltRequest, next_: Next) -> BoltResponse:
        request = payloads.parsed(req.body)
        if request is not None:
            return await desk.take(request)
        event = payloads.event_type(req.body)
        if event is None:
            return await next_()
        if event in payloads.FAREWELLS:
            log.warning("slack.uninstalled", slack_event=event)
        return _ack()

    return ingress


def _ack(body: str = "") -> BoltResponse:
    return BoltResponse(status=200, body=body, headers={"Content-Type": ["application/json"]} if body else {})


class _Desk:
    """Takes one request to the service, and tells a refusal to whoever made it."""

    def __init__(self, service: "AgentService", client: AsyncWebClient, errands: Errands) -> None:
        self._service = service
        self._client = client
        self._errands = errands
        self._deciding = Deciding(service)
        self._queues: WeakValueDictionary[UUID, asyncio.Lock] = WeakValueDictionary()
        self._told: deque[str] = deque(maxlen=_TOLD)

    async def take(self, request: Parsed) -> BoltResponse:
        match request:
            case Incoming():
                await self._message(request)
            case Click():
                await self._click(request)
            case PinClick():
                await self._pin(request)
            case Submission():
                answer = await self._deciding.submitted(request)
                return _ack(json.dumps(answer) if answer else "")
            case QuestionClick():
                await self._question(request)
            case Filled():
                return await self._filled(request)
            case Stop():
                await self._stop(request)
        return _ack()

    async def _message(self, said: Incoming) -> None:
        # Socket Mode hands over envelopes concurrently: a thread's messages keep the order in which they came.
        queue = self._queues.setdefault(said.thread.session_id, asyncio.Lock())
        async with queue:
            try:
                await self._service.submit_message(
                    said.thread,
                    said.text,
                    by=said.by,
                    event_key=said.event_key,
                    message_key=said.message_key,
                    address=said.place.address,
                    start=said.starts,
                )
            except Refusal as error:
                # A mention arrives as two events, and its author needs one reason.
                if said.message_key not in self._told:
                    self._told.append(said.message_key)
                    self._errands.run(self._whisper(said.by.user, said.place, error.message, None))

    async def _click(self, click: Click) -> None:
        if click.named and click.action in payloads.OPENERS:
            # Whoever pressed it waits for a modal, and Slack for the ack: the modal may come after it.
            self._errands.run(self._open(click))
            return
        try:
            await self._deciding.decide(click)
        except Refusal as error:
            self._errands.run(self._whisper(click.by.user, click.place, error.message, click.response_url))

    async def _question(self, click: QuestionClick) -> None:
        if click.question_id is None:
            self._refuse(click, BAD_QUESTION)
        elif click.answers:
            self._errands.run(self._show_form(click, click.question_id))
        else:
            try:
                await self._service.decline_question(click.question_id, by=click.by)
            except Refusal as error:
                self._refuse(click, error.message)

    async def _filled(self, filled: Filled) -> BoltResponse:
        if filled.question_id is None:
            return _instead(BAD_QUESTION)
        question: Question | None = None
        try:
            question = await self._service.question_to_answer(filled.question_id, by=filled.by)
            said = question_view.content(question, filled)
            await self._service.answer_question(filled.question_id, said, by=filled.by)
        except WrongAnswer as error:
            shown = question_view.errors(question, error.wrong) if question is not None else None
            if shown is None:
                return _instead(error.message)
            return _ack(json.dumps({"response_action": "errors", "errors": shown}))
        except Refusal as error:
            log.info("question.answer_refused", question_id=str(filled.question_id), code=error.code)
            return _instead(error.message)
        return _ack()

    async def _pin(self, click: PinClick) -> None:
        if click.tool_id is None:
            self._errands.run(self._whisper(click.by.user, click.place, BAD_PIN, click.response_url))
            return
        try:
            decide = self._service.accept_change if click.accepts else self._service.keep_quarantined
            await decide(click.tool_id, click.seen, by=click.by)
        except Refusal as error:
            log.info("pin.click_refused", tool_id=str(click.tool_id), code=error.code)
            self._errands.run(self._whisper(click.by.user, click.place, error.message, click.response_url))

    async def _stop(self, stop: Stop) -> None:
        try:
            by = await self._service.principal_of_chat(stop.by)
            await self._service.cancel_turn(stop.thread.session_id, by=by)
        except Refusal as error:
            self._errands.run(self._whisper(stop.by.user, stop.place, error.message, None))

    def _refuse(self, click: QuestionClick, message: str) -> None:
        self._errands.run(self._whisper(click.by.user, click.place, message, click.response_url))

    async def _whisper(self, user: str, place: Place | None, message: str, response_url: str | None) -> None:
        """Tell one person, in the thread if Slack lets us, else where their click came from."""
        shown = refusal(message)
        if place is not None:
            try:
                await self._client.chat_postEphemeral(
                    channel=place.channel,
                    user=user,
                    thread_ts=place.thread_ts,
                    text=shown.text,
                    blocks=list(shown.blocks),
                )
            except FAILURES as error:
                log.info("slack.ephemeral_failed", error=type(error).__name__)
            else:
                return
        if response_url is not None:
            send = AsyncWebhookClient(response_url).send
            blocks = list(shown.blocks)
            await send(text=shown.text, blocks=blocks, response_type="ephemeral", replace_original=False)

    async def _open(self, click: Click) -> None:
        try:
            view, approval = await self._deciding.modal(click)
            await self._client.views_open(trigger_id=click.trigger_id or "", view=view)
            if not approval.is_settled:
                await self._service.note_shown(
                    approval.approval_id,
                    door="slack",
                    form="modal",
                    args_digest=approval.args_digest,
                    rendered_digest=digest(view),
                    to=click.by,
                )
        except Refusal as error:
            await self._whisper(click.by.user, click.place, error.message, click.response_url)
        except FAILURES as error:
            log.info("slack.modal_failed", action=click.action, error=type(error).__name__)
            await self._whisper(click.by.user, click.place, COULD_NOT_OPEN, click.response_url)

    async def _show_form(self, click: QuestionClick, question_id: UUID) -> None:
        try:
            question = await self._service.question_to_answer(question_id, by=click.by)
            view = question_view.question_form(question)
            await self._client.views_open(trigger_id=click.trigger_id or "", view=view)
        except Refusal as error:
            await self._whisper(click.by.user, click.place, error.message, click.response_url)
        except FAILURES as error:
            log.info("slack.modal_failed", question_id=str(question_id), error=type(error).__name__)
            await self._whisper(click.by.user, click.place, COULD_NOT_OPEN, click.response_url)


def _instead(message: str) -> BoltResponse:
    return _ack(json.dumps({"response_action": "update", "view": refusal_modal(message)}))
