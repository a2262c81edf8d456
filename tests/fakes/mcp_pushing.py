"""A stdio MCP server of the protocol of 2025, JSON by hand, that asks in the middle of its calls: `mcp_pushing.py`."""

import json
import sys
import threading
from typing import Any

TOOLS = {
    "ask": {"message": {"type": "string"}, "form": {"type": "object"}, "longer": {"type": "integer"}},
    "ask_on": {},
    "linger": {"seconds": {"type": "number"}},
    "flood": {"count": {"type": "integer"}},
    "die_asking": {},
    "forget": {},
}
EMPTY = {"type": "object", "properties": {}}
answers: dict[str, Any] = {}
lock, ready = threading.Lock(), threading.Condition()
counter = iter(range(10**9))


def say(message: dict[str, Any]) -> None:
    with lock:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        sys.stdout.flush()


def elicit(message: str, form: Any, *, wait: bool = True) -> Any:
    key = f"q{next(counter)}"
    say({"id": key, "method": "elicitation/create", "params": {"message": message, "requestedSchema": form}})
    if not wait:
        return None
    with ready:
        ready.wait_for(lambda: key in answers)
        return answers.pop(key)


def call(key: Any, name: str, args: dict[str, Any], token: Any) -> None:
    text = "done"
    if name == "ask":
        said = elicit(args.get("message", "Which?") + "x" * args.get("longer", 0), args.get("form", EMPTY))
        text = json.dumps(said.get("result") or said["error"])
    elif name == "ask_on":
        heard = 0
        while "result" in elicit("And now?", EMPTY):
            heard += 1
        text = f"gave up after {heard}"
    elif name == "linger":
        threading.Event().wait(args["seconds"])
    elif name == "flood":
        line = {"jsonrpc": "2.0", "method": "notifications/progress"}
        for n in range(args["count"]):
            line["params"] = {
                "progressToken": token,
                "progress": n,
                "total": args["count"],
                "message": "<!channel> \u202e" * 9,
            }
            sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
    elif name == "die_asking":
        elicit("Last words?", EMPTY, wait=False)
        threading.Event().wait(1)
        sys.stdout.flush()
        import os

        os._exit(1)
    elif name == "forget":
        elicit("Never mind?", EMPTY, wait=False)
        threading.Event().wait(1)
    say({"id": key, "result": {"content": [{"type": "text", "text": text}]}})


def main() -> None:
    for line in sys.stdin:
        message = json.loads(line)
        key, method = message.get("id"), message.get("method")
        if method is None:
            with ready:
                answers[key] = message
                ready.notify_all()
        elif method == "initialize":
            info = {"name": "pushing", "version": "1"}
            result = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": info}
            say({"id": key, "result": result})
        elif method == "tools/list":
            tools = [{"name": n, "inputSchema": {"type": "object", "properties": p}} for n, p in TOOLS.items()]
            say({"id": key, "result": {"tools": tools}})
        elif method == "tools/call":
            params = message["params"]
            token = params.get("_meta", {}).get("progressToken")
            work = (key, params["name"], params.get("arguments") or {}, token)
            threading.Thread(target=call, args=work, daemon=True).start()
        elif key is not None:
            say({"id": key, "error": {"code": -32601, "message": "Method not found"}})


main()
