"""The sandbox against programs that want out: the whole matrix, on the protections that this machine has."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.sandbox import capability, paths
from agent.sandbox.policy import Capability, Finished, Mode, SandboxSpec
from agent.sandbox.run import run, wrap
from tests.security.sandbox_attacks import ATTACKS, Attack

HERE = capability.current()
pytestmark = pytest.mark.skipif(
    HERE.landlock < 6 or not HERE.seccomp,
    reason="this kernel can't hold a program: Landlock ABI 6 and seccomp are needed",
)

SPEC = SandboxSpec(read_paths=paths.python(), memory_mb=512, file_mb=50, processes=64, wall_s=60)

HOLDINGS = ["another account", "our own account", "namespaces"]


def held_by(how: str) -> tuple[Capability, Mode]:
    """Return the machine as if only some of its means were there; our own account is Landlock and seccomp alone."""
    if how == "namespaces":
        if HERE.bwrap is None:
            pytest.skip("bubblewrap is not installed here, or may not make namespaces")
        return HERE, Mode.STRICT
    if how == "another account":
        if not HERE.account:
            pytest.skip("only root can change to another account")
        return replace(HERE, bwrap=None), Mode.STRICT
    return replace(HERE, bwrap=None, account=None), Mode.BEST_EFFORT if HERE.is_root else Mode.STRICT


@pytest.fixture(params=HOLDINGS)
def means(request: pytest.FixtureRequest) -> tuple[Capability, Mode]:
    return held_by(request.param)


@pytest.fixture(scope="module")
def world() -> Iterator[dict[str, object]]:
    """Everything that an attack goes for, alive, and as open to other accounts as it can be."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="attacked-home-")))
        (home / "secret").write_text("CANARY")
        shared = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="attacked-")))
        shared.chmod(0o777)
        for name in ("readable", "writable", "deletable", "movable"):
            (shared / name).write_text("x" * 10)
            (shared / name).chmod(0o666)
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=100))
        udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.bind(("127.0.0.1", 0))
        abstract = f"opsagent-attacked-{os.getpid()}"
        for address, kind in (
            (f"\0{abstract}", socket.SOCK_STREAM),
            (str(shared / "stream"), socket.SOCK_STREAM),
            (str(shared / "datagram"), socket.SOCK_DGRAM),
        ):
            listening = stack.enter_context(socket.socket(socket.AF_UNIX, kind))
            listening.bind(address)
            if kind == socket.SOCK_STREAM:
                listening.listen(100)
            if not address.startswith("\0"):
                os.chmod(address, 0o777)
        victim = stack.enter_context(_victim())
        assert victim.stdout
        yield {
            "secret": str(home / "secret"),
            "shared": str(shared),
            "tcp": tcp.getsockname()[1],
            "udp": udp.getsockname()[1],
            "abstract": abstract,
            "victim": victim.pid,
            "address": int(victim.stdout.readline()),
        }
        victim.kill()


def _victim() -> "subprocess.Popen[bytes]":
    code = (
        "import ctypes, sys, time; held = ctypes.create_string_buffer(8)\n"
        "print(ctypes.addressof(held), flush=True); time.sleep(3600)"
    )
    env = {"SECRET": "CANARY"}
    return subprocess.Popen([sys.executable, "-I", "-S", "-c", code], env=env, stdout=subprocess.PIPE)


async def attempt(attack: Attack, world: dict[str, object], means: tuple[Capability, Mode], **more: Any) -> Finished:
    able, mode = means
    return await run(attack.command(world), replace(SPEC, **more), capability=able, mode=mode)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
async def test_attack_is_blocked(attack: Attack, world: dict[str, object], means: tuple[Capability, Mode]) -> None:
    if attack.needs_account and means[0].is_root and means[0].account is None:
        pytest.skip("the kernel does not hold root to this limit")
    done = await attempt(attack, world, means)
    assert done.stdout.startswith(b"BLOCKED"), (done.stdout, done.stderr)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
async def test_attack_works_without_a_sandbox(attack: Attack, world: dict[str, object]) -> None:
    """The probes can fail: what they try is possible here for whoever is not held."""
    if attack.only_root_outside and not HERE.is_root:
        pytest.skip("the kernel lets only root do this, sandbox or not")
    done = await attempt(attack, world, (HERE, Mode.OFF))
    assert done.stdout.startswith(b"OPEN"), (done.stdout, done.stderr)
    _restore(world)


def _restore(world: dict[str, object]) -> None:
    for name in ("readable", "writable", "deletable", "movable"):
        path = Path(str(world["shared"]), name)
        path.write_text("x" * 10)
        path.chmod(0o666)


# Network, as far as it was declared


CONNECT = Attack("connect", "socket.create_connection(('127.0.0.1', world['tcp']), 5)")


async def test_declared_port_can_be_reached(world: dict[str, object], means: tuple[Capability, Mode]) -> None:
    done = await attempt(CONNECT, world, means, network=True, ports=(world["tcp"],))
    assert done.stdout.startswith(b"OPEN"), done.stdout


