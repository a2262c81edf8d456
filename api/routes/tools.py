"""The tool catalogue, and the rules that say which calls a human must see."""

from uuid import UUID

from api.door import Actor, Service, guarded_router
from api.problems import documented
from api.schemas import ListOut, ToolApprovalIn, ToolApprovalOut
from api.toolwire import ReloadOut, ToolIn, ToolOut

router = guarded_router("/api/tools", "tools", writing="admin")


@router.get("", summary="List the tools", operation_id="list_tools")
async def index(service: Service, actor: Actor) -> ListOut[ToolOut]:
    return ListOut(items=[ToolOut.of(tool) for tool in await service.list_tools(by=actor)])


@router.get("/{tool_id:uuid}", summary="Read a tool", operation_id="read_tool")
async def read(service: Service, actor: Actor, tool_id: UUID) -> ToolOut:
    return ToolOut.of(await service.read_tool(tool_id, by=actor))


@router.post(
    "/reload",
    status_code=202,
    summary="Reload the tool files",
    description="Admins only. Every worker reads TOOLS_DIR again; `opsagent tools check` says before what is wrong.",
    operation_id="reload_tools",
)
async def reload(service: Service, actor: Actor) -> ReloadOut:
    await service.reload_tools(by=actor)
    return ReloadOut(reloading=True)


@router.patch(
    "/{tool_id:uuid}",
    summary="Change a tool",
    description="Admins only. A disabled tool is neither offered to the model nor callable, from this moment on.",
    operation_id="update_tool",
    responses=documented(409),
)
async def update(service: Service, actor: Actor, tool_id: UUID, body: ToolIn) -> ToolOut:
    return ToolOut.of(await service.update_tool(tool_id, body.patch(), by=actor))


@router.put(
    "/{tool_id}/approval",
    summary="Set a tool's approval rule",
    description="The default and others' rules take an admin; users may tighten their own.",
    operation_id="set_tool_approval",
)
async def set_approval(service: Service, actor: Actor, tool_id: UUID, body: ToolApprovalIn) -> ToolApprovalOut:
    row = await service.set_tool_approval(tool_id, body.rule(), by=actor, user_id=body.user_id)
    return ToolApprovalOut.of(row)
