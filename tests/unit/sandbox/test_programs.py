"""Programs that mean no harm, in the sandbox: they work, and what stops them is said."""

import asyncio
import hashlib
import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from mcp import Client, StdioServerParameters

from agent.sandbox import capability, paths, plan
from agent.sandbox.policy import Capability, Mode, SandboxSpec, SandboxUnavailable
from agent.sandbox.run import run, wrap
from tests.fakes.mcp_servers import HERE as FAKES
from tests.fakes.mcp_servers import ProbeFile

HERE = capability.current()
PYTHON = SandboxSpec(read_paths=paths.python())
LIGHT = [sys.executable, "-I", "-S", "-c"]


@pytest.fixture(params=["with namespaces", "without namespaces"])
def able(request: pytest.FixtureRequest) -> Capability:
    """The machine with bubblewrap, where it is installed, and without."""
    if request.param == "without namespaces":
        return replace(HERE, bwrap=None)
    if HERE.bwrap is None:
        pytest.skip("bubblewrap is not installed here, or may not make namespaces")
    return HERE


async def test_input_output_and_exit_code_pass(able: Capability) -> None:
    code = "import sys; print(sys.stdin.read().upper()); print('oops', file=sys.stderr); sys.exit(7)"
    done = await run([*LIGHT, code], PYTHON, stdin=b"hello", capability=able, mode=Mode.BEST_EFFORT)
    assert (done.stdout, done.stderr, done.returncode) == (b"HELLO\n", b"oops\n", 7)
    assert not done.truncated
    assert not done.timed_out


async def test_large_input_passes_to_whoever_reads_slowly(able: Capability) -> None:
    data = os.urandom(1 << 20)
    code = "import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())"
    done = await run([*LIGHT, code], PYTHON, stdin=data, capability=able, mode=Mode.BEST_EFFORT)
    assert done.stdout.decode().strip() == hashlib.sha256(data).hexdigest()


async def test_program_that_reads_no_input_is_no_error(able: Capability) -> None:
    done = await run(["true"], PYTHON, stdin=b"x" * (1 << 20), capability=able, mode=Mode.BEST_EFFORT)
    assert done.returncode == 0


async def test_death_by_signal_is_told() -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    done = await run([*LIGHT, code], PYTHON, capability=replace(HERE, bwrap=None), mode=Mode.BEST_EFFORT)
    assert done.returncode == -signal.SIGSEGV


async def test_asyncio_subprocesses_and_threads_work(able: Capability) -> None:
    code = (
        "import asyncio, threading\n"
        "async def main():\n"
        "    child = await asyncio.create_subprocess_exec('echo', 'child', stdout=-1)\n"
        "    said, _ = await child.communicate()\n"
        "    print(said.decode().strip(), await asyncio.to_thread(lambda: threading.current_thread().name[:7]))\n"
        "asyncio.run(main())"
    )
    done = await run([sys.executable, "-I", "-c", code], PYTHON, capability=able, mode=Mode.BEST_EFFORT)
    assert done.stdout == b"child asyncio\n", done.stderr


async def test_df_and_ps_show_the_machine_where_that_is_declared(able: Capability) -> None:
    spec = SandboxSpec(host_view=True)
    disks = await run(["df", "-P"], spec, capability=able, mode=Mode.BEST_EFFORT)
    assert disks.returncode == 0, disks.stderr
    assert b" /\n" in disks.stdout
    processes = await run(["ps", "-e", "-o", "pid="], spec, capability=able, mode=Mode.BEST_EFFORT)
    assert str(os.getpid()) in processes.stdout.decode().split()


async def test_declared_folder_can_be_written_and_read(able: Capability, open_folder: Path) -> None:
    spec = replace(PYTHON, write_paths=(str(open_folder),))
    code = f"open({str(open_folder / 'made')!r}, 'w').write('x')"
    done = await run([*LIGHT, code], spec, capability=able, mode=Mode.BEST_EFFORT)
    assert done.returncode == 0, done.stderr
    assert (open_folder / "made").read_text() == "x"


