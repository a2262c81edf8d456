"""Custom tools: an operator's files, good and broken, in workers of their own."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from agent.sandbox.policy import Mode
from agent.tools.base import CallContext, Outcome, ToolResult
from agent.tools.custom import CustomTools
from agent.tools.registry import Registry

CONTEXT = CallContext(UUID(int=1), "call_1", UUID(int=2), UUID(int=3))
GOOD = '''
import os
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, ToolException, tool

@tool
def disk_free(host: str) -> str:
    """Show free space."""
    return f"{host}: 5 GB"
disk_free.metadata = {"read_only": True, "idempotent": True, "timeout_s": 5, "risk": "low"}

@tool
async def page(who: str, urgent: bool = False) -> dict:
    """Page someone."""
    return {"paged": who, "urgent": urgent}

@tool
def order(item: str, config: RunnableConfig) -> str:
    """Order something once."""
    return f"{item} under {config['configurable']['approval_id']}"

@tool
def refuse() -> str:
    """Fail politely."""
    raise ToolException("Not during the freeze.")

@tool
def where() -> str:
    """Show the process and its environment."""
    return f"{os.getpid()} {sorted(os.environ)}"

class Count(BaseTool):
    name: str = "count"
    description: str = "Count up."
    def _run(self, upto: int) -> list:
        return list(range(upto))

count = Count()
again = count
'''
GIVING = '''
import base64
from pathlib import Path
from langchain_core.tools import ToolException, tool

PNG = bytes.fromhex("89504e470d0a1a0a") + bytes(8)

@tool
def raw() -> bytes:
    """Give bytes."""
    return PNG

@tool
def blocks() -> list:
    """Give content blocks."""
    image = {"type": "image", "base64": base64.b64encode(PNG).decode(), "mime_type": "image/png"}
    return [{"type": "text", "text": "look"}, image]

@tool(response_format="content_and_artifact")
def files(n: int) -> tuple:
    """Give an artifact."""
    Path("report.csv").write_text("a,b")
    return f"{n} files", [Path("report.csv"), {"name": "../../x.txt", "content": "hi"}, PNG, *[b"x"] * n]

@tool(response_format="content_and_artifact")
async def rows() -> tuple:
    """Give records."""
    return "two rows", [{"pod": "a", "ready": True}, {"pod": "b", "ready": None}]

@tool(response_format="content_and_artifact")
def large() -> tuple:
    """Give too much, and nothing that is there."""
    return "too much", [bytes(6 << 20), Path("/no/such/file"), {"content": 7}]

@tool(response_format="content_and_artifact")
def refused() -> tuple:
    """Fail politely."""
    raise ToolException("Not now.")
'''
SECRET = '''
import os
from langchain_core.tools import tool

@tool
def speak() -> str:
    """Tell which secrets are there."""
    return f"{os.environ.get('PAGER_TOKEN')} {os.environ.get('DB_PASSWORD')}"
speak.metadata = {"secrets": ["PAGER_TOKEN"]}

@tool
def silent() -> str:
    """Tell which secrets are there."""
    return str(os.environ.get("PAGER_TOKEN"))
'''


@contextlib.asynccontextmanager
async def loaded(
    folder: Path, *, secrets: Mapping[str, str] | None = None, packages: tuple[EntryPoint, ...] = (), **files: str
) -> AsyncIterator[tuple[Registry, CustomTools]]:
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    tools = CustomTools(folder, mode=Mode.BEST_EFFORT, secrets=secrets, packages=packages, workers=1)
    registry = Registry([tools])
    running = asyncio.create_task(registry.run())
    try:
        await registry.ready(60)
        yield registry, tools
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def call(registry: Registry, name: str, /, **args: Any) -> ToolResult:
    tool = registry.by_name(name)
    assert tool, f"no {name}: {registry.problems()}"
    return await registry.call(tool, args, CONTEXT)


async def test_the_tools_of_a_file_run_as_it_declares_them_and_not_in_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TONGYI_API_KEY", "not-a-real-key")
    async with loaded(tmp_path, good=GOOD) as (registry, tools):
        names = [tool.spec.name for tool in registry.tools()]
        assert names == ["count", "disk_free", "order", "page", "refuse", "where"]
        assert tools.problems() == {}
        assert (await call(registry, "disk_free", host="db")).text == "db: 5 GB"
        assert (await call(registry, "page", who="ann")).text == '{"paged": "ann", "urgent": false}'
        assert (await call(registry, "count", upto=3)).text == "[0, 1, 2]"
        # The approval is the idempotency key of a tool that asks for its config.
        assert (await call(registry, "order", item="disk")).text == f"disk under {UUID(int=2)}"
        assert await call(registry, "refuse") == ToolResult("Not during the freeze.", Outcome.FAILED)
        assert "`approved`" in (await call(registry, "page", who="ann", approved=True)).text
        assert "TONGYI_API_KEY" not in (await call(registry, "where")).text
        assert not [name for name in sys.modules if name.startswith("opsagent_custom_")]
        declared, plain = registry.by_name("disk_free"), registry.by_name("page")
        assert declared
        assert plain
        assert (declared.spec.read_only, declared.spec.idempotent, declared.spec.timeout_s) == (True, True, 5)
        assert (plain.spec.read_only, plain.spec.idempotent, plain.spec.timeout_s) == (False, False, 60)
        assert declared.spec.annotations["risk"] == "low"


async def test_a_tool_gets_the_secrets_that_it_names_and_its_neighbour_none(tmp_path: Path) -> None:
    secrets = {"PAGER_TOKEN": "obviously-fake", "DB_PASSWORD": "also-fake"}
    async with loaded(tmp_path, secrets=secrets, secret=SECRET) as (registry, _):
        assert (await call(registry, "speak")).text == "obviously-fake None"
        assert (await call(registry, "silent")).text == "None"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def broken(:\n", "SyntaxError"),
        ("import no_such_module_anywhere\n", "no_such_module_anywhere"),
        ("import sys\nsys.exit(3)\n", "SystemExit"),
        ("raise RuntimeError('no\\nluck')\n", "RuntimeError: no luck"),
    ],
)
async def test_a_broken_file_is_reported_and_the_others_load(tmp_path: Path, text: str, said: str) -> None:
    async with loaded(tmp_path, broken=text, good=GOOD) as (registry, tools):
        assert registry.by_name("page")
        problem = tools.problems()["broken.py"]
        assert said in problem
        assert problem.startswith("broken.py")
        assert "\n" not in problem
        assert "Traceback" not in problem


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ('{"timeout_s": "soon"}', "timeout_s"),
        ('{"risk": "none at all"}', "risk"),
        ('{"read-only": True}', "read-only"),
        ('{"hosts": ["https://example.com/x"]}', "hosts"),
        ('{"write_paths": ["relative"]}', "write_paths"),
        ('{"write_paths": ["/"]}', "write_paths"),
        ('{"secrets": ["MISSING"]}', "OPSAGENT_TOOL_SECRET_MISSING"),
    ],
)
async def test_a_nonsense_declaration_is_reported_and_the_neighbours_stay(
    tmp_path: Path, metadata: str, said: str
) -> None:
    async with loaded(tmp_path, good=GOOD + f"\npage.metadata = {metadata}\n") as (registry, tools):
        assert registry.by_name("page") is None
        assert registry.by_name("count")
        assert said in tools.problems()["good.py: page"]


async def test_a_name_defined_twice_counts_once_and_is_reported(tmp_path: Path) -> None:
    async with loaded(tmp_path, a=GOOD, b=GOOD) as (registry, tools):
        assert len(registry.tools()) == 6
        assert "rename" in tools.problems()["b.py: page"]


async def test_a_reload_brings_what_was_added_and_takes_what_was_removed(tmp_path: Path) -> None:
    async with loaded(tmp_path, secrets={"PAGER_TOKEN": "fake"}, good=GOOD, secret=SECRET) as (registry, tools):
        assert registry.by_name("silent")
        told = asyncio.Event()

        async def changed() -> None:
            told.set()

        registry.subscribe(changed)
        (tmp_path / "secret.py").unlink()
        (tmp_path / "good.py").write_text(GOOD.replace("5 GB", "6 GB"))
        await tools.reload()
        assert told.is_set()
        assert registry.by_name("silent") is None
        assert (await call(registry, "disk_free", host="db")).text == "db: 6 GB"


async def test_a_missing_folder_is_a_problem_and_not_a_crash(tmp_path: Path) -> None:
    async with loaded(tmp_path) as (_, tools):
        assert tools.problems() == {}
    gone = tmp_path / "nowhere"
    tools = CustomTools(gone, packages=())
    running = asyncio.create_task(tools.run(_nothing))
    await tools.ready()
    assert "not a folder" in tools.problems()["nowhere"]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def _nothing() -> None:
    return


async def test_a_package_whose_entry_point_is_wrong_is_reported(tmp_path: Path) -> None:
    """What can't be imported is reported; what is no module name is never written into a line of Python."""
    good = EntryPoint("fleet", "no_such_package.tools", "opsagent.tools")
    odd = EntryPoint("odd", "os;system", "opsagent.tools")
    async with loaded(tmp_path, packages=(good, odd)) as (registry, tools):
        assert registry.tools() == []
        assert "no_such_package" in tools.problems()["package_fleet.py"]
        assert "names no module" in tools.problems()["package odd"]


