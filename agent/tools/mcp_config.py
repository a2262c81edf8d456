"""MCP servers as their operator writes them down: the MCP_CONFIG file, read strictly."""

import hashlib
import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from agent.egress import EgressPolicy
from agent.sandbox.policy import Mode
from agent.tools.mcp_oauth import OAuthAccess

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.-]{0,63}")
_SECRET_NAME = re.compile(r"(?i)token|key|secret|pass|cred|auth|dsn")
MAX_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class ToolMarks:
    """What the operator vouches for of one tool; a server's own word never counts."""

    read_only: bool = False
    idempotent: bool = False
    timeout_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Sandboxing:
    """What a server's program may use beside what every sandboxed program may; all that is not named, it can't."""

    network: bool = False
    read_paths: tuple[str, ...] = ()
    write_paths: tuple[str, ...] = ()
    memory_mb: int | None = 1024


@dataclass(frozen=True, slots=True)
class McpServerConfig:
    """One server: a command to run and talk to over its pipes, or a URL to talk to over HTTP.

    `sandbox` None: the program runs with our own rights, which only an operator's file may say. `guarded`: the address
    is not the operator's own, so it goes through the egress guard.
    """

    name: str
    command: str | None = None
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    url: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    tools: Mapping[str, ToolMarks] = field(default_factory=dict[str, ToolMarks])
    is_sse: bool = False
    sandbox: Sandboxing | None = None
    guarded: bool = False
    oauth: OAuthAccess | None = None

    @property
    def credentials(self) -> str | None:
        """Whose rights a call uses: always those that the server was registered with, never the caller's own."""
        if self.oauth is not None:
            return f"oauth:{self.oauth.grant}"
        return "headers" if self.headers else "env" if self.env else None

    @property
    def transport(self) -> str:
        return "stdio" if self.command is not None else "sse" if self.is_sse else "streamable_http"

    @property
    def address_hash(self) -> str:
        """The SHA-256 of the command line or the URL: what people approve is meant for what answers there."""
        address = shlex.join([self.command, *self.args]) if self.command is not None else self.url or ""
        return hashlib.sha256(address.encode()).hexdigest()

    def without_secrets(self, text: str) -> str:
        """Return a result without what the server was given in confidence, should it say it."""
        named = [value for name, value in self.env.items() if _SECRET_NAME.search(name)]
        for secret in (*named, *self.headers.values()):
            part = secret.removeprefix("Bearer ")
            if len(part) >= 8:
                text = text.replace(part, "***")
        return self.oauth.tokens.masked(text) if self.oauth else text

    def masked(self, text: str) -> str:
        """Return `text` without the values of this entry's environment and headers, which may be secrets."""
        for secret in sorted({*self.env.values(), *self.headers.values()}, key=len, reverse=True):
            for part in {secret, secret.removeprefix("Bearer ")}:
                if len(part) >= 4:
                    text = text.replace(part, "***")
        return self.oauth.tokens.masked(text) if self.oauth else text


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


@dataclass(frozen=True, slots=True)
class Keeping:
    """What holds servers that are not the operator's own: where they may be reached, and how their programs run."""

    egress: EgressPolicy = field(default_factory=EgressPolicy)
    mode: Mode = Mode.BEST_EFFORT


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
    if not NAME.fullmatch(name):
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
        tools=marks(where, fields.get("tools", {})),
        is_sse=_is_sse(where, fields),
        sandbox=sandboxing(where, fields["sandbox"]) if "sandbox" in fields else None,
    )


def _is_sse(where: str, fields: Mapping[str, Any]) -> bool:
    said = fields.get("type", fields.get("transport"))
    if said == "sse" and "url" not in fields:
        raise ValueError(f'{where}: the type "sse" goes with a "url".')
    return said == "sse"


def sandboxing(where: str, value: Any) -> Sandboxing:
    """Return what a server's program is given; raises ValueError starting with `where`."""
    if not isinstance(value, dict):
        raise ValueError(f'{where}: "sandbox" must be an object like {{"network": true, "read_paths": ["/srv"]}}.')
    given = cast("dict[str, Any]", value)
    if unknown := given.keys() - {"network", "read_paths", "write_paths", "memory_mb"}:
        raise ValueError(
            f'{where}: "sandbox" knows network, read_paths, write_paths and memory_mb, not {min(unknown)!r}.'
        )
    paths = {key: given.get(key, []) for key in ("read_paths", "write_paths")}
    for key, listed in paths.items():
        if not isinstance(listed, list) or not all(_is_path(path) for path in cast("list[Any]", listed)):
            raise ValueError(f'{where}: "{key}" of the sandbox must be a list of absolute paths, and not "/" itself.')
    memory = given.get("memory_mb", 1024)
    if memory is not None and (isinstance(memory, bool) or not isinstance(memory, int) or not 64 <= memory <= 65536):
        raise ValueError(f'{where}: "memory_mb" of the sandbox must be a whole number from 64 to 65536, or null.')
    if not isinstance(given.get("network", False), bool):
        raise ValueError(f'{where}: "network" of the sandbox must be true or false.')
    return Sandboxing(given.get("network", False), tuple(paths["read_paths"]), tuple(paths["write_paths"]), memory)


def _is_path(path: Any) -> bool:
    return isinstance(path, str) and path.startswith("/") and path.rstrip("/") != "" and path.isprintable()


def _strings(where: str, key: str, value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ValueError(f'{where}: "{key}" must be an object of strings.')
    pairs = cast("dict[str, Any]", value)
    forbidden = {"env": "\0", "headers": "\0\r\n"}[key]
    for name, text in pairs.items():
        if not isinstance(text, str) or not name or "=" in name or any(c in name + text for c in forbidden):
            raise ValueError(f'{where}: {name!r} in "{key}" must be a name with a string of ordinary characters.')
    return pairs


def marks(where: str, value: Any) -> dict[str, ToolMarks]:
    """Return what is vouched for of a server's tools; raises ValueError starting with `where`."""
    if not isinstance(value, dict):
        raise ValueError(f'{where}: "tools" must be an object from tool name to {{"read_only", "idempotent"}}.')
    return {name: _mark(f"{where}, tool {name!r}", mark) for name, mark in cast("dict[str, Any]", value).items()}


def _mark(where: str, value: Any) -> ToolMarks:
    if not isinstance(value, dict):
        raise ValueError(f'{where} must be an object like {{"read_only": true}}.')
    given = cast("dict[str, Any]", value)
    # A misspelt mark would silently loosen or tighten nothing: say so instead.
    if unknown := given.keys() - {"read_only", "idempotent", "timeout_s"}:
        raise ValueError(f'{where} has the unknown key {min(unknown)!r}: use "read_only", "idempotent" or "timeout_s".')
    for key in ("read_only", "idempotent"):
        if not isinstance(given.get(key, False), bool):
            raise ValueError(f'{where}: "{key}" must be true or false.')
    timeout = given.get("timeout_s", 60.0)
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout <= MAX_TIMEOUT_S:
        raise ValueError(f'{where}: "timeout_s" must be a number of seconds up to {MAX_TIMEOUT_S:g}.')
    return ToolMarks(given.get("read_only", False), given.get("idempotent", False), float(timeout))