@pytest.mark.skipif(HERE.landlock < 4, reason="files are not protected here")
async def test_folder_declared_for_reading_cannot_be_written(able: Capability, open_folder: Path) -> None:
    (open_folder / "there").write_text("x")
    (open_folder / "there").chmod(0o666)
    spec = replace(PYTHON, read_paths=(*PYTHON.read_paths, str(open_folder)))
    code = f"path = {str(open_folder / 'there')!r}; print(open(path).read()); open(path, 'w')"
    done = await run([*LIGHT, code], spec, capability=able, mode=Mode.BEST_EFFORT)
    assert done.stdout == b"x\n"
    assert b"PermissionError" in done.stderr or b"Read-only file system" in done.stderr


async def test_mcp_server_works_behind_pipes(able: Capability, open_folder: Path) -> None:
    effects = ProbeFile(open_folder / "effects")
    spec = replace(
        PYTHON, read_paths=(*PYTHON.read_paths, str(FAKES)), write_paths=(str(open_folder),), memory_mb=None, cpu_s=None
    )
    command = [sys.executable, str(FAKES / "mcp_probe.py"), str(effects.path), "stdio"]
    with wrap(command, spec, Mode.BEST_EFFORT, capability=able) as wrapped:
        async with Client(StdioServerParameters(command=wrapped.argv[0], args=wrapped.argv[1:])) as client:
            answer = await client.call_tool("restart", {"service": "db"})
        assert "restarted db" in answer.content[0].text  # pyright: ignore[reportAttributeAccessIssue]
        assert effects.count("restart") == 1
    assert not Path(wrapped.temp).exists()


async def test_wrapped_program_is_asked_before_it_is_killed() -> None:
    code = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (os.write(1, b'asked\\n'), os._exit(5)))\n"
        "print('ready', flush=True); time.sleep(600)"
    )
    with wrap([*LIGHT, code], PYTHON, Mode.BEST_EFFORT, capability=replace(HERE, bwrap=None)) as wrapped:
        process = await asyncio.create_subprocess_exec(*wrapped.argv, stdout=-1, env={})
        assert process.stdout
        assert await process.stdout.readline() == b"ready\n"
        process.terminate()
        assert await process.stdout.read() == b"asked\n"
        assert await process.wait() == 5


async def test_wrapped_program_can_be_started_again(able: Capability) -> None:
    with wrap(["echo", "once"], PYTHON, Mode.BEST_EFFORT, capability=able) as wrapped:
        for _ in range(2):
            process = await asyncio.create_subprocess_exec(*wrapped.argv, stdout=-1, env={})
            said, _err = await process.communicate()
            assert said == b"once\n"


async def test_wrapped_command_line_holds_no_secret() -> None:
    spec = replace(PYTHON, env={"TOKEN": "fake-secret"})
    with wrap(["true"], spec, Mode.BEST_EFFORT, capability=HERE) as wrapped:
        assert "fake-secret" not in " ".join(wrapped.argv)
        config = Path(wrapped.argv[4])
        assert json.loads(config.read_text())["env"]["TOKEN"] == "fake-secret"
        assert config.stat().st_mode & 0o777 == 0o600


async def test_missing_program_is_said_before_anything_starts() -> None:
    with pytest.raises(FileNotFoundError, match="There is no program 'no-such-program' to run"):
        await run(["no-such-program"], PYTHON, mode=Mode.BEST_EFFORT)


@pytest.mark.skipif(HERE.landlock < 4, reason="files are not protected here")
async def test_program_outside_of_what_may_be_read_is_said(open_folder: Path) -> None:
    interpreter = open_folder / "interpreter"
    interpreter.write_bytes(Path("/bin/sh").read_bytes())
    interpreter.chmod(0o755)
    script = open_folder / "tool"
    script.write_text(f"#!{interpreter}\n")
    script.chmod(0o755)
    with pytest.raises(SandboxUnavailable, match=r"can't be started: Permission denied; declare what it needs as read"):
        await run([str(script)], SandboxSpec(), capability=replace(HERE, bwrap=None), mode=Mode.BEST_EFFORT)


