"""Sessions and their transcripts."""

from typing import Annotated
from urllib.parse import quote
from uuid import UUID

from fastapi import Query, Response

from api.door import Actor, Cursor, Limit, Service, guarded_router
from api.problems import documented
from api.schemas import ListOut, MessageOut, SessionIn, SessionOut, listed

router = guarded_router("/api/sessions", "sessions", writing="chat")


@router.post("", status_code=201, summary="Start a session", operation_id="create_session")
async def create(service: Service, actor: Actor, response: Response, body: SessionIn | None = None) -> SessionOut:
    asked = body or SessionIn()
    session = await service.create_session(by=actor, title=asked.title, expires_in_s=asked.expires_in_s)
    response.headers["Location"] = f"/api/sessions/{session.session_id}"
    return SessionOut.of(session)


@router.get("", summary="List your sessions", operation_id="list_sessions")
async def index(service: Service, actor: Actor, limit: Limit = 50, cursor: Cursor = None) -> ListOut[SessionOut]:
    return listed(await service.list_sessions(by=actor, limit=limit, cursor=cursor), SessionOut.of)


@router.get("/{session_id}", summary="Read a session", operation_id="read_session", responses=documented(410))
async def read(service: Service, actor: Actor, session_id: UUID) -> SessionOut:
    return SessionOut.of(await service.read_session(session_id, by=actor))


@router.delete(
    "/{session_id}",
    status_code=204,
    summary="Delete a session",
    description="Cancels what runs or waits in it and removes its transcript; approvals and the audit log stay.",
    operation_id="delete_session",
)
async def delete(service: Service, actor: Actor, session_id: UUID) -> None:
    await service.delete_session(session_id, by=actor)


@router.get(
    "/{session_id}/messages", summary="Read the transcript", operation_id="list_messages", responses=documented(410)
)
async def messages(
    service: Service,
    actor: Actor,
    session_id: UUID,
    limit: Annotated[int, Query(ge=1, le=500)] = 200,
    cursor: Cursor = None,
) -> ListOut[MessageOut]:
    return listed(await service.read_messages(session_id, by=actor, limit=limit, cursor=cursor), MessageOut.of)


@router.delete(
    "/{session_id}/messages",
    status_code=204,
    summary="Clear the transcript",
    description="Cancels what runs or waits in the session and removes its transcript; the session stays.",
    operation_id="clear_messages",
)
async def clear(service: Service, actor: Actor, session_id: UUID) -> None:
    await service.clear_messages(session_id, by=actor)


@router.get(
    "/{session_id}/attachments/{attachment_id}",
    response_class=Response,
    responses={
        200: {
            "description": "The bytes, under their own media type: a file as it is, a table as JSON, a text as UTF-8.",
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        },
        **documented(410),
    },
    summary="Fetch what a tool gave to people",
    operation_id="read_attachment",
)
async def attachment(service: Service, actor: Actor, session_id: UUID, attachment_id: UUID) -> Response:
    found, content = await service.read_attachment(session_id, attachment_id, by=actor)
    kind = f"{found.media_type}; charset=utf-8" if found.media_type.startswith("text/") else found.media_type
    headers = {
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(found.name, safe='')}",
        "Content-Type": kind,
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "Cache-Control": "private, no-store",
    }
    return Response(content, headers=headers)