WAIT = '''
import time
from langchain_core.tools import tool

@tool
def wait() -> str:
    """Wait too long."""
    time.sleep(60)
    return "told"
wait.metadata = {"timeout_s": 0.3}

@tool
def leave() -> str:
    """End the process."""
    import os
    os._exit(3)
'''


async def test_a_tool_that_hangs_or_ends_its_worker_is_unknown_and_the_next_call_works(tmp_path: Path) -> None:
    async with loaded(tmp_path, wait=WAIT, good=GOOD) as (registry, _):
        assert (await call(registry, "wait")).outcome is Outcome.UNKNOWN
        assert (await call(registry, "count", upto=1)).text == "[0]"
        assert (await call(registry, "leave")).outcome is Outcome.UNKNOWN
        assert (await call(registry, "count", upto=2)).text == "[0, 1]"


async def test_what_a_tool_gives_beside_its_text_comes_out_of_the_sandbox_checked(tmp_path: Path) -> None:
    async with loaded(tmp_path, giving=GIVING) as (registry, tools):
        assert tools.problems() == {}
        raw = await call(registry, "raw")
        assert (raw.text, raw.attachments[0].name) == ("(The tool gave a file.)", "file.png")
        shown = await call(registry, "blocks")
        assert shown.text.splitlines()[0] == "look"
        assert [file.media_type for file in shown.attachments] == ["image/png"]
        files = await call(registry, "files", n=1)
        assert files.text == "1 files"
        assert [file.name for file in files.attachments] == ["report.csv", "x.txt", "file.png", "file"]
        assert not files.for_people
        many = await call(registry, "files", n=9)
        assert len(many.attachments) == 5
        assert many.text.endswith("[7 more files, not shown]")
        rows = await call(registry, "rows")
        assert rows.table
        assert (rows.text, rows.table.rows, rows.for_people) == ("two rows", (("a", "true"), ("b", "")), True)
        large = await call(registry, "large")
        assert large.attachments == ()
        assert large.text.count("not shown") == 3
        assert await call(registry, "refused") == ToolResult("Not now.", Outcome.FAILED)
