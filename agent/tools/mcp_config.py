"""MCP servers as their operator writes them down: the MCP_CONFIG file, read strictly."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.-]{0,63}")
MAX_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class ToolMarks:
    """What the operator vouches for of one tool; a server's own word never counts."""

    read_only: bool = False
    idempotent: bool = False
    timeout_s: float = 60.0


@dataclass(frozen=True, slots=True)
class McpServerConfig:
    """One server: a command to run and talk to over its pipes, or a URL to talk to over streamable HTTP."""

    name: str
    command: str | None = None
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    url: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    tools: Mapping[str, ToolMarks] = field(default_factory=dict[str, ToolMarks])

    def masked(self, text: str) -> str:
        """Return `text` without the values of this entry's environment and headers, which may be secrets."""
        for secret in sorted({*self.env.values(), *self.headers.values()}, key=len, reverse=True):
            for part in {secret, secret.removeprefix("Bearer ")}:
                if len(part) >= 4:
                    text = text.replace(part, "***")
        return text


@dataclass(frozen=True, slots=True)
class Timing:
    """How long things may take, in seconds."""

    connect_s: float = 15.0
    list_s: float = 10.0
    wait_s: float = 5.0
    """How long a call waits for a connection that is being mended."""
    backoff_s: tuple[float, float] = (0.1, 30.0)
    steady_s: float = 10.0
    """A connection that held this long resets the backoff."""
    relist_s: float = 0.2
    """The pause after each listing, so that a server can't keep us busy with changes."""


def load_config(path: Path) -> list[McpServerConfig]:
    """Return the servers of an MCP_CONFIG file; raises ValueError naming the file and the mend."""
    try:
        document: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ValueError(
            f"MCP_CONFIG names {path}, which can't be read ({reason}): correct the path or its rights."
        ) from error
    except (ValueError, RecursionError) as error:
        where = f"line {error.lineno}: {error.msg}" if isinstance(error, json.JSONDecodeError) else type(error).__name__
        raise ValueError(f"{path} is not valid JSON ({where}): correct the file that MCP_CONFIG names.") from None
    entries = document.get("mcpServers") if isinstance(document, dict) else None
    if not isinstance(entries, dict):
        raise ValueError(f'{path} has no object "mcpServers": write {{"mcpServers": {{"name": {{"url": "..."}}}}}}.')
    servers = [
        _server(f"{path}: server {name!r}", name, entry) for name, entry in cast("dict[str, Any]", entries).items()
    ]
    return [server for server in servers if server is not None]


def _server(where: str, name: str, entry: Any) -> McpServerConfig | None:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{where}: use 1 to 64 letters, digits, spaces, dots, dashes or underscores as its name.")
    if not isinstance(entry, dict):
        raise ValueError(f'{where} must be an object with "command" or "url".')
    fields = cast("dict[str, Any]", entry)
    if fields.get("disabled") is True:
        return None
    command, url = fields.get("command"), fields.get("url")
    if (command is None) == (url is None):
        raise ValueError(f'{where} needs either "command" or "url", and not both.')
    if command is not None and not (isinstance(command, str) and command.strip() and "\0" not in command):
        raise ValueError(f'{where}: "command" must be the program to run, as a string.')
    if url is not None and not (isinstance(url, str) and re.match(r"https?://[^\s/]", url)):
        raise ValueError(f'{where}: "url" must start with http:// or https://.')
    args: list[Any] = fields.get("args", [])
    if not isinstance(args, list) or not all(isinstance(arg, str) and "\0" not in arg for arg in args):
        raise ValueError(f'{where}: "args" must be a list of strings.')
    return McpServerConfig(
        name=name,
        command=command,
        args=tuple(args),
        env=_strings(where, "env", fields.get("env", {})),
        url=url,
        headers=_strings(where, "headers", fields.get("headers", {})),
        tools=_marks(where, fields.get("tools", {})),
    )


def _strings(where: str, key: str, value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ValueError(f'{where}: "{key}" must be an object of strings.')
    pairs = cast("dict[str, Any]", value)
    forbidden = {"env": "\0", "headers": "\0\r\n"}[key]
    for name, text in pairs.items():
        if not isinstance(text, str) or not name or "=" in name or any(c in name + text for c in forbidden):
            raise ValueError(f'{where}: {name!r} in "{key}" must be a name with a string of ordinary characters.')
    return pairs


def _marks(where: str, value: Any) -> dict[str, ToolMarks]:
    if not isinstance(value, dict):
        raise ValueError(f'{where}: "tools" must be an object from tool name to {{"read_only", "idempotent"}}.')
    return {name: _mark(f"{where}, tool {name!r}", marks) for name, marks in cast("dict[str, Any]", value).items()}


def _mark(where: str, value: Any) -> ToolMarks:
    if not isinstance(value, dict):
        raise ValueError(f'{where} must be an object like {{"read_only": true}}.')
    marks = cast("dict[str, Any]", value)
    # A misspelt mark would silently loosen or tighten nothing: say so instead.
    if unknown := marks.keys() - {"read_only", "idempotent", "timeout_s"}:
        raise ValueError(f'{where} has the unknown key {min(unknown)!r}: use "read_only", "idempotent" or "timeout_s".')
    for key in ("read_only", "idempotent"):
        if not isinstance(marks.get(key, False), bool):
            raise ValueError(f'{where}: "{key}" must be true or false.')
    timeout = marks.get("timeout_s", 60.0)
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout <= MAX_TIMEOUT_S:
        raise ValueError(f'{where}: "timeout_s" must be a number of seconds up to {MAX_TIMEOUT_S:g}.')
    return ToolMarks(marks.get("read_only", False), marks.get("idempotent", False), float(timeout))
