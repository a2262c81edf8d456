"""The benchmarks still measure: each a round or two of the smallest size, whatever the figures."""

from pathlib import Path

import pytest
from pytest_mock import MockerFixture

from benchmarks import api_figures, policy, slack, tools, turns
from benchmarks.__main__ import BENCHMARKS
from benchmarks.database import Server
from tests.conftest import run_on

SIZES = {
    turns: {"EACH": 1, "WARM": 1},
    slack: {"ROUNDS": 1, "EACH": 1},
    api_figures: {"ROUNDS": 1, "EACH": 2},
    policy: {"ROUNDS": 1, "EACH": 1, "TURNS": 1},
    tools: {"ROUNDS": 1, "EACH": 2},
}


@pytest.fixture
async def postgres(server: str, template: str, tmp_path: Path) -> Server:
    made = Server(tmp_path, server, "of the tests")
    await run_on(server, "DROP DATABASE IF EXISTS bench_template")
    await run_on(server, f"CREATE DATABASE bench_template TEMPLATE {template}")
    return made


@pytest.mark.parametrize("name", ["reference", "slack", "token", "first", "policy", "calls"])
async def test_it_measures(postgres: Server, mocker: MockerFixture, name: str) -> None:
    for module, sizes in SIZES.items():
        for size, value in sizes.items():
            mocker.patch.object(module, size, value)
    figures = await BENCHMARKS[name](postgres)
    assert figures
    assert not [figure for figure in figures if "not measured" in figure.measured]
