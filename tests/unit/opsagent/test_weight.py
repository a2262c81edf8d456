"""What a process loads only where it needs it."""

import subprocess
import sys

import pytest

HEAVY = "{'langchain_core', 'langgraph', 'langsmith', 'dashscope', 'mcp', 'slack_bolt', 'alembic'}"


@pytest.mark.parametrize("module", ["opsagent.processes", "opsagent.scripts"])
def test_what_only_turns_need_is_not_loaded_to_serve(module: str) -> None:
    code = f"import sys, {module}; sys.exit(' '.join({HEAVY} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
