"""The OpenAPI document against the real app and a real database: every built-in check of schemathesis."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from agent.types import Role
from api.quotas import Quotas
from tests.fakes.rest import API_KEY, door_over, serving
from tests.integration.conftest import ADMIN, Floor

CONFIG = Path(__file__).with_name("schemathesis.toml")
ST = str(Path(sys.executable).with_name("st"))


@pytest.mark.parametrize(
    ("role", "phases"), [("admin", "examples,coverage,fuzzing,stateful"), ("member", "examples,fuzzing,stateful")]
)
async def test_the_app_does_what_its_document_says(floor: Floor, role: str, phases: str, tmp_path: Path) -> None:
    key = API_KEY
    if role == "member":
        _, key = await floor.service.create_token(
            by=ADMIN, name="fuzz", scopes=("read", "chat", "approve", "admin"), role=Role.MEMBER, expires_in_days=1
        )
    async with serving(door_over(floor.service, quotas=Quotas(factor=10_000))) as port:
        process = await asyncio.create_subprocess_exec(
            ST,
            *("--config-file", str(CONFIG), "run", f"http://127.0.0.1:{port}/openapi.json"),
            *("--checks", "all", "--max-examples", "5", "--no-shrink", "--seed", "1"),
            *("--phases", phases, "--no-color"),
            cwd=tmp_path,
            env={**os.environ, "OPSAGENT_FUZZ_KEY": key},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(240):
                said, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
    assert process.returncode == 0, said.decode()[-12_000:]
