"""Custom tools: an operator's files, good and broken."""

import asyncio
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from agent.tools.base import CallContext, Outcome, ToolResult
from agent.tools.custom import CustomTools
from agent.tools.registry import Registry

CONTEXT = CallContext(UUID(int=1), "call_1", UUID(int=2), UUID(int=3))
GOOD = '''
import threading
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, ToolException, tool

@tool
def disk_free(host: str) -> str:
    """Show free space."""
    return f"{host}: 5 GB on {threading.current_thread().name}"
disk_free.metadata = {"read_only": True, "idempotent": True, "timeout_s": 5}

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

class Count(BaseTool):
    name: str = "count"
    description: str = "Count up."
    def _run(self, upto: int) -> list:
        return list(range(upto))

count = Count()
again = count
'''


@pytest.fixture(autouse=True)
def _no_modules_left() -> Iterator[None]:
    yield
    for name in [name for name in sys.modules if name.startswith("opsagent_custom_")]:
        del sys.modules[name]


def load(folder: Path, **files: str) -> tuple[Registry, CustomTools]:
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    tools = CustomTools(folder)
    return Registry([tools]), tools


async def call(registry: Registry, name: str, /, **args: Any) -> ToolResult:
    tool = registry.by_name(name)
    assert tool, f"no {name}: {registry.problems()}"
    return await registry.call(tool, args, CONTEXT)


async def test_every_tool_of_every_file_is_offered_once(tmp_path: Path) -> None:
    registry, tools = load(tmp_path, good=GOOD)
    assert [tool.spec.name for tool in registry.tools()] == ["count", "disk_free", "order", "page", "refuse"]
    assert tools.problems() == {}


async def test_sync_tools_run_in_a_thread_and_async_ones_on_the_loop(tmp_path: Path) -> None:
    registry, _ = load(tmp_path, good=GOOD)
    assert (await call(registry, "disk_free", host="db")).text == "db: 5 GB on custom-tool"
    assert (await call(registry, "page", who="ann")).text == '{"paged": "ann", "urgent": false}'
    assert (await call(registry, "count", upto=3)).text == "[0, 1, 2]"


async def test_a_tool_that_asks_for_its_config_gets_the_approval_as_idempotency_key(tmp_path: Path) -> None:
    registry, _ = load(tmp_path, good=GOOD)
    assert (await call(registry, "order", item="disk")).text == f"disk under {UUID(int=2)}"


async def test_a_tools_own_refusal_is_its_text(tmp_path: Path) -> None:
    registry, _ = load(tmp_path, good=GOOD)
    assert await call(registry, "refuse") == ToolResult("Not during the freeze.", Outcome.FAILED)


async def test_what_the_operator_declares_counts(tmp_path: Path) -> None:
    registry, _ = load(tmp_path, good=GOOD)
    declared, plain = registry.by_name("disk_free"), registry.by_name("page")
    assert declared
    assert plain
    assert (declared.spec.read_only, declared.spec.idempotent, declared.spec.timeout_s) == (True, True, 5)
    assert (plain.spec.read_only, plain.spec.idempotent, plain.spec.timeout_s) == (False, False, 60)


async def test_an_unknown_argument_is_refused(tmp_path: Path) -> None:
    registry, _ = load(tmp_path, good=GOOD)
    assert "`approved`" in (await call(registry, "page", who="ann", approved=True)).text


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
    registry, tools = load(tmp_path, broken=text, good=GOOD)
    assert registry.by_name("page")
    problem = tools.problems()["broken.py"]
    assert said in problem
    assert problem.startswith("broken.py")
    assert "\n" not in problem
    assert "Traceback" not in problem


async def test_a_name_defined_twice_counts_once_and_is_reported(tmp_path: Path) -> None:
    registry, tools = load(tmp_path, a=GOOD, b=GOOD)
    assert len(registry.tools()) == 5
    assert "rename" in tools.problems()["b.py: page"]


async def test_a_nonsense_declaration_is_reported_and_the_neighbours_stay(tmp_path: Path) -> None:
    registry, tools = load(tmp_path, good=GOOD + '\npage.metadata = {"timeout_s": "soon"}\n')
    assert registry.by_name("page") is None
    assert registry.by_name("count")
    assert "timeout_s" in tools.problems()["good.py: page"]


async def test_a_missing_folder_is_a_problem_and_not_a_crash(tmp_path: Path) -> None:
    _, tools = load(tmp_path)
    assert tools.problems() == {}
    assert "not a folder" in CustomTools(tmp_path / "nowhere").problems()["nowhere"]


async def test_files_of_one_name_in_two_folders_do_not_mix(tmp_path: Path) -> None:
    for number in ("1", "2"):
        (tmp_path / number).mkdir()
        (tmp_path / number / "ops.py").write_text(GOOD.replace("5 GB", f"{number} GB"))
    first, second = (Registry([CustomTools(tmp_path / number)]) for number in ("1", "2"))
    assert "1 GB" in (await call(first, "disk_free", host="db")).text
    assert "2 GB" in (await call(second, "disk_free", host="db")).text


WAIT = '''
import threading
from langchain_core.tools import tool
go = threading.Event()

@tool
def wait() -> str:
    """Wait until told."""
    go.wait(30)
    return "told"
wait.metadata = {"timeout_s": 0.05}
'''


async def test_a_sync_tool_that_hangs_is_unknown_and_the_loop_goes_on(tmp_path: Path) -> None:
    registry, _ = load(tmp_path, wait=WAIT, good=GOOD)
    results = await asyncio.gather(*(call(registry, "wait") for _ in range(3)))
    assert {result.outcome for result in results} == {Outcome.UNKNOWN}
    assert (await call(registry, "count", upto=1)).text == "[0]"
    name = next(name for name in sys.modules if name.startswith("opsagent_custom_") and name.endswith("_wait"))
    sys.modules[name].go.set()
    for thread in threading.enumerate():
        if thread.name == "custom-tool":
            thread.join(10)
