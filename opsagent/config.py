"""Settings: the environment and `.env`, read once; no other module reads them."""

import os
import re
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar
from urllib.parse import unquote, urlsplit

import platformdirs
from dotenv import dotenv_values
from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from agent.egress import EgressPolicy
from agent.sandbox.policy import Mode
from agent.tools.redaction import pattern_problem

T = TypeVar("T")
SlackMode = Literal["socket", "http"]

_SECRET_KEY_BYTES = 32
_APPROVER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+@-]{0,127}")
_HOST = re.compile(r"[A-Za-z0-9_.:/\[\]-]{1,255}")
_TOOL_SECRET = "OPSAGENT_TOOL_SECRET_"  # noqa: S105 - the start of a variable's name
_WHOLE = "must be a whole number"
# What a right value is, and an example of one; a wrong value's sentence is made from both.
_RIGHT: dict[str, tuple[str, str]] = {
    "DATABASE_URL": (
        "must be an address that starts with postgresql:// or postgres://",
        "postgresql://opsagent:password@localhost:5432/opsagent",
    ),
    "API_KEY": ("must be one line of text", "a-long-random-value"),
    "SECRET_KEY": (
        f"must be one or more keys of at least {_SECRET_KEY_BYTES} bytes, separated by commas, newest first",
        "<what `openssl rand -hex 32` prints>",
    ),
    "LOG_LEVEL": ("must be DEBUG, INFO, WARNING, ERROR or CRITICAL", "INFO"),
    "TONGYI_BASE_URL": (
        "must be an http(s) address that ends in /api/v1 (not the compatible-mode one)",
        "https://dashscope.aliyuncs.com/api/v1",
    ),
    "SLACK_API_URL": ("must be an http(s) address", "https://slack.com/api/"),
    "SLACK_BOT_TOKEN": ("must be a bot token, which starts with xoxb-", "xoxb-..."),
    "SLACK_APP_TOKEN": ("must be an app-level token, which starts with xapp-", "xapp-..."),
    "APPROVERS": (
        "must be a comma list of Slack user ids (U...), Slack user-group ids (S...) or usernames of accounts here",
        "U0123ABCD,S0456EFGH,alice",
    ),
    "TOOLS_DIR": ("must be a folder that can be read", "./tools"),
    "MCP_CONFIG": ("must be a file that can be read", "./mcp.json"),
    "OPEN_REGISTRATION": ("must be true or false", "false"),
    "HOST": ("must be a host name or an IP address alone", "127.0.0.1"),
    "PORT": (f"{_WHOLE} from 1 to 65535", "8000"),
    "PUBLIC_URL": (
        "must be the http(s) address under which browsers reach opsagent, without query or user",
        "https://opsagent.example.com",
    ),
    "OPSAGENT_OUTSIDERS_MAY_CHAT": ("must be true or false", "false"),
    "OPSAGENT_HOME": ("must be a folder, or a path where one can be made", "/var/lib/opsagent"),
    "OPSAGENT_ALLOW_HOSTS": (
        "must be a comma list of private hosts and networks that tools may reach: name, name:port or 10.1.0.0/16",
        "prometheus.internal:9090,10.1.0.0/16",
    ),
    "OPSAGENT_SANDBOX": ("must be strict, best_effort or off", "best_effort"),
    "OPSAGENT_REDACT": ("must be a regular expression of what tool results must not show", "(?i)password=\\S+"),
    "OPSAGENT_ASYNCPG_POOL_SIZE": (f"{_WHOLE} from 2 to 500", "20"),
    "OPSAGENT_PSYCOPG_POOL_SIZE": (f"{_WHOLE} from 2 to 500", "10"),
    "OPSAGENT_WORKER_CONCURRENCY": (f"{_WHOLE} from 1 to 1000", "20"),
    "OPSAGENT_MAX_MODEL_CALLS": (f"{_WHOLE} from 1 to 1000", "25"),
    "OPSAGENT_MAX_TOOL_CALLS": (f"{_WHOLE} from 1 to 1000", "50"),
    "OPSAGENT_TURN_TIMEOUT_S": (f"{_WHOLE} of seconds from 1 to 86400", "900"),
    "OPSAGENT_APPROVAL_EXPIRES_S": (f"{_WHOLE} of seconds from 1 to 31536000", "86400"),
    "OPSAGENT_QUESTION_WAIT_S": (f"{_WHOLE} of seconds from 1 to 3600", "600"),
    "OPSAGENT_MODEL_WINDOW_TOKENS": (f"{_WHOLE} from 1000 to 1000000", "24000"),
}
_SHOWN = _RIGHT.keys() - {"DATABASE_URL", "API_KEY", "SECRET_KEY", "SLACK_BOT_TOKEN", "SLACK_APP_TOKEN"}


