"""A declared tool's `preview`: what of the same kind says what a call would do, with fewer rights than the call."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol, cast

from agent.sandbox.policy import Mode
from agent.tools.base import PREVIEW_LIMIT, PREVIEW_S, CallContext, ToolResult
from agent.tools.declared import argv_command, http_request, kubectl_command
from agent.tools.declared.declaration import BadTool, Declaration, House
from agent.tools.declared.kubectl_words import VERBS

_PARTS = {
    "argv": frozenset({"command", "network", "secrets", "host_view"}),
    "http": frozenset({"path", "query", "secrets"}),
    "kubectl": frozenset({"dry_run"}),
}
_NEEDS = {"argv": "command", "http": "path", "kubectl": "dry_run"}


class Preview(Protocol):
    """A preview that is ready to run."""

    async def run(self, args: Mapping[str, Any], context: CallContext) -> ToolResult: ...


def build(declaration: Declaration, house: House) -> Preview | None:
    """Return the preview, if one is declared; raises BadTool for one that could do what only an approved call may.

    It writes nowhere, has network, secrets and the machine's view only where it asks for them itself, and runs in a
    whole sandbox or not at all, whatever holds for the tool.
    """
    wanted: dict[str, Any] | None = declaration.raw.get("preview")
    if wanted is None:
        return None
    kind = declaration.kind
    if kind not in _PARTS:
        raise BadTool(f"a tool of kind `{kind}` has no preview: it only reads.", "preview")
    for name in wanted:
        if name not in _PARTS[kind]:
            raise BadTool(f"the preview of a tool of kind `{kind}` has no `{name}`.", "preview", name)
    if _NEEDS[kind] not in wanted:
        raise BadTool(f"the preview of a tool of kind `{kind}` needs `{_NEEDS[kind]}`.", "preview")
    lesser = _lesser(declaration, wanted)
    strict = replace(house, mode=Mode.STRICT)
    try:
        if kind == "argv":
            return _argv(declaration, lesser, wanted, strict)
        return _http(lesser, wanted, strict) if kind == "http" else _kubectl(declaration, lesser, strict)
    except BadTool as error:
        own = error.place[:2] in (("argv", "command"), ("http", "path"), ("http", "query"))
        raise BadTool(error.problem, *(("preview", *error.place[1:]) if own else error.place)) from error


def _lesser(declaration: Declaration, wanted: dict[str, Any]) -> Declaration:
    """Return the declaration with no more rights than the preview asks for; what is hidden in answers stays hidden."""
    named: list[str] = wanted.get("secrets", [])
    for index, name in enumerate(named):
        if name not in declaration.secrets:
            raise BadTool(
                f"the secret `{name}` is not among the tool's `secrets`: add it there.", "preview", "secrets", index
            )
    if wanted.get("network", False) and not declaration.ports:
        raise BadTool("the preview can't have a network that the tool doesn't have: give it `network`.", "preview")
    if wanted.get("host_view", False) and not declaration.host_view:
        raise BadTool("the preview can't see more of the machine than the tool: give it `host_view`.", "preview")
    return replace(
        declaration,
        read_only=True,
        timeout_s=min(declaration.timeout_s, PREVIEW_S),
        secrets={name: declaration.secrets[name] for name in named},
        ports=declaration.ports if wanted.get("network", False) else (),
        read_paths=(*declaration.read_paths, *declaration.write_paths),
        write_paths=(),
        host_view=wanted.get("host_view", False),
        finish=replace(declaration.finish, max_chars=min(declaration.finish.max_chars, PREVIEW_LIMIT)),
    )


def _argv(declaration: Declaration, lesser: Declaration, wanted: dict[str, Any], house: House) -> Preview:
    if wanted["command"] == declaration.section["command"]:
        raise BadTool("the preview is the command itself: name what only says what would happen.", "preview", "command")
    env = _without_secrets(lesser, declaration.section.get("env", {}))
    section = {**declaration.section, "command": wanted["command"], "env": env}
    return argv_command.build(replace(lesser, section=section), house, all_used=False)


def _http(lesser: Declaration, wanted: dict[str, Any], house: House) -> Preview:
    headers = _without_secrets(lesser, lesser.section.get("headers", {}))
    section = {
        "origin": lesser.section["origin"],
        "path": wanted["path"],
        "query": wanted.get("query", {}),
        "headers": headers,
    }
    return http_request.build(replace(lesser, section=section), house, all_used=False)


def _kubectl(declaration: Declaration, lesser: Declaration, house: House) -> Preview:
    for index, verb in enumerate(declaration.section["verbs"]):
        if verb in VERBS and not VERBS[verb].dry_run:
            known = ", ".join(f"`{name}`" for name, found in VERBS.items() if found.dry_run)
            problem = f"`{verb}` has no dry run, so there is no preview of it: only of {known}."
            raise BadTool(problem, "kubectl", "verbs", index)
    # Built as the tool itself is: a dry run asks the same server with the same words.
    made = kubectl_command.build(replace(lesser, read_only=None, ports=declaration.ports), house)
    return replace(made, declaration=replace(made.declaration, read_only=True), dry_run=True)


def _without_secrets(lesser: Declaration, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings without those whose secret the preview doesn't ask for."""
    return {
        name: value
        for name, value in settings.items()
        if isinstance(value, str) or cast("dict[str, str]", value)["secret"] in lesser.secrets
    }
