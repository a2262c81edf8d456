"""The examples of examples/tools load, and those whose program is here run for real."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.egress import EgressPolicy
from agent.sandbox.capability import current
from agent.sandbox.policy import Mode, SandboxSpec, protections
from agent.tools.base import Outcome
from agent.tools.declared import process
from agent.tools.declared.declaration import House, declarations
from agent.tools.declared.files import read
from agent.tools.declared.source import DeclaredTools
from tests.unit.declared.conftest import LOOPBACK, Folder, context
from tests.unit.declared.fake_web import Reply, fake_web
from tests.unit.declared.test_kubectl import FAKE
from tests.unit.sandbox.conftest import open_folder

__all__ = ["open_folder"]

EXAMPLES = Path(__file__).parents[3] / "examples" / "tools"
NAMES = {
    *("disk_usage", "process_list", "process_of", "unit_journal", "http_check", "prometheus_query", "request_rate"),
    *("database_sizes", "long_queries", "kubernetes_read", "kubernetes_rollout_restart", "old_logs_delete"),
}
PROGRAMS = {"unit_journal": "journalctl", "kubernetes_read": "kubectl", "kubernetes_rollout_restart": "kubectl"}
DSN = "postgresql://reader:fake-password@127.0.0.1:1/x"


def examples(dsn: str = DSN) -> DeclaredTools:
    return DeclaredTools(EXAMPLES, mode=Mode.STRICT, egress=EgressPolicy(), secrets={"POSTGRES_READER_DSN": dsn})


def copied(folder: Folder, name: str, **replaced: str) -> None:
    text = (EXAMPLES / name).read_text()
    for old, new in replaced.items():
        assert old in text
        text = text.replace(old, new)
    folder.write(text, name)


def test_every_example_is_a_good_declaration() -> None:
    house = House(Mode.STRICT, EgressPolicy(), {"POSTGRES_READER_DSN": DSN})
    found = [made for file in sorted(EXAMPLES.glob("*.yaml")) for made in declarations(read(file), house)]
    assert {name for _, name, _ in found} == NAMES
    assert [made for _, _, made in found if isinstance(made, Exception)] == []


def test_every_example_is_offered_where_its_program_is() -> None:
    source = examples()
    absent = {name for name, program in PROGRAMS.items() if not shutil.which(program, path=process.PATH)}
    assert {tool.spec.name for tool in source.tools()} == NAMES - absent
    assert all("is not here: install it" in problem for problem in source.problems().values())
    assert len(source.problems()) == len(absent)


def test_only_the_restart_and_the_deletion_change_anything() -> None:
    changing = {tool.spec.name for tool in examples().tools() if not tool.spec.read_only}
    assert changing <= {"kubernetes_rollout_restart", "old_logs_delete"}


async def test_old_logs_are_listed_before_they_are_deleted(
    folder: Folder, open_folder: Path, run: Callable[..., Any]
) -> None:
    old, new = open_folder / "old.gz", open_folder / "new.gz"
    for log in (old, new):
        log.write_text("x")
        log.chmod(0o666)
    os.utime(old, (0, 0))
    copied(folder, "old-logs.yaml", **{"/var/log/app": str(open_folder)})
    source = folder.source(mode=Mode.BEST_EFFORT)
    (tool,) = source.tools()
    said = await tool.preview({"age": "+30"}, context())
    if missing := protections(current(), SandboxSpec(), Mode.BEST_EFFORT).missing:
        assert f"can't protect {', '.join(missing)} here" in said.text
    else:
        assert said.outcome is Outcome.SUCCEEDED, said.text
        assert "old.gz" in said.text
        assert "new.gz" not in said.text
    assert (old.exists(), new.exists()) == (True, True)
    done = await run(source, "old_logs_delete", {"age": "+30"})
    assert done.outcome is Outcome.SUCCEEDED, done.text
    assert (old.exists(), new.exists()) == (False, True)


async def test_disk_usage_says_how_full_the_root_is(run: Callable[..., Any]) -> None:
    result = await run(examples(), "disk_usage", {"path": "/usr"})
    assert result.outcome is Outcome.SUCCEEDED, result.text
    assert len(result.text.splitlines()) == 2
    assert "%" in result.text.splitlines()[1]


async def test_processes_are_listed_without_their_command_lines(run: Callable[..., Any]) -> None:
    result = await run(examples(), "process_list", {"sort": "--sort=pid"})
    assert result.outcome is Outcome.SUCCEEDED, result.text
    first = result.text.splitlines()[1].split()
    assert first[0] == "1"
    one = await run(examples(), "process_of", {"program": "python"})
    assert one.outcome is Outcome.SUCCEEDED


@pytest.mark.skipif(not shutil.which("journalctl", path=process.PATH), reason="journalctl is not here")
async def test_the_journal_of_a_unit_is_asked_for(run: Callable[..., Any]) -> None:
    result = await run(examples(), "unit_journal", {"unit": "ssh.service", "lines": 5})
    assert result.outcome is Outcome.SUCCEEDED, result.text


async def test_http_check_says_what_was_answered(folder: Folder, run: Callable[..., Any]) -> None:
    async with fake_web(lambda asked: Reply(body=b"<h1>hello</h1>")) as web:
        copied(folder, "http-check.yaml", **{"https://www.example.com": web.origin})
        result = await run(folder.source(), "http_check", {"page": "status.html", "locale": "de"})
    assert web.asked[0].target == "/status.html?lang=de"
    assert result.text.startswith("HTTP 200 OK in ")


async def test_request_rate_asks_for_its_service(folder: Folder, run: Callable[..., Any]) -> None:
    series = [{"metric": {"code": "200"}, "values": [[1, "1"], [2, "3"]]}]
    body = json.dumps({"status": "success", "data": {"resultType": "matrix", "result": series}}).encode()
    async with fake_web(lambda asked: Reply(body=body)) as web:
        copied(folder, "prometheus.yaml", **{"http://prometheus.example.internal:9090": web.origin})
        result = await run(folder.source(egress=LOOPBACK), "request_rate", {"service": "web"})
    assert "| 200 | 1 | 3 | 1 | 3 | 2 | 2 |" in result.text
    assert "query=sum" in web.asked[0].target


async def test_postgres_shows_its_databases_and_long_queries(dsn: str, run: Callable[..., Any]) -> None:
    sizes = await run(examples(dsn), "database_sizes", {})
    assert "| database | size |" in sizes.text
    assert "| postgres |" in sizes.text
    queries = await run(examples(dsn), "long_queries", {"state": "any", "seconds": 0})
    assert "| pid | database | role | state | running | query |" in queries.text


async def test_kubernetes_runs_its_guarded_commands(folder: Folder, run: Callable[..., Any]) -> None:
    program, config = folder.path / "kubectl", folder.path / "config"
    program.write_text(FAKE.format(folder=folder.path))
    program.chmod(0o755)
    config.write_text("fake: kubeconfig\n")
    at = {"kubeconfig: /etc/opsagent/kubeconfig": f"kubeconfig: {config}\n      program: {program}"}
    copied(folder, "kubernetes.yaml", **at)
    result = await run(folder.source(), "kubernetes_rollout_restart", {"name": "web", "namespace": "production"})
    assert [line[1:-1] for line in result.text.splitlines()] == [
        f"--kubeconfig={config}",
        *("rollout", "restart", "--namespace=production", "--", "deployments", "web"),
    ]
