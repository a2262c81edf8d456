"""Wire models of tools and MCP servers."""

from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import BaseModel, Field

from agent.pins import Change
from agent.servers import Patch, ServerView
from agent.service import ToolView
from agent.toolbox import ToolPatch
from agent.tools.base import Source
from agent.tools.mcp_checks import Wanted
from agent.tools.mcp_oauth import Grant, OAuthSettings
from agent.tools.mcp_trial import Trial
from api.door import Storable
from api.schemas import A_NUMBER, Body, FlagsOut, Out, Time

Text = Annotated[str, Storable]
Word = Annotated[str, Storable, Field(max_length=4_000)]
Secret = Annotated[str, Storable, Field(max_length=16_000)]


class ChangeOut(BaseModel):
    """What a server changed of its tool since an admin accepted it."""

    accepted_by: UUID | None = Field(description="null: the operator, by writing the server into MCP_CONFIG.")
    accepted_at: Time
    changed_at: Time
    schema_hash: str = Field(description="Of the tool as it is now; send it with an accept to accept just that.")
    differences: dict[str, Any] = Field(description="Each part that differs, `before` and `after`.")

    @classmethod
    def of(cls, change: Change) -> Self:
        return cls(
            accepted_by=change.accepted_by,
            accepted_at=change.accepted_at,
            changed_at=change.changed_at,
            schema_hash=change.pending_hash,
            differences=change.differences,
        )


class ToolOut(BaseModel):
    """A tool, with the approval rule as it counts for the caller."""

    tool_id: UUID
    name: str
    original_name: str = Field(description="The name at its source.")
    description: str
    source: Source
    server: str | None
    input_schema: dict[str, Any]
    annotations: dict[str, Any] = Field(description="As its server states them: shown, never trusted.")
    read_only: bool = Field(description="The operator's word, never a server's.")
    idempotent: bool
    enabled: bool
    status: str = Field(
        description="available; unavailable: its server is away; disabled: by an admin; quarantined: its server "
        "changed it, and an admin has to accept that."
    )
    redact: list[str] = Field(description="What is taken out of its results, beside credentials of well-known forms.")
    approval: FlagsOut
    calls: int = Field(description="How many calls the figures are of: at most its last 1,000.")
    error_rate: float | None
    last_used_at: Time | None
    change: ChangeOut | None = Field(description="Of a quarantined tool that is read alone: what has changed.")

    @classmethod
    def of(cls, tool: ToolView) -> Self:
        spec, used = tool.spec, tool.usage
        return cls(
            tool_id=spec.tool_id,
            name=spec.name,
            original_name=spec.original_name,
            description=spec.description,
            source=spec.source,
            server=spec.server,
            input_schema=spec.input_schema,
            annotations=spec.annotations,
            read_only=spec.read_only,
            idempotent=spec.idempotent,
            enabled=tool.enabled,
            status=tool.status,
            redact=list(spec.redact),
            approval=FlagsOut(auto_execute=tool.auto_execute, approval_required=tool.approval_required),
            calls=used.calls,
            error_rate=used.failures / used.calls if used.calls else None,
            last_used_at=used.last_used_at,
            change=ChangeOut.of(tool.change) if tool.change else None,
        )


class ToolIn(Body):
    """What is left out stays as it is; an empty text gives the source's own back."""

    enabled: bool | None = Field(None, strict=True)
    name: Annotated[Text, Field(max_length=64)] | None = Field(None, description="What the model calls it.")
    description: Annotated[Text, Field(max_length=8_000)] | None = Field(None, description="What the model reads.")
    redact: list[Annotated[Text, Field(max_length=300)]] | None = Field(
        None, max_length=20, description="Regular expressions of what its results must not show."
    )

    def patch(self) -> ToolPatch:
        redact = None if self.redact is None else tuple(self.redact)
        return ToolPatch(self.enabled, self.name, self.description, redact)


