"""The kind `http`: a request to one fixed origin, its path, query and body filled from parameters."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.egress import EgressRefused, check_url
from agent.tools.base import CallContext, Outcome, ToolResult
from agent.tools.declared import templates
from agent.tools.declared.declaration import BadTool, Declaration, House
from agent.tools.declared.exchange import Answer, NoAnswer, ask
from agent.tools.declared.parameters import input_schema, values

MAX_BYTES = 256 * 1024
_READS = ("GET", "HEAD")
_OURS = frozenset({"host", "content-length", "transfer-encoding", "connection", "accept-encoding", "upgrade", "te"})


@dataclass(frozen=True)
class HttpRequest:
    """A request that is ready to be filled and sent."""

    declaration: Declaration
    house: House
    headers: dict[str, str] = field(repr=False)
    read_only: bool

    @property
    def schema(self) -> dict[str, Any]:
        return input_schema(self.declaration.parameters)

    async def run(self, args: Mapping[str, Any], context: CallContext) -> ToolResult:
        section, given = self.declaration.section, values(self.declaration.parameters, args)
        headers = dict(self.headers)
        if (name := section.get("idempotency_header")) and context.approval_id:
            headers[name] = str(context.approval_id)
        try:
            answer = await ask(
                self.house,
                section.get("method", "GET"),
                section["origin"] + templates.path(section["path"], given),
                params=templates.query(section.get("query", {}), given),
                headers=headers,
                json=templates.body(section["body"], given) if "body" in section else None,
                timeout_s=self.declaration.timeout_s,
                max_bytes=section.get("max_bytes", MAX_BYTES),
            )
        except NoAnswer as error:
            unknown = error.sent and not (self.read_only or self.declaration.idempotent)
            note = " Whether it took effect is not known." if unknown else ""
            text = self.declaration.finish.apply(f"{error}{note}")
            return ToolResult(text, Outcome.UNKNOWN if unknown else Outcome.FAILED)
        outcome = Outcome.SUCCEEDED if answer.status < 400 else Outcome.FAILED
        return ToolResult(self._told(answer), outcome, for_people=self.declaration.finish.for_people)

    def _told(self, answer: Answer) -> str:
        head = f"HTTP {answer.status} {answer.phrase} in {answer.took_ms} ms".replace("  ", " ")
        cut = "\n[the answer was longer and is cut here]" if answer.cut else ""
        return self.declaration.finish.apply(f"{head}\n{answer.text}{cut}".strip())


def build(declaration: Declaration, house: House, *, all_used: bool = True) -> HttpRequest:
    """Return the request; raises BadTool where a value could change where it goes.

    `all_used`: a parameter that stands nowhere in it is a mistake.
    """
    section = declaration.section
    method = section.get("method", "GET")
    if declaration.read_only and method not in (*_READS, "POST"):
        raise BadTool(f"a {method} changes things, so the tool is not `read_only`.", "read_only")
    if "body" in section and method in _READS:
        raise BadTool(f"a {method} has no body.", "http", "body")
    check_origin(section["origin"], "http", "origin")
    used = templates.check(declaration, section["path"], "http", "path")
    used |= templates.check(declaration, section.get("query", {}), "http", "query")
    used |= templates.check(declaration, section.get("body"), "http", "body")
    for name in declaration.parameters:
        if all_used and name not in used:
            raise BadTool(f"the parameter `{name}` is used nowhere.", "parameters", name)
    read_only = method in _READS if declaration.read_only is None else declaration.read_only
    return HttpRequest(declaration, house, plain_headers(declaration, "http", "headers"), read_only)


def check_origin(origin: str, *place: str) -> None:
    """Raise BadTool for an origin that no tool can have."""
    if "{" in origin:
        raise BadTool("the origin is fixed: it can't have parameters.", *place)
    try:
        check_url(origin)
    except EgressRefused as error:
        raise BadTool(error.message, *place) from error


def plain_headers(declaration: Declaration, *place: str) -> dict[str, str]:
    """Return the declared headers; raises BadTool for those that the connection itself sets."""
    headers = declaration.settings(*place)
    for name, value in headers.items():
        if name.lower() in _OURS or not name.replace("-", "").isalnum():
            raise BadTool(f"`{name}` can't be set here.", *place, name)
        if not value.isascii():
            raise BadTool(f"`{name}` must be plain ASCII.", *place, name)
    return headers
