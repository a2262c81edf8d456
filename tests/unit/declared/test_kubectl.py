"""A guarded kubectl: the exact command of a call, run by a fake that records it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.tools.base import Outcome
from agent.tools.declared.parameters import Unfit
from tests.unit.declared.conftest import Folder, tool_of

FAKE = """#!/bin/sh
for argument in "$@"; do printf '<%s>\\n' "$argument"; done
env | cut -d= -f1 | sort > {folder}/env
"""


@pytest.fixture
def kubectl(folder: Folder) -> Callable[..., str]:
    program = folder.path / "kubectl"
    program.write_text(FAKE.format(folder=folder.path))
    program.chmod(0o755)
    (folder.path / "config").write_text("fake: kubeconfig\n")

    def text(verbs: str = "[get]", resources: str = "[pods]", namespaces: str = "[web]", **more: str) -> str:
        extra = "\n      ".join(f"{key}: {value}" for key, value in more.items() if key != "read_only")
        return f"""
tools:
  - name: under_test
    kind: kubectl
    description: A kubectl under test.
    {f"read_only: {more['read_only']}" if "read_only" in more else "risk: low"}
    kubectl:
      program: {program}
      kubeconfig: {folder.path}/config
      verbs: {verbs}
      resources: {resources}
      namespaces: {namespaces}
      {extra}
