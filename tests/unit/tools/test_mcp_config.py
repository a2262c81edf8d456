"""MCP_CONFIG: what it may say, and how it is told what is wrong."""

import json
from pathlib import Path
from typing import Any

import pytest

from agent.tools.mcp import McpServerConfig, ToolMarks, load_config


def written(folder: Path, document: Any) -> Path:
    file = folder / "mcp.json"
    file.write_text(document if isinstance(document, str) else json.dumps(document))
    return file


def test_both_kinds_of_server_are_read_with_their_marks(tmp_path: Path) -> None:
    document = {
        "mcpServers": {
            "probe": {"url": "http://127.0.0.1:9000/mcp", "headers": {"Authorization": "Bearer not-real"}},
            "files": {
                "command": "uvx",
                "args": ["files", "--root", "."],
                "env": {"A": "1"},
                "tools": {"read": {"read_only": True}, "put": {"idempotent": True, "timeout_s": 5}},
                "somethingElse": 1,
            },
            "off": {"command": "x", "disabled": True},
        }
    }
    marks = {"read": ToolMarks(read_only=True), "put": ToolMarks(idempotent=True, timeout_s=5)}
    assert load_config(written(tmp_path, document)) == [
        McpServerConfig("probe", url="http://127.0.0.1:9000/mcp", headers={"Authorization": "Bearer not-real"}),
        McpServerConfig("files", command="uvx", args=("files", "--root", "."), env={"A": "1"}, tools=marks),
    ]


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("{not json", "not valid JSON (line 1"),
        ("[" * 100_000, "not valid JSON"),
        ([], '"mcpServers"'),
        ({"servers": {}}, '"mcpServers"'),
        ({"mcpServers": {"a": {}}}, 'either "command" or "url"'),
        ({"mcpServers": {"a": {"command": "x", "url": "http://x"}}}, "not both"),
        ({"mcpServers": {"a": 1}}, "must be an object"),
        ({"mcpServers": {"": {"command": "x"}}}, "as its name"),
        ({"mcpServers": {"a": {"command": ["x"]}}}, '"command"'),
        ({"mcpServers": {"a": {"url": "ftp://x"}}}, "http:// or https://"),
        ({"mcpServers": {"a": {"command": "x", "args": "y"}}}, '"args"'),
        ({"mcpServers": {"a": {"command": "x", "env": {"TOKEN": 5}}}}, "'TOKEN' in \"env\""),
        ({"mcpServers": {"a": {"url": "http://x", "headers": {"A": "b\r\nC: d"}}}}, '"headers"'),
        ({"mcpServers": {"a": {"command": "x", "tools": {"t": {"readonly": True}}}}}, "'readonly'"),
        ({"mcpServers": {"a": {"command": "x", "tools": {"t": {"read_only": "yes"}}}}}, "true or false"),
        ({"mcpServers": {"a": {"command": "x", "tools": {"t": {"timeout_s": 0}}}}}, '"timeout_s"'),
    ],
)
def test_what_is_wrong_is_told_in_one_sentence_that_names_the_file(tmp_path: Path, document: Any, said: str) -> None:
    file = written(tmp_path, document)
    with pytest.raises(ValueError, match=r"mcp\.json") as caught:
        load_config(file)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"absent\.json.*No such file"):
        load_config(tmp_path / "absent.json")


def test_secrets_show_neither_in_errors_nor_in_the_entrys_own_text(tmp_path: Path) -> None:
    entry = {"url": "http://x", "headers": {"Authorization": "Bearer not-a-real-token"}}
    server = load_config(written(tmp_path, {"mcpServers": {"a": entry}}))[0]
    assert "not-a-real-token" not in repr(server)
    assert server.masked("401 for not-a-real-token") == "401 for ***"
    with pytest.raises(ValueError, match="'A'") as caught:
        load_config(written(tmp_path, {"mcpServers": {"a": {**entry, "env": {"A": "not-a-real-token\0"}}}}))
    assert "not-a-real-token" not in str(caught.value)


def test_a_manager_without_servers_does_not_load_the_sdk(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = "import sys; from agent.tools.mcp import McpManager; McpManager([]); sys.exit('mcp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
