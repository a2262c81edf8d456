"""The MCP source against real servers: over pipes and HTTP, in good health, killed, and hostile."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from uuid import UUID

import pytest

from agent.tools.base import RESULT_LIMIT, CallContext, Outcome, Tool, ToolResult
from agent.tools.mcp import McpManager, McpServerConfig, Timing, ToolMarks
from agent.tools.registry import Registry
from tests.fakes.mcp_servers import HttpProbe, StdioProbe, hostile

CONTEXT = CallContext(UUID(int=1), "call_1", UUID(int=2), UUID(int=3))
TIMING = Timing(connect_s=15, backoff_s=(0.02, 0.2), relist_s=0)


@contextlib.asynccontextmanager
async def running(*config: McpServerConfig, timing: Timing = TIMING) -> AsyncIterator[tuple[Registry, McpManager]]:
    manager = McpManager(list(config), timing)
    registry = Registry([manager])
    task = asyncio.create_task(registry.run())
    try:
        await registry.ready(20)
        yield registry, manager
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(45):
        while not condition():
            await asyncio.sleep(0.02)


def named(registry: Registry, name: str) -> Tool:
    tool = registry.by_name(name)
    assert tool, f"no {name} among {[tool.spec.name for tool in registry.tools()]}: {registry.problems()}"
    return tool


async def call(registry: Registry, name: str, /, **args: object) -> ToolResult:
    return await registry.call(named(registry, name), args, CONTEXT)


@pytest.fixture
def stdio(tmp_path: Path) -> StdioProbe:
    return StdioProbe(tmp_path / "effects.jsonl")


@pytest.fixture(params=["2026", "earlier"])
async def http(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[HttpProbe]:
    """The probe in both eras of the protocol: without sessions, and with one that a restart forgets."""
    probe = HttpProbe(tmp_path / "effects.jsonl", earlier=request.param == "earlier")
    await probe.start()
    yield probe
    probe.kill()


async def test_a_stdio_server_offers_its_tools_and_runs_them_from_any_task(stdio: StdioProbe) -> None:
    marks = {"uptime": ToolMarks(read_only=True)}
    async with running(stdio.config(tools=marks)) as (registry, manager):
        assert manager.health()[0].connected
        assert not named(registry, "restart").spec.repeatable
        assert named(registry, "uptime").spec.read_only
        results = await asyncio.gather(*(call(registry, "restart", service=f"web-{n}") for n in range(20)))
        assert {result.text for result in results} == {f"restarted web-{n}" for n in range(20)}
        assert stdio.count("restart") == 20


async def test_a_servers_own_read_only_hint_is_shown_and_not_trusted(stdio: StdioProbe) -> None:
    async with running(stdio.config()) as (registry, _):
        spec = named(registry, "uptime").spec
        assert spec.annotations["readOnlyHint"] is True
        assert not spec.read_only


async def test_an_http_server_offers_its_tools_and_runs_them(http: HttpProbe) -> None:
    async with running(http.config()) as (registry, _):
        assert await call(registry, "uptime", service="db") == ToolResult("db is up 3 days")
        assert http.count("uptime") == 1


async def test_a_tools_error_is_a_failed_result_with_its_text(stdio: StdioProbe) -> None:
    async with running(stdio.config()) as (registry, _):
        result = await call(registry, "fail", message="the disk is full")
        assert result.outcome is Outcome.FAILED
        assert "the disk is full" in result.text


async def test_an_unknown_argument_never_reaches_the_server(stdio: StdioProbe) -> None:
    async with running(stdio.config()) as (registry, _):
        result = await call(registry, "restart", service="web", approved=True)
        assert result.outcome is Outcome.FAILED
        assert "`approved`" in result.text
        assert stdio.count("restart") == 0


async def test_a_big_result_is_capped(stdio: StdioProbe) -> None:
    async with running(stdio.config()) as (registry, _):
        result = await call(registry, "big", size=2_000_000)
        assert result.outcome is Outcome.SUCCEEDED
        assert len(result.text) < RESULT_LIMIT + 200
        assert "characters cut" in result.text


async def test_an_answer_over_the_hard_bound_is_thrown_away_and_its_call_unknown(http: HttpProbe) -> None:
    async with running(http.config()) as (registry, _):
        assert (await call(registry, "big", size=6_000_000)).outcome is Outcome.UNKNOWN
        assert (await call(registry, "echo", text="on")).text == "on"
        assert http.count("big") == 1


async def test_a_server_killed_in_mid_call_leaves_the_outcome_unknown_and_comes_back(stdio: StdioProbe) -> None:
    async with running(stdio.config()) as (registry, _):
        pending = asyncio.create_task(call(registry, "slow", seconds=60))
        await until(lambda: stdio.count("slow"))
        first = stdio.kill()
        result = await pending
        assert result.outcome is Outcome.UNKNOWN
        assert "not known" in result.text
        assert (await call(registry, "restart", service="web")).outcome is Outcome.SUCCEEDED
        assert stdio.kill() != first
        assert stdio.count("slow") == 1


async def test_a_read_only_call_that_was_lost_is_a_plain_failure(stdio: StdioProbe) -> None:
    async with running(stdio.config(tools={"slow": ToolMarks(read_only=True)})) as (registry, _):
        pending = asyncio.create_task(call(registry, "slow", seconds=60))
        await until(lambda: stdio.count("slow"))
        stdio.kill()
        assert (await pending).outcome is Outcome.FAILED


async def test_an_http_server_killed_in_mid_call_leaves_the_outcome_unknown_and_comes_back(http: HttpProbe) -> None:
    async with running(http.config()) as (registry, _):
        pending = asyncio.create_task(call(registry, "slow", seconds=60))
        await until(lambda: http.count("slow"))
        http.kill()
        assert (await pending).outcome is Outcome.UNKNOWN
        await http.start()
        assert (await call(registry, "restart", service="web")).outcome is Outcome.SUCCEEDED
        assert (http.count("slow"), http.count("restart")) == (1, 1)


async def test_an_http_server_restarted_while_idle_heals_and_the_next_call_runs_once(http: HttpProbe) -> None:
    async with running(http.config()) as (registry, manager):
        assert ((manager.health()[0].protocol or "") < "2026") is http.earlier
        assert (await call(registry, "restart", service="web")).outcome is Outcome.SUCCEEDED
        http.kill()
        await http.start()
        assert (await call(registry, "restart", service="web")) == ToolResult("restarted web")
        assert http.count("restart") == 2


async def test_a_call_to_a_server_that_is_down_failed_and_says_it_was_not_run(http: HttpProbe) -> None:
    async with running(http.config(), timing=Timing(backoff_s=(0.02, 0.2), wait_s=0.5)) as (registry, manager):
        http.kill()
        result = await call(registry, "restart", service="web")
        assert result.outcome is Outcome.FAILED
        assert "not run" in result.text
        await until(lambda: not manager.health()[0].connected and manager.problems())
        assert "probe is not connected" in manager.problems()["probe"]
        assert named(registry, "restart")


async def test_a_server_that_is_down_at_start_is_connected_once_it_is_up(tmp_path: Path) -> None:
    probe = HttpProbe(tmp_path / "effects.jsonl")
    async with running(probe.config()) as (registry, manager):
        assert registry.tools() == []
        assert "no connection" in manager.problems()["probe"]
        await probe.start()
        try:
            await until(lambda: registry.by_name("restart"))
            assert manager.problems() == {}
        finally:
            probe.kill()


async def test_a_changed_list_is_read_again_and_told_over_pipes(stdio: StdioProbe) -> None:
    await learns_of_a_new_tool(stdio.config())


async def test_a_changed_list_is_read_again_and_told_over_http(http: HttpProbe) -> None:
    await learns_of_a_new_tool(http.config())


async def learns_of_a_new_tool(config: McpServerConfig) -> None:
    async with running(config) as (registry, _):
        told = asyncio.Event()

        async def changed() -> None:
            if registry.by_name("juggle"):
                told.set()

        registry.subscribe(changed)
        # The server starts to listen for listeners a moment after it connected.
        for _ in range(100):
            await call(registry, "learn", name="juggle")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.2):
                    await told.wait()
                    break
        assert (await call(registry, "juggle")).text == "I am juggle"


async def test_a_call_that_takes_too_long_is_unknown_and_the_connection_lives_on(stdio: StdioProbe) -> None:
    async with running(stdio.config(tools={"slow": ToolMarks(timeout_s=0.3)})) as (registry, manager):
        result = await call(registry, "slow", seconds=60)
        assert result.outcome is Outcome.UNKNOWN
        assert "0.3 s" in result.text
        assert (await call(registry, "echo", text="still here")).text == "still here"
        assert manager.health()[0].connected


async def test_a_call_that_never_left_the_queue_is_a_failure_and_not_unknown(stdio: StdioProbe) -> None:
    config = stdio.config(tools={"restart": ToolMarks(timeout_s=0.3)})
    async with running(config) as (registry, _):
        crowd = [asyncio.create_task(call(registry, "slow", seconds=60)) for _ in range(8)]
        await until(lambda: stdio.count("slow") == 8)
        result = await call(registry, "restart", service="web")
        assert result.outcome is Outcome.FAILED
        assert "not run" in result.text
        assert stdio.count("restart") == 0
        for task in crowd:
            task.cancel()
        await asyncio.gather(*crowd, return_exceptions=True)


async def test_a_cancelled_caller_costs_only_its_own_call(stdio: StdioProbe) -> None:
    async with running(stdio.config()) as (registry, _):
        pending = asyncio.create_task(call(registry, "slow", seconds=60))
        await until(lambda: stdio.count("slow"))
        pending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pending
        assert (await call(registry, "echo", text="on")).text == "on"


async def test_bad_tools_are_named_and_never_hide_their_neighbours() -> None:
    async with running(hostile("bad_tools")) as (registry, _):
        assert [tool.spec.name for tool in registry.tools()] == ["backtracking", "good", "hostile_also_good"]
        problems = " ".join(registry.problems().values())
        for name in ("empty_schema", "no_schema", "unknown_type", "remote", "huge_schema", "a\\x1b[2Jb"):
            assert name in problems
        assert "twice" in problems
        assert (await call(registry, "good")).text == "good ran"
        assert (await call(registry, "hostile_also_good")).text == "also good ran"
        refused = await call(registry, "backtracking", text="a" * 40 + "b")
        assert refused.outcome is Outcome.FAILED


async def test_a_list_without_end_is_cut() -> None:
    async with running(hostile("endless_pages")) as (registry, _):
        assert len(registry.tools()) == 100
        assert "100 pages" in " ".join(registry.problems().values())


async def test_a_servers_output_schema_is_never_run_over_its_answer() -> None:
    async with running(hostile("output_schema")) as (registry, _):
        assert (await call(registry, "stall")).text == "stall ran"


async def test_a_server_that_exits_in_mid_call_ran_it_at_most_once(tmp_path: Path) -> None:
    effects = tmp_path / "effects"
    async with running(hostile("calls", str(effects))) as (registry, _):
        assert (await call(registry, "exit")).outcome is Outcome.UNKNOWN
        assert (await call(registry, "fine")).text == "fine ran"
        assert effects.read_text() == "exit\n"


async def test_answers_that_can_not_be_read_are_unknown_at_once_and_the_next_call_works() -> None:
    async with running(hostile("calls")) as (registry, manager):
        for name, said in (("huge", "larger"), ("unreadable", "could not be read"), ("deep", "not a JSON-RPC")):
            result = await call(registry, name)
            assert result.outcome is Outcome.UNKNOWN
            assert said in result.text
        assert (await call(registry, "fine")).text == "fine ran"
        assert manager.health()[0].connected


async def test_text_comes_without_its_structured_twin() -> None:
    async with running(hostile("calls")) as (registry, _):
        assert (await call(registry, "mixed")).text == "mixed ran\n[image image.png]"
        assert (await call(registry, "structured")).text == '{"load": 0.5}'


async def test_noise_between_messages_is_skipped() -> None:
    async with running(hostile("noisy")) as (registry, _):
        assert (await call(registry, "fine")).text == "fine ran"


async def test_servers_that_never_answer_or_end_or_are_not_there_never_hold_up_the_others(stdio: StdioProbe) -> None:
    mute = hostile("mute")
    missing = McpServerConfig(name="missing", command="no-such-program-anywhere")
    timing = Timing(connect_s=5, backoff_s=(0.05, 0.2))
    async with running(mute, missing, stdio.config(), timing=timing) as (registry, manager):
        assert (await call(registry, "echo", text="fine")).text == "fine"
        await until(lambda: {"hostile", "missing"} <= manager.problems().keys())
        assert "did not answer within 5 s" in manager.problems()["hostile"]
        assert "no program 'no-such-program-anywhere'" in manager.problems()["missing"]
        assert [health.connected for health in manager.health()] == [False, False, True]


async def test_what_a_dying_server_wrote_is_told_without_its_secrets() -> None:
    config = hostile("exits_at_once", env={"PROBE_TOKEN": "not-a-real-secret"})
    async with running(config) as (_, manager):
        await until(lambda: "no such database" in manager.problems().get("hostile", ""))
        assert "not-a-real-secret" not in manager.problems()["hostile"]


async def test_a_server_sees_nothing_of_our_environment(
    stdio: StdioProbe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TONGYI_API_KEY", "not-a-real-key")
    script = f"import json, os; json.dump(dict(os.environ), open({str(tmp_path / 'env')!r}, 'w'))"
    config = McpServerConfig("env", command="python3", args=("-c", script), env={"MINE": "1"})
    async with running(config):
        text = (tmp_path / "env").read_text()
        assert "not-a-real-key" not in text
        assert '"MINE": "1"' in text


async def test_a_new_configuration_starts_and_stops_only_what_differs(
    stdio: StdioProbe, http: HttpProbe, tmp_path: Path
) -> None:
    async with running(stdio.config("pipes")) as (registry, manager):
        pending = asyncio.create_task(call(registry, "slow", seconds=1))
        await until(lambda: stdio.count("slow"))
        manager.configure([stdio.config("pipes"), http.config("web")])
        await until(lambda: registry.by_name("web_restart"))
        assert (await pending).text == "done at last"
        manager.configure([http.config("web")])
        await until(lambda: [health.name for health in manager.health()] == ["web"])
        assert (await call(registry, "restart", service="db")).outcome is Outcome.SUCCEEDED
        assert registry.by_name("pipes_restart") is None


async def test_no_process_is_left_behind(stdio: StdioProbe) -> None:
    async with running(stdio.config()) as (registry, _):
        assert await call(registry, "echo", text="here")
    with pytest.raises(AssertionError, match="does not run"):
        stdio.kill()