class ReloadOut(BaseModel):
    reloading: bool


class MarksIO(Body):
    """What the admin vouches for of one tool; a server's own annotations never count."""

    read_only: bool = Field(False, strict=True)
    idempotent: bool = Field(False, strict=True)
    timeout_s: float = Field(60.0, gt=0, le=300)


class SandboxIO(Body):
    """What a stdio server's program may use; all that is not named, it can't."""

    network: bool = Field(False, strict=True)
    read_paths: list[Word] = Field(default_factory=list[str], max_length=50)
    write_paths: list[Word] = Field(default_factory=list[str], max_length=50)
    memory_mb: Annotated[int, Field(ge=64, le=65_536), A_NUMBER] | None = Field(
        1024, description="Of address space; null for Node, Go and Java, which reserve more than they use."
    )


class OAuthIn(Body):
    """How opsagent logs in at the server, as its own service account whoever asks for a call."""

    grant: Literal["client_credentials", "authorization_code"] = Field(
        description="client_credentials: by itself. authorization_code: after an admin has allowed it in a browser, "
        "see `POST /api/mcp-servers/{server_id}/oauth/start`."
    )
    client_id: Annotated[Text, Field(min_length=1, max_length=1_000)] | None = Field(
        None, description="Unset, with authorization_code only: opsagent registers itself."
    )
    client_secret: Annotated[Text, Field(min_length=1, max_length=8_000)] | None = Field(
        None, description="Stored sealed, never shown again."
    )
    scope: Annotated[Text, Field(min_length=1, max_length=1_000)] | None = Field(
        None, description="What is asked for, whatever the server would like; unset: what the server asks for."
    )
    issuer: Annotated[Text, Field(min_length=1, max_length=1_000)] | None = Field(
        None, description="The authorization server that the client belongs to; unset: the first that is found counts."
    )

    def settings(self) -> OAuthSettings:
        return OAuthSettings(Grant(self.grant), self.client_id, self.client_secret, self.scope, self.issuer)


class ServerIn(Body):
    """A server to register: stdio has `command`, `args`, `env`, `sandbox`, the others `url`, `headers`, `oauth`."""

    name: Annotated[Text, Field(max_length=64)]
    transport: Literal["stdio", "streamable_http", "sse"]
    command: Word | None = None
    args: list[Word] = Field(default_factory=list[str], max_length=200)
    env: dict[str, Secret] = Field(default_factory=dict[str, str], max_length=100)
    url: Word | None = None
    headers: dict[str, Secret] = Field(default_factory=dict[str, str], max_length=100)
    confirm_command: Annotated[Text, Field(max_length=100_000)] | None = Field(
        None, description="The exact command line of a stdio server; without it the answer is 409 and shows it."
    )
    sandbox: SandboxIO | None = None
    tools: dict[str, MarksIO] = Field(default_factory=dict[str, MarksIO], max_length=1_000)
    enabled: bool = Field(True, strict=True)
    oauth: OAuthIn | None = None

    def wanted(self) -> Wanted:
        return Wanted(
            name=self.name,
            transport=self.transport,
            command=self.command,
            args=tuple(self.args),
            env=self.env,
            url=self.url,
            headers=self.headers,
            sandbox=self.sandbox.model_dump() if self.sandbox else {},
            tools={name: marks.model_dump() for name, marks in self.tools.items()},
            enabled=self.enabled,
            oauth=self.oauth.settings() if self.oauth else None,
        )


