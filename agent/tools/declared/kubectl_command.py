"""The kind `kubectl`: verbs, resources, namespaces and flags from the file's lists, and nothing else of kubectl."""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from agent.tools.base import CallContext, Outcome, ToolResult
from agent.tools.declared import process
from agent.tools.declared.declaration import BadTool, Declaration, House
from agent.tools.declared.kubectl_words import CLUSTER_WIDE, FLAGS, LABEL, NAME, VERBS, Verb
from agent.tools.declared.parameters import Parameter, Unfit, input_schema, text_of, values

PORTS = (443, 6443)
_SECRETS = re.compile(r"secrets?(\..*)?")


@dataclass(frozen=True)
class KubectlCommand:
    """A guarded kubectl that is ready to run."""

    declaration: Declaration
    house: House
    program: str
    parameters: dict[str, Parameter]
    read_only: bool
    dry_run: bool = False
    """The server is only asked what it would do."""

    @property
    def schema(self) -> dict[str, Any]:
        return input_schema(self.parameters)

    async def run(self, args: Mapping[str, Any], context: CallContext) -> ToolResult:
        kubeconfig = cast("str", self.declaration.section["kubeconfig"])
        command = self.command(args)
        if not await asyncio.to_thread(Path(kubeconfig).is_file):
            return ToolResult(
                f"There is no kubeconfig at {kubeconfig}: an operator must put one there.", Outcome.FAILED
            )
        return await process.finish(self.declaration, self.house, command, {}, read_paths=(kubeconfig,))

    def command(self, args: Mapping[str, Any]) -> list[str]:
        """Return the exact command of a call."""
        given, section = values(self.parameters, args), self.declaration.section
        verb = VERBS[given.pop("verb", section["verbs"][0])]
        resource = cast("str", given.pop("resource", section["resources"][0]))
        name = given.pop("name", None)
        if verb.resources and resource not in verb.resources:
            raise Unfit(f"`{verb.words}` is not for {resource}, only for {', '.join(sorted(verb.resources))}.")
        if name is None and verb.needs_name:
            raise Unfit(f"`{verb.words}` needs a `name`.")
        made = [self.program, f"--kubeconfig={section['kubeconfig']}"]
        made += [f"--context={section['context']}"] if "context" in section else []
        made += [
            *verb.words.split(),
            *([resource] if verb.form == "verb TYPE" else []),
            *verb.fixed,
            *(["--dry-run=server"] if self.dry_run else []),
            *self._where(resource, given),
        ]
        for flag, value in given.items():
            if flag not in verb.flags:
                if flag in args:
                    raise Unfit(f"`{verb.words}` has no `{flag}`.")
                continue
            made += [] if value is False else [f"{FLAGS[flag].option}={text_of(value)}"]
        missing = [flag for flag in verb.needs if flag not in given]
        if missing:
            raise Unfit(f"`{verb.words}` needs `{missing[0]}`.")
        # No value below can start with `-` as their patterns are; `--` holds even if one of them is loosened.
        return [*made, "--", *_target(verb, resource, name)]

    def _where(self, resource: str, given: dict[str, Any]) -> list[str]:
        everywhere = given.pop("all_namespaces", False)
        namespace = given.pop("namespace", None)
        allowed = self.declaration.section["namespaces"]
        if resource in CLUSTER_WIDE:
            return []
        if everywhere:
            return ["--all-namespaces=true"]
        if namespace is None and (len(allowed) > 1 or allowed == ["*"]):
            raise Unfit("`namespace` is missing: say which.")
        return [f"--namespace={namespace or allowed[0]}"]


def _target(verb: Verb, resource: str, name: str | None) -> list[str]:
    if verb.form == "TYPE/NAME":
        return [f"{resource}/{name}"]
    kind = [resource] if verb.form == "TYPE NAME" else []
    return [*kind, name] if name else kind


def build(declaration: Declaration, house: House) -> KubectlCommand:
    """Return the guarded kubectl; raises BadTool for what is never allowed or not known."""
    section = declaration.section
    if declaration.parameters:
        raise BadTool("a kubectl tool's parameters follow from its lists: remove `parameters`.", "parameters")
    for index, verb in enumerate(section["verbs"]):
        if verb not in VERBS:
            known = ", ".join(f"`{name}`" for name in VERBS)
            raise BadTool(f"`{verb}` is no verb for this tool; there are {known}.", "kubectl", "verbs", index)
    writes = [verb for verb in section["verbs"] if VERBS[verb].writes]
    if writes and declaration.read_only:
        raise BadTool(f"`{writes[0]}` changes things, so the tool is not `read_only`.", "read_only")
    _check_resources(section)
    _check_flags(section)
    program = process.program_path(section.get("program", "kubectl"), "kubectl", "program")
    ready = replace(declaration, read_only=not writes, ports=declaration.ports or PORTS, memory_mb=None)
    # `read_only: false` is the operator's word that people are to be asked, although it only reads.
    return KubectlCommand(
        ready, house, program, _parameters(section), not writes and declaration.read_only is not False
    )


def _check_resources(section: dict[str, Any]) -> None:
    for index, resource in enumerate(section["resources"]):
        if _SECRETS.fullmatch(resource) and not section.get("allow_secrets", False):
            raise BadTool(
                f"`{resource}` shows secrets to all who read the answer: remove it, or set `allow_secrets: true`.",
                *("kubectl", "resources", index),
            )
    if "*" in section["namespaces"] and len(section["namespaces"]) > 1:
        raise BadTool('write `namespaces: ["*"]` alone, or name them.', "kubectl", "namespaces")


def _check_flags(section: dict[str, Any]) -> None:
    usable = sorted({flag for verb in section["verbs"] for flag in VERBS[verb].flags})
    for index, flag in enumerate(section.get("flags", ())):
        place = ("kubectl", "flags", index)
        if flag not in usable:
            known = ", ".join(f"`{name}`" for name in usable) or "none"
            raise BadTool(f"`{flag}` is no flag for these verbs; there are {known}.", *place)
        if flag == "all_namespaces" and section["namespaces"] != ["*"]:
            raise BadTool('`all_namespaces` needs `namespaces: ["*"]`.', *place)


def _parameters(section: dict[str, Any]) -> dict[str, Parameter]:
    """Return the parameters that the lists leave open; a list of one is no question."""
    verbs, resources, namespaces = section["verbs"], section["resources"], section["namespaces"]
    found: dict[str, dict[str, Any]] = {}
    if len(verbs) > 1:
        found["verb"] = {"type": "string", "enum": verbs, "required": True}
    if len(resources) > 1:
        found["resource"] = {"type": "string", "enum": resources, "required": True}
    found["name"] = {**NAME, "required": all(VERBS[verb].needs_name for verb in verbs)}
    if not all(resource in CLUSTER_WIDE for resource in resources):
        optional = "all_namespaces" in section.get("flags", ()) or any(item in CLUSTER_WIDE for item in resources)
        if namespaces == ["*"]:
            found["namespace"] = {**LABEL, "required": not optional}
        elif len(namespaces) > 1:
            found["namespace"] = {"type": "string", "enum": namespaces, "required": not optional}
    for flag in (*section.get("flags", ()), *(flag for verb in verbs for flag in VERBS[verb].needs)):
        needed = all(flag in VERBS[verb].needs for verb in verbs)
        found[flag] = {**FLAGS[flag].schema, "required": needed}
    return {name: Parameter.of(name, declared) for name, declared in found.items()}