async def test_undeclared_port_cannot_be_reached(world: dict[str, object], means: tuple[Capability, Mode]) -> None:
    done = await attempt(CONNECT, world, means, network=True, ports=(443,))
    assert done.stdout.startswith(b"BLOCKED PermissionError"), done.stdout


async def test_network_without_ports_reaches_every_port(
    world: dict[str, object], means: tuple[Capability, Mode]
) -> None:
    done = await attempt(CONNECT, world, means, network=True)
    assert done.stdout.startswith(b"OPEN"), done.stdout


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)", id="mptcp"),
        pytest.param("socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132)", id="sctp"),
        pytest.param("socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)", id="raw"),
        pytest.param("socket.socket(socket.AF_PACKET, socket.SOCK_RAW)", id="packets"),
        pytest.param("socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)", id="vsock"),
        pytest.param("socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 9)", id="netlink_audit"),
        pytest.param("socket.socket(socket.AF_UNIX).connect(world['shared'] + '/stream')", id="unix_socket_file"),
        pytest.param(
            "socket.socket().sendto(b'x', 0x20000000, ('127.0.0.1', world['tcp']))",
            id="fast_open",
        ),
    ],
)
async def test_ports_cannot_be_passed_by(body: str, world: dict[str, object], means: tuple[Capability, Mode]) -> None:
    done = await attempt(Attack("bypass", body), world, means, network=True, ports=(443,))
    assert done.stdout.startswith((b"BLOCKED OSError", b"BLOCKED PermissionError")), done.stdout


# Time, output and what is left behind


def _running(mark: str) -> list[int]:
    found: list[int] = []
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and mark.encode() in Path("/proc", entry, "cmdline").read_bytes().split(b"\0"):
                found.append(int(entry))
        except OSError:
            continue
    return found


_DAEMON = """
import os, sys, time
ready, told = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.set_inheritable(told, True)
        stay = "import os, signal, sys, time; signal.signal(15, signal.SIG_IGN); os.write(int(sys.argv[1]), b'x')"
        own = [sys.executable, "-I", "-S", "-c", stay + "; time.sleep(3600)", str(told), "MARK"]
        os.execv(own[0], own)
    os._exit(0)
os.read(ready, 1)
print("daemon runs", flush=True)
"""


def _daemon(mark: str) -> str:
    """A program whose grandchild leaves its session and its parent, and goes on under that name."""
    return _DAEMON.replace("MARK", mark)


async def test_daemonised_grandchild_ends_with_its_program(means: tuple[Capability, Mode]) -> None:
    mark = f"sandbox-daemon-{os.getpid()}"
    able, mode = means
    done = await run([sys.executable, "-I", "-S", "-c", _daemon(mark)], SPEC, capability=able, mode=mode)
    assert done.stdout == b"daemon runs\n", done.stderr
    assert _running(mark) == []


async def test_daemonised_grandchild_ends_without_a_sandbox_too() -> None:
    mark = f"unsandboxed-daemon-{os.getpid()}"
    done = await run([sys.executable, "-I", "-S", "-c", _daemon(mark)], SPEC, mode=Mode.OFF)
    assert done.stdout == b"daemon runs\n", done.stderr
    assert _running(mark) == []


async def test_program_that_never_ends_is_killed_with_all_it_started(means: tuple[Capability, Mode]) -> None:
    mark = f"sandbox-endless-{os.getpid()}"
    able, mode = means
    code = _daemon(mark) + "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(3600)"
    spec = replace(SPEC, wall_s=3)
    done = await run([sys.executable, "-I", "-S", "-c", code, mark], spec, capability=able, mode=mode)
    assert done.timed_out
    assert done.stdout == b"daemon runs\n"
    assert done.returncode == -signal.SIGKILL
    assert _running(mark) == []


async def test_cancelled_call_leaves_nothing_running(means: tuple[Capability, Mode], tmp_path: Path) -> None:
    mark = f"sandbox-cancelled-{os.getpid()}"
    able, mode = means
    code = _daemon(mark) + "time.sleep(3600)"
    work = asyncio.create_task(run([sys.executable, "-I", "-S", "-c", code], SPEC, capability=able, mode=mode))
    while not _running(mark):
        await asyncio.sleep(0.01)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert _running(mark) == []


async def test_program_ends_when_the_agent_is_killed_and_its_folder_goes(
    means: tuple[Capability, Mode],
) -> None:
    able, mode = means
    mark = f"sandbox-orphan-{os.getpid()}"
    folder = Path(tempfile.mkdtemp(prefix="orphan-"))
    folder.chmod(0o711)
    silent = _daemon(mark).replace("print(", "time.sleep(3600); print(")  # it must not end by a broken pipe
    agent = (
        "import asyncio, sys\n"
        "from agent.sandbox.policy import *\n"
        "from agent.sandbox.run import run\n"
        f"asyncio.run(run([sys.executable, '-I', '-S', '-c', {silent!r}], {SPEC!r},"
        f" capability={able!r}, mode=Mode({str(mode)!r})))\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", agent, env={**os.environ, "TMPDIR": str(folder)}
    )
    while not _running(mark):
        assert process.returncode is None
        await asyncio.sleep(0.01)
    process.kill()
    await process.wait()
    async with asyncio.timeout(45):
        while _running(mark) or list(folder.iterdir()):
            await asyncio.sleep(0.01)
    folder.rmdir()