"""

    return text


def command(folder: Folder, text: str, **args: Any) -> list[str]:
    folder.write(text)
    made = tool_of(folder.source(), "under_test").kind.command(args)
    assert made[1] == f"--kubeconfig={folder.path}/config"
    return made[2:]


async def test_the_program_gets_exactly_the_guarded_command(
    folder: Folder, kubectl: Callable[..., str], run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", "/tmp/evil")
    folder.write(kubectl("[get, logs]", context="prod", flags="[selector, output, tail]"))
    args = {"verb": "get", "selector": "app=web,tier!=db", "output": "wide"}
    result = await run(folder.source(), "under_test", args)
    assert result.outcome is Outcome.SUCCEEDED
    assert [line[1:-1] for line in result.text.splitlines()] == [
        f"--kubeconfig={folder.path}/config",
        "--context=prod",
        "get",
        "--namespace=web",
        "--selector=app=web,tier!=db",
        "--output=wide",
        "--",
        "pods",
    ]
    assert "KUBECONFIG" not in (folder.path / "env").read_text().split()


def test_each_verb_has_its_own_form(folder: Folder, kubectl: Callable[..., str]) -> None:
    assert command(folder, kubectl("[logs]", flags="[tail, previous]"), name="web-0", previous=True) == [
        *("logs", "--namespace=web", "--tail=200", "--previous=true", "--", "pods/web-0")
    ]
    restart = kubectl("[rollout restart]", "[deployments]")
    assert command(folder, restart, name="web") == ["rollout", "restart", "--namespace=web", "--", "deployments", "web"]
    scale = kubectl("[scale]", "[deployments]")
    assert command(folder, scale, name="web", replicas=3) == [
        *("scale", "--namespace=web", "--replicas=3", "--", "deployments", "web")
    ]
    assert command(folder, kubectl("[cordon]", "[nodes]"), name="node-1") == ["cordon", "--", "node-1"]
    assert command(folder, kubectl("[top]")) == ["top", "pods", "--namespace=web", "--"]
    assert command(folder, kubectl("[top]", "[nodes]"), name="node-1") == ["top", "nodes", "--", "node-1"]


def test_reading_verbs_are_read_only_and_others_not(folder: Folder, kubectl: Callable[..., str]) -> None:
    for verbs, resources, read_only in (("[get, logs]", "[pods]", True), ("[get, scale]", "[deployments]", False)):
        folder.write(kubectl(verbs, resources))
        assert folder.source().tools()[0].spec.read_only is read_only


@pytest.mark.parametrize(
    "args",
    [
        {"name": "--kubeconfig=/tmp/evil"},
        {"name": "-oyaml"},
        {"name": "secret/token"},
        {"name": "web secrets"},
        {"name": "../x"},
        {"name": "web\n--raw=/"},
        {"resource": "secrets"},
        {"resource": "pods,secrets"},
        {"namespace": "kube-system"},
        {"namespace": "web --server=http://evil"},
        {"selector": "--raw=/api"},
        {"selector": "a=b\x00"},
        {"output": "go-template={{.}}"},
        {"output": "jsonpath={.data}"},
        {"output": "custom-columns-file=/etc/passwd"},
        {"kubeconfig": "/tmp/evil"},
        {"server": "http://evil"},
        {"token": "fake"},
        {"raw": "/api/v1/secrets"},
        {"f": "/etc/shadow"},
        {"as": "system:admin"},
        {"verb": "exec"},
        {"verb": "get", "tail": 5},
        {"verb": "logs"},
        {"verb": "logs", "resource": "services", "name": "web"},
        {"all_namespaces": True},
        {"replicas": 3},
    ],
)
def test_what_is_not_in_the_lists_is_refused(folder: Folder, kubectl: Callable[..., str], args: dict[str, Any]) -> None:
    text = kubectl("[get, logs]", "[pods, services]", "[web, api]", flags="[selector, output, tail]")
    good = {"verb": "get", "resource": "pods", "namespace": "web"}
    assert command(folder, text, **good)
    with pytest.raises(Unfit):
        command(folder, text, **good | args)


def test_any_namespace_must_still_be_named_or_all_of_them_asked_for(
    folder: Folder, kubectl: Callable[..., str]
) -> None:
    text = kubectl(namespaces='["*"]', flags="[all_namespaces]")
    assert "--namespace=kube-system" in command(folder, text, namespace="kube-system")
    assert "--all-namespaces=true" in command(folder, text, all_namespaces=True)
    for bad in ({}, {"namespace": "--all"}, {"namespace": "a b"}, {"all_namespaces": False}):
        with pytest.raises(Unfit):
            command(folder, text, **bad)


@pytest.mark.parametrize(
    ("lists", "line", "said"),
    [
        ({"verbs": "[exec]"}, 10, "`exec` is no verb"),
        ({"verbs": "[get, apply]"}, 10, "`apply` is no verb"),
        ({"verbs": "['get --raw']"}, 10, "is no verb"),
        ({"resources": "[pods, secrets]"}, 11, "allow_secrets"),
        ({"resources": "[secret]"}, 11, "allow_secrets"),
        ({"resources": "[secrets.v1.]"}, 11, "allow_secrets"),
        ({"resources": "['pods,secrets']"}, 11, "`0`: "),
        ({"flags": "[kubeconfig]"}, 13, "`kubeconfig` is no flag"),
        ({"flags": "['--server']"}, 13, "is no flag"),
        ({"flags": "[raw]"}, 13, "is no flag"),
        ({"flags": "[filename]"}, 13, "is no flag"),
        ({"flags": "[tail]"}, 13, "is no flag for these verbs"),
        ({"flags": "[all_namespaces]"}, 13, "needs `namespaces"),
        ({"namespaces": '["*", web]'}, 12, "alone"),
        ({"verbs": "[delete]", "read_only": "true"}, 6, "so the tool is not `read_only`"),
        ({"context": "'--server=x'"}, 13, "`context`: "),
    ],
)
def test_what_is_never_allowed_is_told_with_its_line(
    folder: Folder, kubectl: Callable[..., str], lists: dict[str, str], line: int, said: str
) -> None:
    problem = folder.problem(kubectl(**lists))
    assert problem.startswith(f"tools.yaml line {line}: "), problem
    assert said in problem


def test_secrets_can_be_read_only_where_the_operator_says_so(folder: Folder, kubectl: Callable[..., str]) -> None:
    text = kubectl(resources="[secrets]", allow_secrets="true")
    assert command(folder, text) == ["get", "--namespace=web", "--", "secrets"]


async def test_a_missing_kubeconfig_is_told_before_anything_runs(
    folder: Folder, kubectl: Callable[..., str], run: Callable[..., Any]
) -> None:
    folder.write(kubectl())
    Path(folder.path, "config").unlink()
    result = await run(folder.source(), "under_test", {})
    assert result.outcome is Outcome.FAILED
    assert "There is no kubeconfig" in result.text
    assert not (folder.path / "env").exists()
