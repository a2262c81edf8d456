"""The service's part for questions that running tools ask."""

from typing import Any
from uuid import UUID

from agent.house import FIRST, Part, before, cursor_of
from agent.questions import form, store
from agent.questions.types import (
    NotAsked,
    Question,
    QuestionExpired,
    QuestionNotFound,
    QuestionSettled,
    QuestionStatus,
    WrongAnswer,
)
from agent.types import ChatUser, Page, Principal, Role
from db.database import Tx


class Answers(Part):
    """Reading questions, and settling them for the call that waits."""

    async def list_questions(
        self,
        *,
        by: Principal,
        status: QuestionStatus = QuestionStatus.OPEN,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Question]:
        """Return questions, newest first: one's own; an admin's list holds everybody's."""
        mine = None if by.role is Role.ADMIN else by.user_id
        start = before(cursor) if cursor else FIRST
        async with self._database.connection() as connection:
            found = await store.list_by_status(connection, status, before=start, limit=limit + 1, asked_of=mine)
        last = found[limit - 1] if len(found) > limit else None
        return Page(found[:limit], cursor_of(last.created_at, last.question_id) if last else None)

    async def read_question(self, question_id: UUID, *, by: Principal | None) -> Question:
        """Return a question; `by` None is a door's own presenter."""
        async with self._database.connection() as connection:
            found = await store.read(connection, question_id)
        if by is not None and by.role is not Role.ADMIN and found.asked_of.user_id != by.user_id:
            raise QuestionNotFound
        return found

    async def question_to_answer(self, question_id: UUID, *, by: Principal | ChatUser) -> Question:
        """Return the question to whoever may answer it now; raises why they may not."""
        async with self._database.connection() as connection:
            found = await store.read(connection, question_id)
            _answerable(found, await self._acting(connection, by))
        return found

    async def answer_question(
        self, question_id: UUID, content: dict[str, Any], *, by: Principal | ChatUser
    ) -> Question:
        """Give the waiting call its answer; only whom it asks may."""
        async with self._database.transaction() as tx:
            await tx.execute(store.sql.lock_session, question_id)
            question = await store.read(tx, question_id)
            person = await self._acting(tx, by)
            _answerable(question, person)
            if wrong := form.check(question.schema, content):
                raise WrongAnswer(wrong)
            return await self._settle(tx, question, QuestionStatus.ANSWERED, person, content)

    async def decline_question(self, question_id: UUID, *, by: Principal | ChatUser) -> Question:
        """Refuse to answer: the call hears that. Whom it asks may, and admins."""
        async with self._database.transaction() as tx:
            await tx.execute(store.sql.lock_session, question_id)
            question = await store.read(tx, question_id)
            person = await self._acting(tx, by)
            if person.role is not Role.ADMIN:
                _answerable(question, person)
            return await self._settle(tx, question, QuestionStatus.DECLINED, person, None)

    async def _settle(
        self, tx: Tx, question: Question, status: QuestionStatus, person: Principal, content: dict[str, Any] | None
    ) -> Question:
        if not await store.settle(tx, question.question_id, status, by=person.user_id, content=content):
            raise _settled(question)
        await store.tell_settled(tx, question.session_id, question.turn_id, question.question_id, status)
        settled = await store.read(tx, question.question_id)
        await store.note_settled(tx, question.question_id, status, by=person.user_id, content=content)
        return settled


def _answerable(question: Question, person: Principal) -> None:
    if question.asked_of.user_id != person.user_id:
        name = question.asked_of.display_name or question.asked_of.username
        raise NotAsked(f"Only {name} is asked this, since the tool runs for them.")
    if not question.is_open:
        raise _settled(question)


def _settled(question: Question) -> QuestionSettled | QuestionExpired:
    if question.status is QuestionStatus.EXPIRED:
        return QuestionExpired("This question has expired: the tool waits for its answer no more.")
    return QuestionSettled(f"This question is {question.status} already.")
