"""MCP servers: registered by admins, followed by every worker within a moment."""

from uuid import UUID

from fastapi import Response

from api.door import Actor, Service, guarded_router
from api.problems import documented
from api.schemas import ListOut
from api.toolwire import AcceptIn, AuthorizationOut, ServerIn, ServerOut, ServerPatchIn, TrialOut

router = guarded_router("/api/mcp-servers", "mcp servers", reading="admin", writing="admin")


@router.get("", summary="List MCP servers", description="Admins only, with their health.", operation_id="list_servers")
async def index(service: Service, actor: Actor) -> ListOut[ServerOut]:
    return ListOut(items=[ServerOut.of(view) for view in await service.list_servers(by=actor)])


@router.post(
    "",
    status_code=201,
    summary="Register an MCP server",
    description="Admins only. A stdio server needs `confirm_command`, the exact command line that will run. "
    "A `url` must be public, or its host be in OPSAGENT_ALLOW_HOSTS. `env`, `headers` and the client secret of `oauth` "
    "are never shown again.",
    operation_id="register_server",
    responses=documented(409),
)
async def register(service: Service, actor: Actor, body: ServerIn, response: Response) -> ServerOut:
    view = await service.register_server(body.wanted(), by=actor, confirm_command=body.confirm_command)
    response.headers["Location"] = f"/api/mcp-servers/{view.server.server_id}"
    return ServerOut.of(view)


@router.get("/{server_id}", summary="Read an MCP server", operation_id="read_server")
async def read(service: Service, actor: Actor, server_id: UUID) -> ServerOut:
    return ServerOut.of(await service.read_server(server_id, by=actor))


@router.patch(
    "/{server_id}",
    summary="Change an MCP server",
    description="A new command line must be confirmed. With a new address, stored secrets must be sent again.",
    operation_id="update_server",
    responses=documented(409),
)
async def update(service: Service, actor: Actor, server_id: UUID, body: ServerPatchIn) -> ServerOut:
    found = await service.update_server(server_id, body.patch(), by=actor, confirm_command=body.confirm_command)
    return ServerOut.of(found)


@router.delete(
    "/{server_id}",
    status_code=204,
    summary="Remove an MCP server",
    description="Its tools go, with what was accepted and allowed of them.",
    operation_id="remove_server",
    responses=documented(409),
)
async def remove(service: Service, actor: Actor, server_id: UUID) -> None:
    await service.remove_server(server_id, by=actor)


@router.post(
    "/{server_id}/accept",
    summary="Accept changed tools",
    description="Takes tools out of quarantine as they are now; `GET /api/tools/{tool_id}` shows what changed.",
    operation_id="accept_tools",
    responses=documented(409),
)
async def accept(service: Service, actor: Actor, server_id: UUID, body: AcceptIn | None = None) -> ServerOut:
    said = body or AcceptIn()
    view = await service.accept_tools(server_id, by=actor, tool_ids=said.tool_ids, seen=said.schema_hashes)
    return ServerOut.of(view)


@router.post(
    "/{server_id}/test",
    summary="Try an MCP server",
    description="Connects once, lists the tools, and lets go.",
    operation_id="test_server",
    responses=documented(409),
)
async def test(service: Service, actor: Actor, server_id: UUID) -> TrialOut:
    return TrialOut.of(await service.test_server(server_id, by=actor))


@router.post(
    "/{server_id}/oauth/start",
    summary="Authorize opsagent at an MCP server",
    description="For a login with the grant authorization_code: open `authorization_url` in a browser and allow it "
    "there. The browser comes back to opsagent, and every worker connects at once.",
    operation_id="start_server_login",
    responses=documented(409),
)
async def start_login(service: Service, actor: Actor, server_id: UUID) -> AuthorizationOut:
    return AuthorizationOut.of(await service.start_server_login(server_id, by=actor))
