"""A core that follows registered MCP servers, and what tests of them share."""

import asyncio
import contextlib
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from agent.egress import EgressPolicy
from agent.sandbox.policy import Mode
from agent.servers import ServerView
from agent.tools.mcp import Keeping, McpManager, McpServerConfig, Timing
from agent.tools.mcp_checks import Wanted
from tests.fakes.mcp_servers import HERE, StdioProbe
from tests.integration.conftest import ADMIN, Floor, running

KEY = "obviously-fake-secret-key-" + "k" * 20
OTHER_KEY = "another-obviously-fake-key-" + "o" * 20
TIMING = Timing(connect_s=20, backoff_s=(0.02, 0.2), relist_s=0)
LOOPBACK = EgressPolicy.of(["127.0.0.1"])


@asynccontextmanager
async def following(
    dsn: str,
    *,
    keys: tuple[str, ...] = (KEY,),
    egress: EgressPolicy = LOOPBACK,
    of_file: tuple[McpServerConfig, ...] = (),
    **more: Any,
) -> AsyncIterator[Floor]:
    """A worker's core with its publisher at work."""
    keeping = Keeping(egress, Mode.BEST_EFFORT)
    manager = McpManager(of_file, TIMING, keeping)
    async with running(dsn, mcp=manager, file_servers=of_file, keeping=keeping, signing_keys=keys, **more) as floor:
        await floor.core.follow_servers()
        publishing = asyncio.create_task(floor.core.publish_tools(alone=False))
        try:
            yield floor
        finally:
            publishing.cancel()
            await asyncio.gather(publishing, return_exceptions=True)


@contextlib.contextmanager
def open_probe() -> Iterator[StdioProbe]:
    """A probe whose effects any account may write: a sandboxed server runs as one that owns nothing."""
    folder = Path(tempfile.mkdtemp(prefix="opsagent-probe-"))
    folder.chmod(0o777)
    try:
        yield StdioProbe(folder / "effects.jsonl")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def wanted(probe: StdioProbe, name: str = "probe", **more: Any) -> Wanted:
    """The probe as an admin registers it: it may read its own code, and write its effects."""
    sandbox = {"read_paths": [str(HERE)], "write_paths": [str(probe.path.parent)], "memory_mb": None}
    args = (str(HERE / "mcp_probe.py"), str(probe.path), "stdio")
    return Wanted(name, "stdio", command=sys.executable, args=args, sandbox=sandbox, **more)


async def register(floor: Floor, asked: Wanted, *, offers: str | None = None) -> ServerView:
    """Register a server; with `offers`, wait until the model would be offered that tool."""
    view = await floor.service.register_server(asked, by=ADMIN, confirm_command=asked.address)
    if offers:
        await offered(floor, offers)
    return view


async def offered(floor: Floor, name: str, *, is_offered: bool = True) -> None:
    await floor.until(lambda: (name in names(floor)) is is_offered, timeout=45)


def names(floor: Floor) -> set[str]:
    return {tool.spec.name for tool in floor.core.registry.tools()}
