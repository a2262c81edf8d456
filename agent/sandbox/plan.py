"""One call's confinement as the launcher reads it, worked out from spec, mode and what the machine can."""

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.sandbox import paths
from agent.sandbox.policy import Capability, Mode, Protections, SandboxSpec, protections

LAUNCHER = Path(__file__).with_name("launcher.py")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_OPEN_FILES = 512
_MEGABYTE = 1 << 20


@dataclass(frozen=True, slots=True)
class Plan:
    command: list[str]
    config: dict[str, Any]
    protections: Protections


def make(command: Sequence[str], spec: SandboxSpec, mode: Mode, capability: Capability, temp: str) -> Plan:
    """Return how to run the command with `temp` as its folder; raise what forbids it."""
    held = protections(capability, spec, mode)
    env = environment(spec, temp)
    program = _found(command[0], env["PATH"])
    on = mode is not Mode.OFF
    outer = _bubblewrap(capability, spec, temp, program) if "namespaces" in held.applied else None
    config: dict[str, Any] = {
        "parent": os.getpid(),
        "folder": os.path.dirname(temp),
        "inside": False,
        "env": env,
        "cwd": temp,
        "account": _account(capability) if on else None,
        "powerless": on and capability.is_root and capability.account is None,
        "limits": _limits(spec) if on else {},
        "landlock": _fence(spec, capability, temp, program, namespaces=outer is not None) if on else None,
        "seccomp": {"network": spec.network, "ports_only": bool(spec.ports)} if on and capability.seccomp else None,
        "bwrap": outer,
    }
    return Plan([program, *command[1:]], config, held)


def environment(spec: SandboxSpec, temp: str) -> dict[str, str]:
    """Return the program's whole environment: nothing is inherited."""
    own = {"PATH": _PATH, "HOME": temp, "TMPDIR": temp, "LANG": "C.UTF-8", "USER": "sandbox", "LOGNAME": "sandbox"}
    return {**own, **spec.env}


def _found(program: str, path: str) -> str:
    found = shutil.which(program, path=path)
    if found is None:
        raise FileNotFoundError(f"There is no program {program!r} to run: install it, or name it by its whole path.")
    return os.path.abspath(found)


def _account(capability: Capability) -> list[int] | None:
    return [capability.account.uid, capability.account.gid] if capability.account else None


def _limits(spec: SandboxSpec) -> dict[str, int]:
    limits = {"files": _OPEN_FILES, "core": 0, "file": spec.file_mb * _MEGABYTE, "processes": spec.processes}
    if spec.memory_mb is not None:
        limits["memory"] = spec.memory_mb * _MEGABYTE
    if spec.cpu_s is not None:
        limits["cpu"] = spec.cpu_s
    return limits


def _fence(
    spec: SandboxSpec, capability: Capability, temp: str, program: str, *, namespaces: bool
) -> dict[str, Any] | None:
    if not capability.landlock:
        return None
    kernel = paths.HOST if spec.host_view else ("/proc",) if namespaces else (*paths.kernel_facts(), "/proc/self")
    ports = list(spec.ports) if spec.ports or not spec.network else None
    rules = {
        "read": [*paths.system(), *kernel, *paths.of_command(program), *spec.read_paths],
        "write": [temp, *spec.write_paths],
        "devices": list(paths.DEVICES),
        "ports": ports,
    }
    return {"abi": capability.landlock, "rules": rules}


def _bubblewrap(capability: Capability, spec: SandboxSpec, temp: str, program: str) -> list[str]:
    """Return the start of a bubblewrap command line: own processes, mounts, IPC, host name and, off, network."""
    launcher = (str(LAUNCHER.parent), str(LAUNCHER.parent.parent / "__init__.py"), *paths.python())
    seen = {*paths.system(), *launcher, *paths.of_command(program), *spec.read_paths}
    options = [str(capability.bwrap), "--unshare-all", *["--share-net"] * spec.network]
    options += ["--die-with-parent", "--new-session", "--proc", "/proc", "--dev", "/dev"]
    for path in sorted(path for path in seen if not any(str(above) in seen for above in Path(path).parents)):
        options += ["--ro-bind-try", path, path]
    for path in (temp, *sorted(spec.write_paths)):
        options += ["--bind-try", path, path]
    return [*options, "--chdir", temp, "--"]


def python_command(script: str, *arguments: str) -> list[str]:
    """Return the command of a Python program that imports what is installed here and nothing from its folder."""
    return [sys.executable, "-I", script, *arguments]
