"""`opsagent doctor`: every setting, the database, the model, the tools, Slack; and how to mend what fails."""

import asyncio
from collections.abc import Awaitable, Callable

from agent.tools.registry import Registry
from opsagent import parts
from opsagent.config import Settings
from opsagent.failures import CannotStart

_FINE = {"ok", "off", "demo model: rules, not AI"}


async def examine(settings: Settings) -> int:
    """Print one line a part; return 1 if any needs mending."""
    checks: list[tuple[str, Callable[[Settings], Awaitable[str]]]] = [
        ("database", _database),
        ("model", _model),
        ("tools", _tools),
        ("slack", parts.check_slack),
        ("slack socket", _socket),
    ]
    print(f"ok    settings: home {settings.home}, listens on {settings.host}:{settings.port}")
    failed = False
    for name, check in checks:
        try:
            said = await check(settings)
        except CannotStart as error:
            said = str(error)
        fine = said in _FINE or said.startswith("ok")
        failed = failed or not fine
        print(f"{'ok   ' if fine else 'MEND '} {name}: {said}", flush=True)
    return 1 if failed else 0


async def _database(settings: Settings) -> str:
    async with parts.open_database(settings) as dsn:
        role, how = await parts.audit_powers(dsn)
    found = "ok" if settings.database_url else "ok, embedded"
    if how is None:
        return f"{found}; the role {role} can add to the audit log, not change it"
    return f"{found}; the role {role} could change the audit log: it {how} (docs/security.md)"


async def _model(settings: Settings) -> str:
    model = parts.model_of(settings)
    try:
        return await parts.check_model(model)
    finally:
        await model.aclose()


async def _tools(settings: Settings) -> str:
    found = parts.tool_parts(settings)
    registry = Registry([found.mcp, *found.others])
    keeping = asyncio.create_task(registry.run())
    try:
        await registry.ready()
        problems = registry.problems()
        return " ".join(problems.values()) if problems else f"ok, {len(registry.tools())} of them"
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


async def _socket(settings: Settings) -> str:
    if settings.slack_mode != "socket" or settings.slack_app_token is None:
        return "off"
    from slack_sdk.errors import SlackApiError

    from bot.client import FAILURES, code_of, web_client

    client = web_client(None, settings.slack_api_url, repeats=False)
    try:
        await client.apps_connections_open(app_token=settings.slack_app_token.get_secret_value())
    except FAILURES as error:
        code = code_of(error) if isinstance(error, SlackApiError) else type(error).__name__
        return f"SLACK_APP_TOKEN opens no connection ({code}): make an app-level token with connections:write."
    return "ok"
