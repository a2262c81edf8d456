"""Real MCP servers in processes of their own, for the tests that talk to them."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from agent.tools.mcp import McpServerConfig

HERE = Path(__file__).parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def hostile(mode: str, *args: str, **config: Any) -> McpServerConfig:
    """Return the entry of a server that misbehaves in that way."""
    command = (str(HERE / "mcp_hostile.py"), mode, *args)
    return McpServerConfig(name="hostile", command=sys.executable, args=command, **config)


def pushing(**config: Any) -> McpServerConfig:
    """Return the entry of a server that asks over pipes, in the middle of its calls."""
    return McpServerConfig(name="pushing", command=sys.executable, args=(str(HERE / "mcp_pushing.py"),), **config)


class ProbeFile:
    """What the probe server did, a line for each effect."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def count(self, tool: str) -> int:
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        return sum(json.loads(line)["tool"] == tool for line in lines)


class StdioProbe(ProbeFile):
    """The probe behind pipes: started by whoever connects."""

    def __init__(self, path: Path, program: str = "mcp_probe.py") -> None:
        super().__init__(path)
        self.program = program

    def config(self, name: str = "probe", **more: Any) -> McpServerConfig:
        command = (str(HERE / self.program), str(self.path), "stdio")
        return McpServerConfig(name=name, command=sys.executable, args=command, **more)

    def kill(self) -> int:
        """Kill the server's process as a crash would, and return its id."""
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if str(self.path).encode() in words:
                os.kill(int(pid), signal.SIGKILL)
                return int(pid)
        raise AssertionError("the probe does not run")


class HttpProbe(ProbeFile):
    """The probe behind a port: started and stopped by the test."""

    def __init__(self, path: Path, *, earlier: bool = False, sse: bool = False, program: str = "mcp_probe.py") -> None:
        super().__init__(path)
        self.program = program
        self.port = free_port()
        self.earlier = earlier
        self.sse = sse
        self._process: subprocess.Popen[bytes] | None = None

    def config(self, name: str = "probe", **more: Any) -> McpServerConfig:
        return McpServerConfig(name=name, url=f"http://127.0.0.1:{self.port}/mcp", **more)

    async def start(self) -> None:
        command = [
            sys.executable,
            str(HERE / self.program),
            str(self.path),
            str(self.port),
            *["earlier"] * self.earlier,
            *["sse"] * self.sse,
        ]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(400):
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                assert self._process.poll() is None, "the probe ended at once"
                await asyncio.sleep(0.05)
            else:
                writer.close()
                await writer.wait_closed()
                return
        raise AssertionError("the probe does not listen")

    def kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None
