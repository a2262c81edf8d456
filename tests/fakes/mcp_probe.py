"""An MCP server whose effects can be counted: `mcp_probe.py EFFECTS stdio|PORT [earlier] [sse]`."""

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import uvicorn
from mcp.server import MCPServer
from mcp.server.mcpserver import Context, Image
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations

server = MCPServer("probe", log_level="CRITICAL")
effects = Path(sys.argv[1])


def effect(tool: str, **data: object) -> None:
    with effects.open("a") as file:
        file.write(json.dumps({"tool": tool, **data}) + "\n")


@server.tool(annotations=ToolAnnotations(destructive_hint=True))
def restart(service: str, reason: str = "") -> str:
    """Restart a service."""
    effect("restart", service=service, reason=reason)
    return f"restarted {service}"


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def uptime(service: str) -> str:
    """Show how long a service has been up."""
    effect("uptime", service=service)
    return f"{service} is up 3 days"


@server.tool()
async def slow(seconds: float) -> str:
    """Take effect at once and answer late."""
    effect("slow")
    await asyncio.sleep(seconds)
    return "done at last"


@server.tool()
def echo(text: str) -> str:
    """Give the text back."""
    return text


@server.tool()
def big(size: int) -> str:
    """Give back that many characters."""
    effect("big", size=size)
    return "x" * size


@server.tool()
def chart() -> Image:
    """Draw a picture."""
    return Image(data=bytes.fromhex("89504e470d0a1a0a") + bytes(64), format="png")


@server.tool()
def fail(message: str) -> str:
    """Raise an error."""
    raise ToolError(message)


@server.tool()
async def block(seconds: float) -> str:
    """Take effect and stop the whole server for a while."""
    effect("block")
    time.sleep(seconds)
    return "unblocked"


@server.tool()
async def learn(name: str, ctx: Context) -> str:  # type: ignore[type-arg]
    """Offer one more tool and tell whoever listens."""

    def learned() -> str:
        return f"I am {name}"

    server.add_tool(learned, name=name, description="Learned later.")
    await ctx.notify_tools_changed()
    await ctx.session.send_tool_list_changed()
    return "learned"


def earlier(app: Any) -> Any:
    """The app as it was before 2026: it knows no `server/discover`, so clients open a session that it remembers."""

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        if dict(scope.get("headers", [])).get(b"mcp-method") == b"server/discover":
            await send({"type": "http.response.start", "status": 404, "headers": []})
            await send({"type": "http.response.body", "body": b""})
        else:
            await app(scope, receive, send)

    return serve


if __name__ == "__main__":
    if sys.argv[2] == "stdio":
        asyncio.run(server.run_stdio_async())
    else:
        app = server.sse_app() if "sse" in sys.argv else server.streamable_http_app()
        app = earlier(app) if "earlier" in sys.argv else app
        uvicorn.run(app, port=int(sys.argv[2]), log_level="critical")
