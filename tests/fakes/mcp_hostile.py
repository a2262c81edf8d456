"""A stdio MCP server that misbehaves, JSON by hand: `mcp_hostile.py MODE [EFFECTS]`."""

import json
import os
import sys
import time
from typing import Any

MODE = sys.argv[1]
OBJECT = {"type": "object", "properties": {}}


def tool(name: Any, schema: Any = None, **more: Any) -> dict[str, Any]:
    return {"name": name, "description": "A tool.", "inputSchema": OBJECT if schema is None else schema, **more}


def pattern(expression: str) -> dict[str, Any]:
    return {"type": "object", "properties": {"text": {"type": "string", "pattern": expression}}}


LISTS: dict[str, list[Any]] = {
    "bad_tools": [
        tool("good"),
        tool("empty_schema", {}),
        tool("no_schema", 7),
        tool("unknown_type", {"type": "object", "properties": {"a": {"type": "strong"}}}),
        tool("remote", {"type": "object", "properties": {"a": {"$ref": "http://127.0.0.1:9/schema"}}}),
        tool("huge_schema", {"type": "object", "description": "x" * 200_000}),
        tool("good", description="The same name again."),
        tool("a\x1b[2Jb"),
        "not a tool",
        tool("also good"),
        tool("backtracking", pattern("^(a+)+$")),
    ],
    "output_schema": [tool("stall", outputSchema={**pattern("^(a+)+$"), "required": ["text"]})],
}


def say(message: Any) -> None:
    sys.stdout.write((message if isinstance(message, str) else json.dumps(message)) + "\n")
    sys.stdout.flush()


def called(name: str) -> dict[str, Any] | None:
    content: list[dict[str, Any]] = [{"type": "text", "text": f"{name} ran"}]
    if name == "exit":
        with open(sys.argv[2], "a") as effects:
            effects.write("exit\n")
        os._exit(1)
    if name == "silent":
        return None
    if name == "stall":
        return {"content": content, "structuredContent": {"text": "a" * 40 + "b"}}
    if name == "huge":
        content = [{"type": "text", "text": "x" * 6_000_000}]
    if name == "vast":
        content = [{"type": "text", "text": "x" * 80_000_000}]
    if name == "unreadable":
        return {"content": "not a list"}
    if name == "mixed":
        content.append({"type": "image", "data": "aGk=", "mimeType": "image/png"})
        return {"content": content, "structuredContent": {"twice": True}}
    if name == "structured":
        return {"content": [], "structuredContent": {"load": 0.5}}
    return {"content": content}


def listed(params: dict[str, Any]) -> dict[str, Any]:
    if MODE == "endless_pages":
        page = int(params.get("cursor", 0))
        return {"tools": [tool(f"tool_{page}")], "nextCursor": str(page + 1)}
    if MODE == "fat_pages":
        page = int(params.get("cursor", 0))
        fat = {"type": "object", "description": "x" * 90_000}
        return {"tools": [tool(f"tool_{page}", fat)], "nextCursor": str(page + 1)}
    if MODE == "refers":
        remote = {"type": "object", "properties": {"a": {"$ref": sys.argv[2]}}}
        return {"tools": [tool("remote", remote), tool("honest", pattern("x"))]}
    if MODE == "vast_schema":
        return {"tools": [tool("vast", {"type": "object", "description": "x" * 10_000_000})]}
    if MODE == "many":
        page = int(params.get("cursor", 0))
        more = {"nextCursor": str(page + 1)} if page < 9 else {}
        return {"tools": [tool(f"tool_{page}_{number}") for number in range(10_000)], **more}
    names = [
        "exit",
        "silent",
        "huge",
        "unreadable",
        "mixed",
        "structured",
        "deep",
        "fine",
        "vast",
        "endless",
        "babble",
        "crumbs",
    ]
    return {"tools": LISTS.get(MODE) or [tool(name) for name in names]}


def flood(request: dict[str, Any]) -> None:
    """Say things without end, if it is one of the tools for that; then it never reads another line."""
    name = request["params"]["name"]
    if name == "crumbs":
        result = '{"content": [], "structuredContent": {"all": [' + "{}," * 1_000_000 + "{}]}}"
        say(f'{{"jsonrpc":"2.0","id":{json.dumps(request["id"])},"result":{result}}}')
    progress = {"progressToken": request["id"], "progress": 1}
    news = json.dumps({"jsonrpc": "2.0", "method": "notifications/progress", "params": progress})
    endless = {"endless": news, "babble": '{"jsonrpc":"2.0","id":987654,"result":{}}'}.get(name)
    while endless:
        sys.stdout.write(f"{endless}\n" * 100)


def answer(request: dict[str, Any]) -> Any:
    method, params = request["method"], request.get("params") or {}
    if method == "initialize":
        capabilities = {"tools": {"listChanged": True}}
        info = {"name": "hostile", "version": "1"}
        return {"protocolVersion": params["protocolVersion"], "capabilities": capabilities, "serverInfo": info}
    if method == "tools/list":
        return listed(params)
    if method == "tools/call":
        return called(params["name"])
    return {"error": {"code": -32601, "message": "Method not found"}}


def main() -> None:
    if MODE == "exits_at_once":
        sys.stderr.write(f"no such database at {os.environ.get('PROBE_TOKEN')}\n")
        sys.exit(3)
    for line in sys.stdin:
        request = json.loads(line)
        if MODE == "mute" or "id" not in request:
            continue
        if MODE == "noisy":
            say("this is not JSON")
        if request["method"] == "tools/call" and request["params"]["name"] == "deep":
            say(f'{{"jsonrpc":"2.0","id":{json.dumps(request["id"])},"result":' + '{"a":' * 5000 + "1" + "}" * 5001)
            continue
        if request["method"] == "tools/call":
            flood(request)
        if request["method"] == "tools/call" and request["params"]["name"] == "crumbs":
            continue
        given = answer(request)
        if given is None:
            continue
        key = "error" if "error" in given else "result"
        say({"jsonrpc": "2.0", "id": request["id"], key: given.get("error", given)})
    if MODE == "stubborn":
        time.sleep(60)


main()