class SettingsError(Exception):
    """A setting is wrong; the message is one sentence that says which, and how a right one looks."""


def _default_home() -> Path:
    return platformdirs.user_data_path("opsagent")


class Settings(BaseSettings):
    """Everything an operator may set. A variable that is empty counts as unset."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", frozen=True, hide_input_in_errors=True)

    database_url: SecretStr | None = None
    api_key: SecretStr | None = None
    secret_key: SecretStr | None = None
    log_level: str = "INFO"
    tongyi_api_key: SecretStr | None = None
    tongyi_model_name: str = "qwen-plus"
    tongyi_base_url: str = "https://dashscope.aliyuncs.com/api/v1"
    slack_bot_token: SecretStr | None = None
    slack_app_token: SecretStr | None = None
    slack_signing_secret: SecretStr | None = None
    slack_client_id: str | None = None
    slack_client_secret: SecretStr | None = None
    slack_api_url: str = "https://slack.com/api/"
    approvers: Annotated[tuple[str, ...], NoDecode] = ()
    tools_dir: Path | None = None
    mcp_config: Path | None = None
    open_registration: bool = False
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=1, le=65535)
    public_url: str | None = None
    opsagent_home: Path = Field(default_factory=_default_home)

    allow_hosts: Annotated[tuple[str, ...], NoDecode] = Field(default=(), validation_alias="OPSAGENT_ALLOW_HOSTS")
    sandbox: Mode = Field(default=Mode.BEST_EFFORT, validation_alias="OPSAGENT_SANDBOX")
    redact: str | None = Field(default=None, validation_alias="OPSAGENT_REDACT")
    outsiders_may_chat: bool = Field(default=False, validation_alias="OPSAGENT_OUTSIDERS_MAY_CHAT")
    asyncpg_pool_size: int = Field(default=20, ge=2, le=500, validation_alias="OPSAGENT_ASYNCPG_POOL_SIZE")
    psycopg_pool_size: int = Field(default=10, ge=2, le=500, validation_alias="OPSAGENT_PSYCOPG_POOL_SIZE")
    worker_concurrency: int = Field(default=20, ge=1, le=1000, validation_alias="OPSAGENT_WORKER_CONCURRENCY")
    max_model_calls: int = Field(default=25, ge=1, le=1000, validation_alias="OPSAGENT_MAX_MODEL_CALLS")
    max_tool_calls: int = Field(default=50, ge=1, le=1000, validation_alias="OPSAGENT_MAX_TOOL_CALLS")
    turn_timeout_s: int = Field(default=900, ge=1, le=86_400, validation_alias="OPSAGENT_TURN_TIMEOUT_S")
    approval_expires_s: int = Field(default=86_400, ge=1, le=31_536_000, validation_alias="OPSAGENT_APPROVAL_EXPIRES_S")
    question_wait_s: int = Field(default=600, ge=1, le=3_600, validation_alias="OPSAGENT_QUESTION_WAIT_S")
    model_window_tokens: int = Field(
        default=24_000, ge=1000, le=1_000_000, validation_alias="OPSAGENT_MODEL_WINDOW_TOKENS"
    )

    @property
    def home(self) -> Path:
        """Where generated keys and the embedded database live."""
        return self.opsagent_home

    @property
    def base_url(self) -> str:
        """The address under which browsers reach opsagent; on this machine, unless PUBLIC_URL says otherwise."""
        if self.public_url:
            return self.public_url
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)  # noqa: S104 - read, not listened on
        return f"http://[{host}]:{self.port}" if ":" in host and "[" not in host else f"http://{host}:{self.port}"

    @property
    def secret_keys(self) -> tuple[SecretStr, ...]:
        """The keys that sign and encrypt, newest first: the first makes, all of them read."""
        return tuple(SecretStr(key) for key in _parts(_plain(self.secret_key)))

    @property
    def egress(self) -> EgressPolicy:
        """Where tools and registered MCP servers may be reached beside the public internet."""
        networks = [entry for entry in self.allow_hosts if "/" in entry]
        return EgressPolicy.of([entry for entry in self.allow_hosts if "/" not in entry], networks)

    @property
    def tool_secrets(self) -> dict[str, str]:
        """The secrets that tools may ask for by name, from OPSAGENT_TOOL_SECRET_<NAME>."""
        found = {**dotenv_values(".env"), **os.environ}
        return {
            name.removeprefix(_TOOL_SECRET): value
            for name, value in found.items()
            if name.startswith(_TOOL_SECRET) and len(name) > len(_TOOL_SECRET) and value
        }

    @property
    def slack_mode(self) -> SlackMode | None:
        """How Slack reaches us; Socket Mode wins where both are set."""
        if self.slack_bot_token is None and self.slack_client_id is None:
            return None
        return "socket" if self.slack_app_token else "http"

    @property
    def secret_values(self) -> tuple[str, ...]:
        """Every secret as text, for whatever must keep them out of sight."""
        secrets = (value for _, value in self if isinstance(value, SecretStr))
        found = {secret.get_secret_value() for secret in (*secrets, *self.secret_keys)}
        if password := urlsplit(_plain(self.database_url)).password:
            found |= {password, unquote(password)}
        found |= set(self.tool_secrets.values())
        return tuple(sorted(found))

    @model_validator(mode="before")
    @classmethod
    def _empty_is_unset(cls, values: dict[str, Any]) -> dict[str, Any]:
        stripped = {name: value.strip() if isinstance(value, str) else value for name, value in values.items()}
        return {name: value for name, value in stripped.items() if value != ""}

    @field_validator("log_level")
    @classmethod
    def _known_level(cls, level: str) -> str:
        return _must(level.upper(), level.upper() in {"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"})

    @field_validator("database_url")
    @classmethod
    def _postgres(cls, url: SecretStr | None) -> SecretStr | None:
        parts = urlsplit(_plain(url))
        parts.port  # noqa: B018 - raises where it is no number
        return _must(url, url is None or parts.scheme in {"postgresql", "postgres"})

    @field_validator("api_key")
    @classmethod
    def _one_line(cls, key: SecretStr | None) -> SecretStr | None:
        return _must(key, _plain(key).isprintable())

    @field_validator("secret_key")
    @classmethod
    def _long_enough(cls, key: SecretStr | None) -> SecretStr | None:
        parts = _parts(_plain(key))
        return _must(key, key is None or (bool(parts) and all(len(p.encode()) >= _SECRET_KEY_BYTES for p in parts)))

    @field_validator("slack_bot_token", "slack_app_token")
    @classmethod
    def _right_kind(cls, token: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        start = "xoxb-" if info.field_name == "slack_bot_token" else "xapp-"
        return _must(token, token is None or _plain(token).startswith(start))

    @field_validator("public_url")
    @classmethod
    def _base(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises where it is no number
        is_plain = "@" not in parts.netloc and not parts.query and not parts.fragment and url.isprintable()
        return _must(url.rstrip("/"), _is_web(url) and is_plain and " " not in url)

    @field_validator("slack_api_url")
    @classmethod
    def _slack_base(cls, url: str) -> str:
        return _must(url.rstrip("/") + "/", _is_web(url))

    @field_validator("tongyi_base_url")
    @classmethod
    def _tongyi_base(cls, url: str) -> str:
        return _must(url.rstrip("/"), _is_web(url) and url.rstrip("/").endswith("/api/v1"))

    @field_validator("approvers", mode="before")
    @classmethod
    def _comma_list(cls, names: object) -> tuple[str, ...]:
        listed = _parts(names) if isinstance(names, str) else tuple(names) if isinstance(names, (tuple, list)) else ()
        return _must(listed, all(isinstance(name, str) and _APPROVER.fullmatch(name) for name in listed))

    @field_validator("allow_hosts", mode="before")
    @classmethod
    def _hosts(cls, hosts: object) -> tuple[str, ...]:
        listed = _parts(hosts) if isinstance(hosts, str) else tuple(hosts) if isinstance(hosts, (tuple, list)) else ()
        for entry in listed:
            if "/" in entry:
                ip_network(entry)
        return _must(listed, all(isinstance(entry, str) and _HOST.fullmatch(entry) for entry in listed))

    @field_validator("redact")
    @classmethod
    def _expression(cls, pattern: str | None) -> str | None:
        return _must(pattern, pattern is None or pattern_problem(pattern) is None)

    @field_validator("tools_dir", "mcp_config")
    @classmethod
    def _readable(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        if path is None:
            return None
        path = path.expanduser().absolute()
        is_kind = os.path.isdir if info.field_name == "tools_dir" else os.path.isfile
        return _must(path, is_kind(path) and os.access(path, os.R_OK))

    @field_validator("host")
    @classmethod
    def _bare_host(cls, host: str) -> str:
        return _must(host, re.fullmatch(r"[A-Za-z0-9_.-]+|[0-9A-Fa-f:.]+(%\w+)?", host) is not None)

    @field_validator("opsagent_home")
    @classmethod
    def _home_folder(cls, home: Path) -> Path:
        home = home.expanduser().absolute()
        nearest = next(path for path in (home, *home.parents) if os.path.lexists(path))
        return _must(home, os.path.isdir(nearest))

    @model_validator(mode="after")
    def _slack_is_whole(self) -> Self:
        if (self.slack_client_id is None) != (self.slack_client_secret is None):
            raise ValueError(
                "SLACK_CLIENT_ID and SLACK_CLIENT_SECRET belong together: set both (from the Slack app's Basic "
                "Information page) or neither."
            )
        door = self.slack_app_token or self.slack_signing_secret
        if self.slack_bot_token and not door:
            raise ValueError(
                "SLACK_BOT_TOKEN needs a way for Slack to reach us: set SLACK_APP_TOKEN=xapp-... for Socket Mode, "
                "or SLACK_SIGNING_SECRET for HTTP."
            )
        if self.slack_client_id and not self.slack_signing_secret:
            raise ValueError(
                "SLACK_CLIENT_ID needs SLACK_SIGNING_SECRET too (from the Slack app's Basic Information page): "
                "installing by OAuth works over HTTP."
            )
        if door and not self.slack_bot_token and not self.slack_client_id:
            name = "SLACK_APP_TOKEN" if self.slack_app_token else "SLACK_SIGNING_SECRET"
            raise ValueError(
                f"{name} alone can't answer in Slack: set SLACK_BOT_TOKEN=xoxb-... too (from the Slack app's "
                "OAuth & Permissions page)."
            )
        return self


def load_settings() -> Settings:
    """Read the settings once, or raise `SettingsError` for the first wrong one."""
    try:
        return Settings()
    except ValidationError as error:
        raise SettingsError(_sentence(error)) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SettingsError(f"The file .env in this folder can't be read ({reason}): mend or remove it.") from None


def _sentence(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    if not first["loc"]:
        return first["msg"].removeprefix("Value error, ")
    name = str(first["loc"][0]).upper()
    right, example = _RIGHT.get(name, ("has a wrong value", "..."))
    given = str(first["input"])
    is_shown = name in _SHOWN and not ("://" in given and "@" in given)
    shown = f", not {given[:80]!r}" if is_shown else ""
    return f"{name} {right}{shown}; for example {name}={example}"


def _must(value: T, right: bool) -> T:
    if not right:
        raise ValueError("wrong")
    return value


def _plain(secret: SecretStr | None) -> str:
    return secret.get_secret_value() if secret else ""


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _is_web(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme in {"http", "https"} and bool(parts.hostname)
