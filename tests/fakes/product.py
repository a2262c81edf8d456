"""The product as its operator runs it: a real process with settings and nothing else, in a home of its own."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx

from tests.fakes.mcp_servers import free_port

OPSAGENT = str(Path(sys.executable).with_name("opsagent"))
API_KEY = "canary-api-key-0123456789abcdefghijkl"
SECRET_KEY = "canary-secret-key-0123456789abcdefghijkl"
_INHERITED = ("PATH", "PYTHONPATH", "LANG", "LC_ALL", "TMPDIR", "SYSTEMROOT")


def make_home() -> Path:
    """A folder that nobody else uses; `remove_home` takes it away with the database that may run in it."""
    return Path(tempfile.mkdtemp(prefix="opsagent-home-"))


def remove_home(home: Path) -> None:
    pid_file = home / "postgres" / "data" / "postmaster.pid"
    if pid_file.exists():
        # Only a killed product leaves its database running; SIGQUIT is an immediate shutdown.
        pid = int(pid_file.read_text().split()[0])
        try:
            os.kill(pid, signal.SIGQUIT)
            while True:
                os.kill(pid, 0)
                time.sleep(0.02)
        except ProcessLookupError:
            pass
    shutil.rmtree(home, ignore_errors=True)


def environment(home: Path, settings: Mapping[str, str]) -> dict[str, str]:
    """Nothing of the shell that runs the tests but where programs are."""
    kept = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return {
        **kept,
        "HOME": str(home),
        "OPSAGENT_HOME": str(home),
        **settings,
    }


@dataclass(frozen=True, slots=True)
class Finished:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        return self.out + self.err


async def run_command(
    home: Path, *command: str, settings: Mapping[str, str] | None = None, typed: str = "", within: float = 60
) -> Finished:
    """Run one command to its end; one that hangs is killed, and fails the test."""
    process = await asyncio.create_subprocess_exec(
        OPSAGENT,
        *command,
        cwd=home,
        env=environment(home, settings or {}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(typed.encode()), within)
    except TimeoutError:
        process.kill()
        out, err = await process.communicate()
        raise AssertionError(f"{command} did not end within {within:g} s: {out.decode()}{err.decode()}") from None
    assert process.returncode is not None
    return Finished(process.returncode, out.decode(), err.decode())


class Product:
    """`opsagent up`, `serve` or `work`; a new one in the same home is a restart."""

    def __init__(self, home: Path, settings: Mapping[str, str], command: str = "up") -> None:
        self.home = home
        self.command = command
        self.port = int(settings.get("PORT") or free_port())
        keys = {"API_KEY": API_KEY, "SECRET_KEY": SECRET_KEY, "HOST": "127.0.0.1", "PORT": str(self.port)}
        self.settings = {name: value for name, value in {**keys, **settings}.items() if value}
        self.log_file = home / f"{command}-{self.port}-{time.monotonic_ns()}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._http: httpx.AsyncClient | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the product was not started"
        return self._process

    @property
    def serves(self) -> bool:
        return self.command != "work"

    async def start(self, *, ready: bool = True) -> Self:
        with self.log_file.open("wb") as log:
            self._process = subprocess.Popen(
                [OPSAGENT, self.command],
                cwd=self.home,
                env=environment(self.home, self.settings),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._http = httpx.AsyncClient(base_url=self.url, timeout=60, verify=False)
        if ready:
            await self.ready()
        return self

    async def ready(self, within: float = 60) -> None:
        """Return once /readyz says so, or, where nothing listens, the log does."""
        deadline = time.monotonic() + within
        while not await self._is_ready():
            assert self.process.poll() is None, f"the product ended with {self.process.returncode}:\n{self.logs()}"
            assert time.monotonic() < deadline, f"the product was not ready within {within:g} s:\n{self.logs()}"
            await asyncio.sleep(0.05)

    async def _is_ready(self) -> bool:
        if not self.serves:
            return "work.ready" in self.logs()
        try:
            return (await self.http.get("/readyz")).status_code == 200
        except httpx.TransportError:
            return False

    @property
    def http(self) -> httpx.AsyncClient:
        assert self._http is not None, "the product was not started"
        return self._http

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        expect: int | tuple[int, ...] = 200,
        key: str | None = API_KEY,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Make a REST call, hold its status against what is expected, and return the JSON."""
        given = {**({"X-API-Key": key} if key else {}), **(headers or {})}
        answer = await self.http.request(method, path, json=body, headers=given)
        expected = (expect,) if isinstance(expect, int) else expect
        assert answer.status_code in expected, f"{method} {path}: {answer.status_code} {answer.text[:800]}"
        if answer.status_code >= 400 and path.startswith("/api/"):
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["code"]
        return answer.json() if answer.content else None

    def kill(self) -> None:
        """As a power cut."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    async def stop(self, within: float = 45) -> int:
        """SIGTERM; return the exit code. One that does not stop is killed, and fails the test."""
        self.process.terminate()
        return await self.ended(within)

    async def ended(self, within: float = 45) -> int:
        deadline = time.monotonic() + within
        while (code := self.process.poll()) is None:
            if time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"the product did not end within {within:g} s:\n{self.logs()[-3000:]}")
            await asyncio.sleep(0.02)
        return code

    async def close(self) -> None:
        """End the process where it still runs, and let go of its connections."""
        if self._process is not None and self._process.poll() is None:
            self.process.terminate()
            try:
                await self.ended()
            finally:
                self.kill()
        if self._http is not None:
            await self._http.aclose()

    def logs(self) -> str:
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""