async def test_strict_runs_nothing_where_the_kernel_cannot(open_folder: Path) -> None:
    able = replace(HERE, landlock=0, bwrap=None)
    spec = replace(PYTHON, write_paths=(str(open_folder),))
    command = [*LIGHT, f"open({str(open_folder / 'ran')!r}, 'w')"]
    with pytest.raises(SandboxUnavailable, match="strict"):
        await run(command, spec, capability=able)
    assert not (open_folder / "ran").exists()
    done = await run(command, spec, capability=able, mode=Mode.BEST_EFFORT)
    assert (open_folder / "ran").exists()
    assert "files" in done.protections.missing


async def test_launcher_that_cannot_protect_does_not_run_the_program(open_folder: Path) -> None:
    """The capability promises more than this kernel has: the launcher finds out, and stops."""
    able = replace(HERE, landlock=0, seccomp=True, bwrap=None)
    spec = replace(PYTHON, write_paths=(str(open_folder),))
    with wrap(["touch", str(open_folder / "ran")], spec, Mode.BEST_EFFORT, capability=able) as wrapped:
        config = Path(wrapped.argv[4])
        broken = json.loads(config.read_text())
        broken["seccomp"] = {"no such": "setting"}
        config.write_text(json.dumps(broken))
        process = await asyncio.create_subprocess_exec(*wrapped.argv, stderr=-1, env={})
        _, said = await process.communicate()
    assert process.returncode == 125
    assert said.startswith(b"opsagent sandbox: ")
    assert not (open_folder / "ran").exists()


async def test_launcher_started_by_someone_else_runs_nothing(open_folder: Path) -> None:
    """Its parent is who looks after it: where that one has gone, so does the program."""
    spec = replace(PYTHON, write_paths=(str(open_folder),))
    with wrap(["touch", str(open_folder / "ran")], spec, Mode.BEST_EFFORT, capability=HERE) as wrapped:
        between = "import subprocess, sys; subprocess.run(sys.argv[1:])"
        process = await asyncio.create_subprocess_exec(*LIGHT, between, *wrapped.argv)
        await process.wait()
    assert not (open_folder / "ran").exists()


def test_node_and_virtual_environments_bring_what_they_need(tmp_path: Path) -> None:
    base = tmp_path / "base"
    (base / "bin").mkdir(parents=True)
    (base / "lib").mkdir()
    (base / "bin" / "python3").touch()
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "pyvenv.cfg").write_text(f"home = {base / 'bin'}\n")
    (venv / "bin" / "python").symlink_to(base / "bin" / "python3")
    (venv / "bin" / "server").touch()
    assert {str(venv), str(base / "bin"), str(base / "lib")} <= set(paths.of_command(str(venv / "bin" / "server")))
    assert str(base / "lib") in paths.of_command(str(venv / "bin" / "python"))
    node = tmp_path / "node"
    modules = node / "lib" / "node_modules"
    modules.mkdir(parents=True)
    (node / "bin").mkdir()
    (node / "bin" / "npx").symlink_to("../lib/node_modules/cli.js")
    (modules / "cli.js").touch()
    needed = paths.of_command(str(node / "bin" / "npx"))
    assert str(modules) in needed
    assert str(node) not in needed
    assert str(tmp_path) not in needed


def test_program_in_a_home_brings_only_itself(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "tool").touch()
    assert set(paths.of_command(str(tmp_path / "bin" / "tool"))) == {str(tmp_path / "bin" / "tool")}


def test_bubblewrap_shares_the_network_only_where_it_is_declared(tmp_path: Path) -> None:
    able = replace(HERE, bwrap="/usr/bin/bwrap")
    lines = {
        network: plan.make(["true"], SandboxSpec(network=network), Mode.BEST_EFFORT, able, "/tmp/x").config["bwrap"]
        for network in (True, False)
    }
    assert "--share-net" in lines[True]
    assert "--share-net" not in lines[False]
    assert "--unshare-all" in lines[False]