class ServerPatchIn(Body):
    """What is left out stays as it is. In `env` and `headers` null removes one; the others stay.

    `oauth` is replaced as a whole, with its secret: what was authorized before is over. null removes it.
    """

    command: Word | None = None
    args: list[Word] | None = Field(None, max_length=200)
    env: dict[str, Secret | None] = Field(default_factory=dict[str, str | None], max_length=100)
    url: Word | None = None
    headers: dict[str, Secret | None] = Field(default_factory=dict[str, str | None], max_length=100)
    confirm_command: Annotated[Text, Field(max_length=100_000)] | None = None
    sandbox: SandboxIO | None = None
    tools: dict[str, MarksIO] | None = Field(None, max_length=1_000)
    enabled: bool | None = Field(None, strict=True)
    oauth: OAuthIn | None = None

    def patch(self) -> Patch:
        return Patch(
            command=self.command,
            args=None if self.args is None else tuple(self.args),
            url=self.url,
            env=self.env,
            headers=self.headers,
            sandbox=self.sandbox.model_dump() if self.sandbox else None,
            tools=None if self.tools is None else {name: marks.model_dump() for name, marks in self.tools.items()},
            enabled=self.enabled,
            changes_oauth="oauth" in self.model_fields_set,
            oauth=self.oauth.settings() if self.oauth else None,
        )


class AcceptIn(Body):
    tool_ids: list[UUID] | None = Field(default=None, max_length=1_000, description="Unset: all that wait.")
    schema_hashes: dict[UUID, str] = Field(
        default_factory=dict[UUID, str],
        max_length=1_000,
        description="What you looked at, by tool; one that changed again meanwhile is 409 `changed_meanwhile`.",
    )


class HealthOut(Out):
    """How the workers find it: problems are sentences."""

    workers: int
    connected: bool
    protocol: str | None
    tools: int
    problems: list[str]
    last_connected_at: Time | None
    last_seen_at: Time | None


class OAuthOut(Out):
    """A login; of its secrets only whether there are any."""

    grant: Literal["client_credentials", "authorization_code"]
    client_id: str | None
    has_client_secret: bool
    scope: str | None
    issuer: str | None = Field(description="As it was given, or as it was found.")
    authorized: bool = Field(description="Whether there is a token, or a way to a new one without a person.")
    authorized_by: UUID | None
    authorized_at: Time | None


class AuthorizationOut(Out):
    """Where an admin allows opsagent to use the server, in a browser."""

    authorization_url: str
    expires_at: Time


class ServerOut(BaseModel):
    """An MCP server; of its secrets only the names."""

    server_id: UUID
    name: str
    transport: str
    command: str | None
    args: list[str]
    env_names: list[str]
    url: str | None
    header_names: list[str]
    sandbox: dict[str, Any]
    tools: dict[str, Any]
    enabled: bool
    managed_by: Literal["api", "file"] = Field(description="file: it stands in MCP_CONFIG, and is changed there.")
    created_by: UUID | None
    created_at: Time | None
    updated_at: Time | None
    oauth: OAuthOut | None
    health: HealthOut
    quarantined: list[UUID] = Field(description="Its tools that changed and wait to be accepted.")

    @classmethod
    def of(cls, view: ServerView) -> Self:
        server = view.server
        return cls(
            server_id=server.server_id,
            name=server.name,
            transport=server.transport,
            command=server.command,
            args=list(server.args),
            env_names=list(server.env_names),
            url=server.url,
            header_names=list(server.header_names),
            sandbox=server.sandbox,
            tools=server.tools,
            enabled=server.enabled,
            managed_by="file" if server.is_file else "api",
            created_by=server.created_by,
            created_at=server.created_at,
            updated_at=server.updated_at,
            oauth=OAuthOut.of(server.oauth) if server.oauth else None,
            health=HealthOut.of(view.health),
            quarantined=list(view.quarantined),
        )


class TriedToolOut(BaseModel):
    name: str
    description: str


class TrialOut(BaseModel):
    """What came of connecting once."""

    connected: bool
    protocol: str | None
    tools: list[TriedToolOut]
    problems: list[str]

    @classmethod
    def of(cls, trial: Trial) -> Self:
        return cls(
            connected=trial.connected,
            protocol=trial.protocol,
            tools=[TriedToolOut(name=name, description=description) for name, description in trial.tools],
            problems=list(trial.problems),
        )
