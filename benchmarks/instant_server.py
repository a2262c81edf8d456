"""An MCP server that answers at once, JSON by hand: `instant_server.py TOOLS [PREFIX]`; needs nothing but Python."""

import json
import sys
from typing import Any

COUNT, PREFIX = int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "tool"
SCHEMA = {
    "type": "object",
    "properties": {
        "text": {"type": "string", "description": "What to give back."},
        "times": {"type": "integer", "minimum": 1, "maximum": 10},
        "to": {"type": "string", "enum": ["here", "there"]},
    },
    "required": ["text"],
}
TOOLS = [
    {"name": f"{PREFIX}_{number}", "description": f"Gives a text back, number {number}.", "inputSchema": SCHEMA}
    for number in range(COUNT)
]


def answered(request: dict[str, Any]) -> dict[str, Any]:
    params = request.get("params") or {}
    match request["method"]:
        case "initialize":
            info = {"name": "instant", "version": "1"}
            given = {"protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}}, "serverInfo": info}
        case "tools/list":
            given = {"tools": TOOLS}
        case "tools/call":
            given = {"content": [{"type": "text", "text": params["arguments"]["text"]}]}
        case _:
            return {"error": {"code": -32601, "message": "Method not found"}}
    return {"result": given}


for line in sys.stdin:
    asked = json.loads(line)
    if "id" in asked:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": asked["id"], **answered(asked)}) + "\n")
        sys.stdout.flush()
