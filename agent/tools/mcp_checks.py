"""What may be registered as an MCP server: pure checks, each refusal a sentence for the admin."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from agent.egress import check_url
from agent.errors import Conflict, Invalid
from agent.tools.mcp_config import NAME, marks, sandboxing
from agent.tools.mcp_oauth import Grant, OAuthSettings

TRANSPORTS = ("stdio", "streamable_http", "sse")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_LOADERS = re.compile(r"(LD_|DYLD_|PYTHON|NODE_OPTIONS|NODE_PATH|PERL5|RUBY|JAVA_TOOL_OPTIONS|_JAVA_OPTIONS|GIT_SSH)")
_VISIBLE = re.compile(r"[\x20-\x7e]+")
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+( [\x21\x23-\x5b\x5d-\x7e]+)*")
_SHELLS = frozenset({"PATH", "BASH_ENV", "ENV", "IFS", "SHELL", "HOME", "TMPDIR"})
_OURS = frozenset({"host", "content-length", "content-type", "transfer-encoding", "connection", "accept-encoding"})


class BadServer(Invalid):
    code = "bad_server"


class NotConfirmed(Conflict):
    """The exact command line was not confirmed."""

    code = "command_not_confirmed"

    def __init__(self, line: str) -> None:
        super().__init__(f"This would run `{line}`: send exactly that as confirm_command if you mean it.")
        self.line = line


@dataclass(frozen=True, slots=True)
class Wanted:
    """A server as an admin wants it."""

    name: str
    transport: str
    command: str | None = None
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    url: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    sandbox: Mapping[str, Any] = field(default_factory=dict[str, Any])
    tools: Mapping[str, Any] = field(default_factory=dict[str, Any])
    enabled: bool = True
    oauth: OAuthSettings | None = None

    @property
    def address(self) -> str:
        """The command line, or the URL's origin: what secrets are meant for."""
        if self.command is not None:
            return shlex.join([self.command, *self.args])
        parts = urlsplit(self.url or "")
        return f"{parts.scheme}://{parts.netloc}".lower()


def check(wanted: Wanted, confirm_command: str | None) -> None:
    """Raise why the server can't be registered so; whether its address may be reached is for the egress guard."""
    if not NAME.fullmatch(wanted.name):
        raise BadServer("`name` takes 1 to 64 letters, digits, spaces, dots, dashes or underscores.")
    if wanted.transport not in TRANSPORTS:
        raise BadServer(f"`transport` is one of {', '.join(TRANSPORTS)}.")
    try:
        sandboxing("`sandbox`", dict(wanted.sandbox))
        marks("`tools`", dict(wanted.tools))
    except ValueError as error:
        raise BadServer(str(error)) from error
    if wanted.transport == "stdio":
        _check_program(wanted, confirm_command)
    else:
        _check_address(wanted)


def _check_program(wanted: Wanted, confirm_command: str | None) -> None:
    if wanted.url is not None or wanted.headers or wanted.oauth is not None:
        raise BadServer("A stdio server has a command, and neither `url` nor `headers` nor `oauth`.")
    if wanted.command is None or not wanted.command.strip():
        raise BadServer("A stdio server needs the `command` to run.")
    for word in (wanted.command, *wanted.args):
        if not word.isprintable():
            raise BadServer("Command and arguments take no line breaks, NUL, control or invisible characters.")
    for name, value in wanted.env.items():
        _check_variable(name, value)
    line = shlex.join([wanted.command, *wanted.args])
    if confirm_command != line:
        raise NotConfirmed(line)


def _check_variable(name: str, value: str) -> None:
    if not _ENV_NAME.fullmatch(name):
        raise BadServer(f"`{name[:80]!a}` in `env` is no name of a variable.")
    if name.upper() in _SHELLS or _LOADERS.match(name.upper()):
        raise BadServer(f"`{name}` in `env` decides which code runs, not what it works with: leave it out.")
    if any(ord(letter) < 0x20 or ord(letter) == 0x7F for letter in value):
        raise BadServer(f"The value of `{name}` in `env` has a line break or a control character in it.")


def _check_address(wanted: Wanted) -> None:
    if wanted.command is not None or wanted.args or wanted.env or wanted.sandbox:
        raise BadServer("A server with a `url` has neither `command` nor `args`, `env` or `sandbox`.")
    if wanted.url is None:
        raise BadServer(f"A {wanted.transport} server needs a `url`.")
    check_url(wanted.url)
    for name, value in wanted.headers.items():
        if not _HEADER_NAME.fullmatch(name) or name.lower() in _OURS or name.lower().startswith("mcp-"):
            raise BadServer(f"`{name[:80]!a}` is no header that you can set here.")
        if not value.isascii() or not value.isprintable():
            raise BadServer(f"The value of the header `{name}` takes plain ASCII on one line.")
    if wanted.oauth is not None:
        _check_oauth(wanted.oauth, wanted.headers)


def _check_oauth(oauth: OAuthSettings, headers: Mapping[str, str]) -> None:
    if any(name.lower() == "authorization" for name in headers):
        raise BadServer("With `oauth` the Authorization header is opsagent's own: leave it out of `headers`.")
    if oauth.grant is Grant.CLIENT_CREDENTIALS and not (oauth.client_id and oauth.client_secret):
        raise BadServer("`oauth` with the grant client_credentials needs `client_id` and `client_secret`.")
    if oauth.client_secret is not None and oauth.client_id is None:
        raise BadServer("`client_secret` belongs to a `client_id`: send both.")
    for name, value in (("client_id", oauth.client_id), ("client_secret", oauth.client_secret)):
        if value is not None and not _VISIBLE.fullmatch(value):
            raise BadServer(f"`{name}` of `oauth` takes plain ASCII on one line.")
    if oauth.scope is not None and not _SCOPE.fullmatch(oauth.scope):
        raise BadServer("`scope` of `oauth` is a list of words, one space between them.")
    if oauth.issuer is not None:
        check_url(oauth.issuer)
