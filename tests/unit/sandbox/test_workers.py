"""The warm pool: tools in sandboxed workers that outlive a call and are replaced when they must be."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from agent.sandbox import capability
from agent.sandbox.policy import Mode, SandboxSpec, SandboxUnavailable
from agent.sandbox.worker_process import WorkerLost
from agent.sandbox.workers import TOOL_FILES, WorkerPool
from agent.tools.base import CallContext, Outcome

HERE = capability.current()
CONTEXT = CallContext(uuid4(), "call-1", None, uuid4())

TOOLS = '''
import asyncio, os, subprocess, sys, tempfile, threading
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import ToolException, tool

calls = 0
left = []

@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    print("noise on stdout"); os.write(1, b"more noise")
    return a + b

@tool
def count() -> list[int]:
    """Count the calls of this worker."""
    global calls
    calls += 1
    return [os.getpid(), calls]

@tool
async def loop_is_kept() -> bool:
    """Whether it is the same event loop as in the call before."""
    global kept
    loop, before = asyncio.get_running_loop(), globals().get("kept")
    kept = loop
    return before is loop

@tool
async def leave_a_task() -> str:
    """Go, with a task still sleeping."""
    left.append(asyncio.create_task(asyncio.sleep(3600)))
    return "left"

@tool
async def was_cancelled() -> bool:
    """Whether the task that was left has been cancelled."""
    await asyncio.sleep(0)
    return left[-1].cancelled()

@tool
def soil() -> str:
    """Change what the process has, not what the file keeps."""
    os.environ["SOILED"] = "yes"; os.chdir("/usr"); tempfile.tempdir = "/"
    open(os.path.join(os.environ["TMPDIR"], "soiled"), "w").write("x")
    return os.environ["TMPDIR"]

@tool
def look() -> dict:
    """Show what the process has."""
    return {"env": "SOILED" in os.environ, "cwd": os.getcwd(), "files": os.listdir("."), "temp": tempfile.gettempdir(),
            "beside": os.listdir("..")}

@tool
def crash() -> str:
    """End the process."""
    os._exit(3)

@tool
def give_up() -> str:
    """Ask for the end of the process."""
    sys.exit("enough")

@tool
async def nap(seconds: float, mark: str = "") -> str:
    """Sleep, with a child that sleeps too."""
    if mark:
        subprocess.Popen([sys.executable, "-I", "-S", "-c", "import time; time.sleep(3600)", mark])
    await asyncio.sleep(seconds)
    return "awake"

@tool
def refuse() -> str:
    """Say no."""
    raise ToolException("not today")

@tool
def who(config: RunnableConfig) -> dict:
    """Show what it knows of its call."""
    return config["configurable"]

@tool
def secret(path: str) -> str:
    """Read a file."""
    return open(path).read()

@tool
def big(size: int) -> str:
    """Answer at length."""
    return "x" * size

add.metadata = {"read_only": True, "timeout_s": 5}
'''


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tools.py"
    path.write_text(TOOLS)
    return path


@asynccontextmanager
async def pooled(*files: Path, size: int = 1, **more: Any) -> AsyncIterator[WorkerPool]:
    more.setdefault("mode", Mode.BEST_EFFORT)
    pool = WorkerPool(TOOL_FILES, more.pop("spec", SandboxSpec()), size, **more)
    try:
        await pool.load(files)
        yield pool
    finally:
        await pool.close()


async def text(pool: WorkerPool, tool: str, timeout: float = 60, **args: object) -> str:
    result = await pool.call(tool, args, CONTEXT, timeout)
    assert result.outcome is Outcome.SUCCEEDED, result.text
    return result.text


def running(mark: str) -> bool:
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            if mark.encode() in Path("/proc", entry, "cmdline").read_bytes().split(b"\0"):
                return True
        except OSError:
            continue
    return False


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not done():
            await asyncio.sleep(0.01)


async def test_tools_are_described_and_called(file: Path) -> None:
    pool = WorkerPool(TOOL_FILES, SandboxSpec(), 1, mode=Mode.BEST_EFFORT)
    try:
        loaded = await pool.load([file])
        add = next(tool for tool in loaded.tools if tool.name == "add")
        assert (add.file, add.description) == ("tools.py", "Add two numbers.")
        assert add.metadata == {"read_only": True, "timeout_s": 5}
        assert set(add.input_schema["properties"]) == {"a", "b"}
        assert loaded.problems == {}
        assert await text(pool, "add", a=2, b=3) == "5"
    finally:
        await pool.close()


async def test_what_tools_print_is_not_taken_for_answers(file: Path) -> None:
    async with pooled(file) as pool:
        assert [await text(pool, "add", a=n, b=1) for n in range(3)] == ["1", "2", "3"]


async def test_broken_and_doubled_tools_cost_only_themselves(file: Path, tmp_path: Path) -> None:
    (tmp_path / "worse.py").write_text("import no_such_module")
    (tmp_path / "zwice.py").write_text(TOOLS)
    pool = WorkerPool(TOOL_FILES, SandboxSpec(), 1, mode=Mode.BEST_EFFORT)
    try:
        loaded = await pool.load([file, tmp_path / "worse.py", tmp_path / "zwice.py"])
        assert "worse.py could not be loaded: ModuleNotFoundError" in loaded.problems["worse.py"]
        assert "defines `add` again" in loaded.problems["zwice.py: add"]
        assert await text(pool, "add", a=1, b=1) == "2"
    finally:
        await pool.close()


async def test_one_worker_serves_many_calls_and_keeps_only_the_files_own_state(file: Path) -> None:
    async with pooled(file) as pool:
        first, second = await text(pool, "count"), await text(pool, "count")
        assert [eval(first)[1], eval(second)[1]] == [1, 2]
        assert eval(first)[0] == eval(second)[0]
        folder = await text(pool, "soil")
        seen = eval((await text(pool, "look")).replace("false", "False").replace("true", "True"))
        assert seen["env"] is False
        assert seen["files"] == []
        assert seen["cwd"] == seen["temp"] != folder
        assert len(seen["beside"]) == 1


async def test_event_loop_is_kept_and_left_tasks_are_cancelled(file: Path) -> None:
    async with pooled(file) as pool:
        assert await text(pool, "loop_is_kept") == "false"
        assert await text(pool, "loop_is_kept") == "true"
        await text(pool, "leave_a_task")
        assert await text(pool, "was_cancelled") == "true"


async def test_tool_learns_of_its_call(file: Path) -> None:
    async with pooled(file) as pool:
        known = await text(pool, "who")
        assert str(CONTEXT.session_id) in known
        assert '"approval_id": null' in known


@pytest.mark.parametrize(
    ("tool", "args", "said"),
    [
        ("refuse", {}, "not today"),
        ("give_up", {}, "SystemExit: enough"),
        ("add", {"a": "x"}, "ValidationError"),
        ("no_such", {}, "There is no tool `no_such`"),
        ("big", {"size": 17 << 20}, "larger than"),
    ],
)
async def test_failure_is_an_answer_and_the_worker_goes_on(
    tool: str, args: dict[str, object], said: str, file: Path
) -> None:
    async with pooled(file) as pool:
        before = eval(await text(pool, "count"))[0]
        result = await pool.call(tool, args, CONTEXT, 60)
        assert result.outcome is Outcome.FAILED
        assert said in result.text
        assert eval(await text(pool, "count"))[0] == before


async def test_crash_is_an_unknown_outcome_and_the_worker_is_replaced(file: Path) -> None:
    async with pooled(file) as pool:
        await text(pool, "count")
        result = await pool.call("crash", {}, CONTEXT, 60)
        assert result.outcome is Outcome.UNKNOWN
        assert "whether it took effect is not known" in result.text
        assert eval(await text(pool, "count"))[1] == 1


async def test_timeout_kills_the_worker_and_what_its_tool_started(file: Path) -> None:
    mark = f"worker-nap-{os.getpid()}"
    async with pooled(file) as pool:
        result = await pool.call("nap", {"seconds": 3600, "mark": mark}, CONTEXT, 2)
        assert result.outcome is Outcome.UNKNOWN
        assert "gave no answer within 2 s and was stopped" in result.text
        await until(lambda: not running(mark))
        assert eval(await text(pool, "count"))[1] == 1


async def test_cancelled_call_kills_the_worker(file: Path) -> None:
    mark = f"worker-cancelled-{os.getpid()}"
    async with pooled(file) as pool:
        call = asyncio.create_task(pool.call("nap", {"seconds": 3600, "mark": mark}, CONTEXT, 600))
        await until(lambda: running(mark))
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await until(lambda: not running(mark))
        assert eval(await text(pool, "count"))[1] == 1


async def test_worker_is_replaced_after_its_number_of_calls(file: Path) -> None:
    async with pooled(file, calls=2) as pool:
        assert [eval(await text(pool, "count"))[1] for _ in range(5)] == [1, 2, 1, 2, 1]


async def test_idle_worker_that_dies_is_replaced_before_the_next_call(file: Path) -> None:
    spec = SandboxSpec(host_view=True)  # its process id is the machine's
    async with pooled(file, spec=spec) as pool:
        pid = eval(await text(pool, "count"))[0]
        os.kill(pid, signal.SIGKILL)
        await until(lambda: not Path(f"/proc/{pid}").exists())
        result = await pool.call("count", {}, CONTEXT, 60)
        again = result if result.outcome is Outcome.SUCCEEDED else await pool.call("count", {}, CONTEXT, 60)
        assert eval(again.text)[0] != pid


async def test_no_more_calls_run_at_once_than_there_are_workers(file: Path) -> None:
    mark = f"worker-busy-{os.getpid()}"
    async with pooled(file) as pool:
        first = asyncio.create_task(pool.call("nap", {"seconds": 3600, "mark": mark}, CONTEXT, 600))
        await until(lambda: running(mark))
        second = await pool.call("add", {"a": 1, "b": 1}, CONTEXT, 0.2)
        assert second.outcome is Outcome.FAILED
        assert "was not run: no tool worker was free" in second.text
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)


async def test_two_workers_serve_two_calls_at_once(file: Path) -> None:
    mark = f"worker-two-{os.getpid()}"
    async with pooled(file, size=2) as pool:
        first = asyncio.create_task(pool.call("nap", {"seconds": 3600, "mark": mark}, CONTEXT, 600))
        await until(lambda: running(mark))
        assert await text(pool, "add", a=1, b=1) == "2"
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)


async def test_reload_takes_over_and_calls_under_way_end_as_they_began(file: Path) -> None:
    mark = f"worker-reload-{os.getpid()}"
    async with pooled(file) as pool:
        old = asyncio.create_task(pool.call("nap", {"seconds": 1, "mark": mark}, CONTEXT, 60))
        await until(lambda: running(mark))
        file.write_text(TOOLS.replace("return a + b", "return a * b"))
        await pool.load([file])
        assert await text(pool, "add", a=3, b=3) == "9"
        assert (await old).text == "awake"
        await until(lambda: not running(mark))


async def test_reload_that_fails_changes_nothing(file: Path, tmp_path: Path) -> None:
    async with pooled(file) as pool:
        with pytest.raises(FileNotFoundError):
            await pool.load([tmp_path / "gone.py"])
        (tmp_path / "ends.py").write_text("import os; os._exit(1)")
        with pytest.raises(WorkerLost):
            await pool.load([tmp_path / "ends.py"])
        assert await text(pool, "add", a=1, b=1) == "2"


@pytest.mark.skipif(HERE.landlock < 4, reason="files are not protected here")
async def test_tool_reads_what_its_spec_names_and_nothing_else(file: Path) -> None:
    readable = Path(__file__).with_name("__init__.py")
    async with pooled(file, spec=SandboxSpec(read_paths=(str(readable),))) as pool:
        assert await text(pool, "secret", path=str(readable)) == readable.read_text()
        result = await pool.call("secret", {"path": __file__}, CONTEXT, 60)
        assert result.outcome is Outcome.FAILED
        assert "PermissionError" in result.text or "FileNotFoundError" in result.text


async def test_strict_pool_starts_nothing_where_the_kernel_cannot(file: Path) -> None:
    able = replace(HERE, landlock=0, bwrap=None)
    pool = WorkerPool(TOOL_FILES, SandboxSpec(), 1, mode=Mode.STRICT, capability=able)
    with pytest.raises(SandboxUnavailable, match="strict"):
        await pool.load([file])
    await pool.close()


async def test_best_effort_pool_says_what_is_missing(file: Path) -> None:
    async with pooled(file, capability=replace(HERE, landlock=0, bwrap=None)) as pool:
        assert pool.protections
        assert "files" in pool.protections.missing


async def test_closed_pool_runs_nothing(file: Path) -> None:
    async with pooled(file) as pool:
        pass
    result = await pool.call("add", {"a": 1, "b": 1}, CONTEXT, 60)
    assert result.outcome is Outcome.FAILED
    assert "stopping" in result.text


async def test_target_may_be_a_file(tmp_path: Path) -> None:
    target = tmp_path / "served.py"
    target.write_text(
        "class Served:\n"
        "    def load(self, files): return {'tools': [], 'problems': {}}\n"
        "    def call(self, tool, args, context): return {'text': tool + '!', 'failed': False}\n"
    )
    tmp_path.chmod(0o755)
    able = replace(HERE, account=None)  # pytest's folders are private to its account
    pool = WorkerPool(f"{target}:Served", SandboxSpec(), 1, mode=Mode.BEST_EFFORT, capability=able)
    try:
        await pool.load([])
        assert await text(pool, "hello") == "hello!"
    finally:
        await pool.close()