async def test_folder_goes_where_the_agent_ends_thread_by_thread() -> None:
    """The thread that started the program ends well before the process does, as it may where cores are few."""
    folder = Path(tempfile.mkdtemp(prefix="orphan-"))
    folder.chmod(0o711)
    agent = (
        "import os, subprocess, sys, threading, time\n"
        "from agent.sandbox.policy import *\n"
        "from agent.sandbox.run import wrap\n"
        f"held = wrap(['sleep', '3600'], {SPEC!r}, Mode.BEST_EFFORT)\n"
        "work = threading.Thread(target=lambda: subprocess.Popen(held.__enter__().argv, env={}) and time.sleep(1))\n"
        "work.start(); work.join(); time.sleep(1); os._exit(0)\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", agent, env={**os.environ, "TMPDIR": str(folder)}
    )
    assert await process.wait() == 0
    async with asyncio.timeout(45):
        while list(folder.iterdir()):
            await asyncio.sleep(0.01)
    folder.rmdir()


async def test_flood_of_output_is_cut_while_it_is_read(means: tuple[Capability, Mode]) -> None:
    able, mode = means
    code = "import sys\nwhile True: sys.stdout.write('x' * 65536)"
    done = await run([sys.executable, "-I", "-S", "-c", code], SPEC, output_limit=1000, capability=able, mode=mode)
    assert done.stdout == b"x" * 1000
    assert done.truncated
    assert done.returncode != 0


async def test_each_output_is_cut_on_its_own(means: tuple[Capability, Mode]) -> None:
    able, mode = means
    code = "import sys; print('o' * 50); print('e' * 5000, file=sys.stderr)"
    done = await run([sys.executable, "-I", "-S", "-c", code], SPEC, output_limit=100, capability=able, mode=mode)
    assert (done.stdout, len(done.stderr), done.truncated, done.returncode) == (b"o" * 50 + b"\n", 100, True, 0)


async def test_busy_program_runs_out_of_cpu_time(means: tuple[Capability, Mode]) -> None:
    able, mode = means
    spec = replace(SPEC, cpu_s=1)
    done = await run([sys.executable, "-I", "-S", "-c", "while True: pass"], spec, capability=able, mode=mode)
    assert done.returncode in (-signal.SIGXCPU, -signal.SIGKILL, 128 + signal.SIGXCPU, 128 + signal.SIGKILL)
    assert not done.timed_out


async def test_nothing_of_our_environment_is_inherited(
    means: tuple[Capability, Mode], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPSAGENT_CANARY", "CANARY")
    able, mode = means
    spec = replace(SPEC, env={"GIVEN": "to it"})
    done = await run(["env"], spec, capability=able, mode=mode)
    names = {line.partition("=")[0] for line in done.stdout.decode().splitlines()}
    assert names == {"PATH", "HOME", "TMPDIR", "LANG", "USER", "LOGNAME", "GIVEN"} | (names & {"PWD"})


async def test_no_descriptor_of_ours_is_inherited(means: tuple[Capability, Mode], tmp_path: Path) -> None:
    able, mode = means
    with (tmp_path / "open").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        code = (
            "import os\nfound = []\n"
            "for fd in range(3, 512):\n"
            "    try: os.fstat(fd)\n"
            "    except OSError: continue\n"
            "    found.append(fd)\n"
            "print(found)"
        )
        with wrap([sys.executable, "-I", "-S", "-c", code], SPEC, mode, capability=able) as wrapped:
            given = (file.fileno(),)  # by a careless starter of a wrapped command
            process = await asyncio.create_subprocess_exec(*wrapped.argv, stdout=-1, env={}, pass_fds=given)
            said, _ = await process.communicate()
    assert said == b"[]\n"


async def test_temp_folder_is_its_own_and_goes_with_it(means: tuple[Capability, Mode]) -> None:
    able, mode = means
    code = (
        "import os, tempfile\n"
        "os.makedirs('deep/er'); open('deep/er/file', 'w').write('x'); os.chmod('deep/er', 0)\n"
        "os.symlink('/etc', 'link'); print(os.getcwd(), tempfile.mkstemp()[1], os.environ['HOME'])"
    )
    done = await run([sys.executable, "-I", "-S", "-c", code], SPEC, capability=able, mode=mode)
    where, made, home = done.stdout.decode().split()
    assert where == home == str(Path(made).parent)
    assert not Path(where).parent.exists()
