"""What a process needs before it can run: database, model, tools, Slack. Each failure is one sentence."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
import structlog

from agent import audit
from agent.run import Limits
from agent.tools.base import ToolSource
from agent.tools.custom import CustomTools
from agent.tools.demo import DemoTools
from agent.tools.mcp import Keeping, McpManager, McpServerConfig, load_config
from db import migrate
from db.database import Database, DatabaseUnreachable
from opsagent.compose import Core, open_core
from opsagent.config import Settings
from opsagent.embedded import EmbeddedPostgres
from opsagent.failures import CannotStart
from opsagent.postmaster import EmbeddedPostgresError

log = structlog.get_logger()


@asynccontextmanager
async def open_database(settings: Settings) -> AsyncGenerator[str]:
    """The DSN of a database that is up and at this release's schema: DATABASE_URL's, or the embedded one."""
    embedded: EmbeddedPostgres | None = None
    if settings.database_url:
        dsn = settings.database_url.get_secret_value()
    else:
        embedded = EmbeddedPostgres()
        try:
            dsn = await asyncio.to_thread(embedded.start, settings.home)
        except EmbeddedPostgresError as error:
            raise CannotStart(str(error)) from error
    try:
        await migrated(dsn)
        yield dsn
    finally:
        if embedded:
            await asyncio.to_thread(embedded.stop)


async def migrated(dsn: str) -> bool:
    """Bring the schema up to date; return whether there was anything to do."""
    try:
        return await migrate.migrate(dsn)
    except migrate.MigrationFailed as error:
        raise CannotStart(str(error)) from error
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError, ValueError) as error:
        raise CannotStart(
            f"The database cannot be reached ({type(error).__name__}: {error}): check DATABASE_URL and that "
            "PostgreSQL runs."
        ) from error


async def granted(dsn: str, role: str) -> None:
    """Give a role the rights of the service."""
    try:
        await migrate.grant(dsn, role)
    except migrate.MigrationFailed as error:
        raise CannotStart(str(error)) from error


def limits(settings: Settings) -> Limits:
    return Limits(
        model_calls=settings.max_model_calls,
        tool_calls=settings.max_tool_calls,
        seconds=settings.turn_timeout_s,
        window_tokens=settings.model_window_tokens,
        approval_expires_s=settings.approval_expires_s,
        question_s=settings.question_wait_s,
    )


@dataclass(frozen=True, slots=True)
class ToolParts:
    """Where tools come from: MCP servers, of the file and registered ones, and everything else."""

    mcp: McpManager
    file_servers: list[McpServerConfig]
    others: list[ToolSource]


def keeping(settings: Settings) -> Keeping:
    return Keeping(settings.egress, settings.sandbox)


def tool_parts(settings: Settings) -> ToolParts:
    """Return where tools come from; raises CannotStart for files that can't be read."""
    try:
        servers = load_config(settings.mcp_config) if settings.mcp_config else []
    except ValueError as error:
        raise CannotStart(str(error)) from error
    mode, secrets = settings.sandbox, settings.tool_secrets
    others: list[ToolSource] = [CustomTools(settings.tools_dir, mode=mode, secrets=secrets)]
    if settings.tools_dir:
        # YAML and its schema take a tenth of a second to import: only who has a folder pays for it.
        from agent.tools.declared.source import DeclaredTools

        others.append(DeclaredTools(settings.tools_dir, mode=mode, egress=settings.egress, secrets=secrets))
    if settings.tongyi_api_key is None:
        others.append(DemoTools())
    return ToolParts(McpManager(servers, keeping=keeping(settings)), servers, others)


@dataclass(frozen=True, slots=True)
class SlackParts:
    """Slack's side of a process."""

    client: Any
    groups: Any
    profiles: Any
    courier: Any


def slack_parts(settings: Settings) -> SlackParts | None:
    """Return Slack's client and directories, or None where Slack is off."""
    if settings.slack_bot_token is None:
        return None
    # Half a second of imports: only who uses Slack pays for it.
    from bot.client import web_client
    from bot.directory import SlackCourier, SlackGroups, SlackProfiles

    client = web_client(settings.slack_bot_token.get_secret_value(), settings.slack_api_url)
    return SlackParts(client, SlackGroups(client), SlackProfiles(client), SlackCourier(client))


