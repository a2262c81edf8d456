"""How the fake models make up an answer: from the request alone, by markers in what a person typed.

    {{tool NAME {"json": "args"}}}        ask for that tool; several markers: parallel calls
    {{next tool NAME {...}}}              after the tools before have answered, ask for this one
    {{say TEXT}}                          answer TEXT
    {{long N}}                            answer N characters of Markdown
    {{wait SECONDS}}                      wait before answering
    {{error STATUS CODE}}                 fail, every time
    {{error STATUS CODE TIMES}}           fail that many times, then answer

NAME may be the end of an offered tool's name. A `{{tool ...}}` in a tool's result is obeyed once, as a gullible model
would. Without a marker the answer is `answer N: <text>`, N being the number of user messages, or after tools
`tools said: r1 | r2`.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

Wire = dict[str, Any]
_TOOL = re.compile(r"\{\{(next )?tool ([\w.:/-]+)\s*")
_PARAGRAPH = "**Line** with `code`, a [link](https://example.com/a_b) and *text*.\n\n"


@dataclass(frozen=True)
class Call:
    """A tool call as the service would send it."""

    name: str
    arguments: str = "{}"
    id: str = field(default_factory=lambda: f"call_{uuid4().hex[:20]}")


@dataclass(frozen=True)
class Answer:
    """What the model says, and how the wire misbehaves while it does."""

    text: str = ""
    calls: Sequence[Call] = ()
    reasoning: str = ""
    finish: str = ""
    usage: Wire | None = None
    status: int = 200
    code: str = ""
    message: str = ""
    headers: dict[str, str] = field(default_factory=dict[str, str])
    delay: float = 0
    drop_at: int | None = None
    """Cut the connection after this many frames."""
    end_at: int | None = None
    """End the stream in good order after this many frames."""
    error_at: int | None = None
    """Send `code` as an error frame after this many frames."""
    hang_at: int | None = None
    """Say nothing more after this many frames."""
    plain: str | None = None
    """Answer with this body and status 200, whatever was asked for."""

    @property
    def fails(self) -> bool:
        return self.status >= 400


def error(status: int, code: str, *, message: str = "", **headers: str) -> Answer:
    """Return an answer that is an error; `headers` with underscores for hyphens."""
    return Answer(
        status=status,
        code=code,
        message=message or f"scripted {code}",
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )


class Script:
    """A mind that obeys markers; it remembers only how often it has failed as told."""

    def __init__(self) -> None:
        self._failures: Counter[str] = Counter()

    def answer(self, messages: Sequence[Wire], offered: Sequence[str]) -> Answer:
        """Return the answer to this conversation."""
        newest = max((i for i, message in enumerate(messages) if message["role"] == "user"), default=-1)
        prompt = text_of(messages[newest]) if newest >= 0 else ""
        wait = re.search(r"\{\{wait ([\d.]+)\}\}", prompt)
        delay = float(wait[1]) if wait else 0
        if failure := self._failure(prompt):
            return replace(failure, delay=delay)
        return replace(_decision(messages, newest, prompt, offered), delay=delay)

    def _failure(self, prompt: str) -> Answer | None:
        found = re.search(r"\{\{error (\d+) ([\w.]+)(?: (\d+))?\}\}", prompt)
        if found is None:
            return None
        self._failures[prompt] += 1
        if found[3] and self._failures[prompt] > int(found[3]):
            return None
        return error(int(found[1]), found[2])


def _decision(messages: Sequence[Wire], newest: int, prompt: str, offered: Sequence[str]) -> Answer:
    since = messages[newest + 1 :]
    results = [text_of(message) for message in since if message["role"] == "tool"]
    rounds = sum(1 for message in since if message.get("tool_calls"))
    if calls := _wanted(prompt, results, rounds, offered):
        return Answer(calls=calls)
    if found := re.search(r"\{\{long (\d+)\}\}", prompt):
        size = int(found[1])
        return Answer(text=(_PARAGRAPH * (size // len(_PARAGRAPH) + 1))[:size])
    if found := re.search(r"\{\{say (.*?)\}\}", prompt, re.DOTALL):
        return Answer(text=found[1])
    if results:
        return Answer(text=f"tools said: {' | '.join(results)}")
    count = sum(1 for message in messages if message["role"] == "user")
    return Answer(text=f"answer {count}: {prompt}")


def _wanted(prompt: str, results: Sequence[str], rounds: int, offered: Sequence[str]) -> list[Call]:
    injected = [call for result in results for call in _calls(result, later=False)]
    if rounds == 0:
        wanted = list(_calls(prompt, later=False))
    elif rounds == 1 and injected:
        wanted = injected
    else:
        wanted = list(_calls(prompt, later=True))[rounds - 1 : rounds]
    return [replace(call, name=_resolved(call.name, offered)) for call in wanted]


def _calls(text: str, *, later: bool) -> Iterator[Call]:
    for found in _TOOL.finditer(text):
        if bool(found[1]) is not later:
            continue
        start = found.end()
        try:
            _, end = json.JSONDecoder().raw_decode(text, start)
        except json.JSONDecodeError:
            continue
        if text[end:].lstrip().startswith("}}"):
            yield Call(found[2], text[start:end])


def _resolved(name: str, offered: Sequence[str]) -> str:
    if name in offered:
        return name
    return min((other for other in offered if other.endswith(name)), key=len, default=name)


def text_of(message: Wire) -> str:
    """Return the text of a message in either of its wire forms."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


def refusal(messages: Sequence[Wire]) -> str | None:
    """Return why the service would not take this history, as strictly as it does."""
    if not messages:
        return "messages must not be empty"
    unanswered: set[str] = set()
    for message in messages:
        role = message.get("role")
        if role == "tool":
            if message.get("tool_call_id") not in unanswered:
                return 'messages with role "tool" must be a response to a preceding message with "tool_calls"'
            unanswered.discard(message["tool_call_id"])
            continue
        if unanswered:
            break
        if role not in ("system", "user", "assistant"):
            return f"unknown role {role!r}"
        calls = message.get("tool_calls") or []
        if why := _call_refusal(message, calls):
            return why
        unanswered = {call["id"] for call in calls}
    return 'an assistant message with "tool_calls" must be followed by tool messages' if unanswered else None


def _call_refusal(message: Wire, calls: Sequence[Wire]) -> str | None:
    if not calls:
        return None if text_of(message).strip() else "content must not be empty"
    if message["role"] != "assistant":
        return "only the assistant calls tools"
    if len({call.get("id") for call in calls}) != len(calls):
        return "tool call ids must differ"
    for call in calls:
        function = call.get("function") or {}
        if not (call.get("id") and function.get("name")):
            return "a tool call needs an id and a function name"
        try:
            arguments = json.loads(function["arguments"])
        except ValueError:
            return "function.arguments must be JSON"
        if not isinstance(arguments, dict):
            return "function.arguments must be an object"
    return None