@asynccontextmanager
async def open_product(
    settings: Settings, dsn: str, slack: SlackParts | None, *, tools: bool
) -> AsyncGenerator[tuple[Core, Any]]:
    """The core, and the model of these settings where this process runs turns: `tools` says so."""
    model = model_of(settings) if tools else None
    found = tool_parts(settings) if tools else None
    try:
        async with open_core(
            dsn,
            model=model,
            sources=found.others if found else [],
            mcp=found.mcp if found else None,
            file_servers=found.file_servers if found else [],
            keeping=keeping(settings),
            redact=(settings.redact,) if settings.redact else (),
            public_url=settings.base_url,
            approvers=settings.approvers,
            limits=limits(settings),
            groups=slack.groups if slack else None,
            profiles=slack.profiles if slack else None,
            courier=slack.courier if slack else None,
            outsiders_may_chat=settings.outsiders_may_chat,
            signing_keys=tuple(key.get_secret_value() for key in settings.secret_keys),
            concurrency=settings.worker_concurrency,
            asyncpg_pool=settings.asyncpg_pool_size,
            psycopg_pool=settings.psycopg_pool_size,
        ) as core:
            yield core, model
    except DatabaseUnreachable as error:
        raise CannotStart(str(error)) from error
    finally:
        if model is not None:
            await model.aclose()


def model_of(settings: Settings) -> Any:
    """Return the chat model of these settings."""
    # LangChain is half the memory of a process: only who runs turns pays for it.
    from agent.models.factory import build_model

    return build_model(
        api_key=settings.tongyi_api_key, model_name=settings.tongyi_model_name, base_url=settings.tongyi_base_url
    )


async def check_model(model: Any) -> str:
    """Return "ok" or what is wrong with the model now; raises CannotStart where the key is wrong."""
    from agent.models.demo import DemoModel
    from agent.models.errors import ModelError, ModelKeyRejected
    from agent.models.factory import probe

    if isinstance(model, DemoModel):
        return "demo model: rules, not AI"
    try:
        await probe(model)
    except ModelKeyRejected as error:
        raise CannotStart(error.sentence) from error
    except ModelError as error:
        log.warning("model.unavailable", error=error.sentence)
        return error.sentence
    return "ok"


async def check_database(database: Database) -> str:
    """Return "ok", or that no answer comes."""
    try:
        async with asyncio.timeout(2), database.connection() as connection:
            await connection.execute("SELECT 1")
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as error:
        return f"The database does not answer ({type(error).__name__})."
    return "ok"


async def audit_powers(dsn: str) -> tuple[str, str | None]:
    """Return the database role, and how it could change the audit log, if it can."""
    database = Database(dsn, min_size=1, max_size=1)
    try:
        await database.open()
        return await audit.powers(database)
    except DatabaseUnreachable as error:
        raise CannotStart(str(error)) from error
    finally:
        await database.close()


async def check_slack(settings: Settings) -> str:
    """Return "ok" or what is wrong with Slack now; raises CannotStart where the token is wrong."""
    if settings.slack_bot_token is None:
        return "off"
    from bot.check import SlackTokenRejected, SlackUnreachable
    from bot.check import probe as probe_slack

    try:
        identity = await probe_slack(settings.slack_bot_token.get_secret_value(), settings.slack_api_url)
    except SlackTokenRejected as error:
        raise CannotStart(str(error)) from error
    except SlackUnreachable as error:
        log.warning("slack.unreachable", error=str(error))
        return str(error)
    if identity.missing_scopes:
        missing = ", ".join(identity.missing_scopes)
        log.warning("slack.scopes_missing", scopes=identity.missing_scopes)
        return f"The bot token lacks the scopes {missing}: add them in the app's settings and install it again."
    return "ok"


def is_demo(settings: Settings) -> bool:
    """Return whether rules answer instead of a model."""
    key = settings.tongyi_api_key
    return key is None or not key.get_secret_value().strip()
