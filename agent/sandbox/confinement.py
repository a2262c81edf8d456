"""What the launcher does, in order: give up everything that was not declared, then become the program."""

import json
import os
import resource
import signal
import sys
from typing import Any, NoReturn

from agent.sandbox import landlock, seccomp, supervisor, syscalls

FAILED = 125
"""The exit code of a launcher that did not start the program."""
COMPLAINT = "opsagent sandbox: "
_LIMITS = {
    "cpu": resource.RLIMIT_CPU,
    "file": resource.RLIMIT_FSIZE,
    "files": resource.RLIMIT_NOFILE,
    "core": resource.RLIMIT_CORE,
    "memory": resource.RLIMIT_AS,
}


def main(argv: list[str]) -> NoReturn:
    try:
        config = _read(argv[1])
        command = argv[argv.index("--") + 1 :]
        if config["inside"]:
            _confine(config, None)
            _become(command, config["env"])
        supervisor.run(lambda above: _start(config, command, above), parent=config["parent"], folder=config["folder"])
    except Exception as error:  # noqa: BLE001 - whatever went wrong, the program must not run
        complain(error)


def complain(error: Exception) -> NoReturn:
    os.write(2, f"{COMPLAINT}{error}\n".encode())
    os._exit(FAILED)


def _read(where: str) -> dict[str, Any]:
    with open(int(where) if where.isdigit() else where, encoding="utf-8") as file:
        return json.load(file)


def _start(config: dict[str, Any], command: list[str], above: int) -> NoReturn:
    """In the supervisor's child: become the program, or the bubblewrap that starts us again inside."""
    try:
        os.setsid()
        os.closerange(3, _open_files())
        outer = config["bwrap"]
        if outer:
            _drop(config["account"])
            supervisor.die_with(above)
            inner = json.dumps({**config, "inside": True, "account": None})
            _become([*outer, sys.executable, "-I", "-S", *_again(inner), "--", *command], config["env"])
        _confine(config, above)
        _become(command, config["env"])
    except Exception as error:  # noqa: BLE001 - as in main
        complain(error)


def _again(inner: str) -> list[str]:
    """Return the launcher's arguments for a config that never touches a disk: it may hold secrets."""
    held = os.memfd_create("config", 0)
    os.write(held, inner.encode())
    os.lseek(held, 0, os.SEEK_SET)
    return [os.path.abspath(sys.argv[0]), str(held)]


def _confine(config: dict[str, Any], above: int | None) -> None:
    fence = config["landlock"]
    # The rules are opened with the rights that we still have: the account may not reach what it is given.
    made = landlock.ruleset(fence["abi"], **fence["rules"]) if fence else None
    _limit(config["limits"], config["account"])
    _drop(config["account"])
    if above is not None:
        supervisor.die_with(above)
    if config["powerless"]:
        _drop_capabilities()
    os.chdir(config["cwd"])
    os.umask(0o077)
    if made is not None or config["seccomp"]:
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    if made is not None:
        landlock.restrict(made)
    if config["seccomp"]:
        seccomp.install(**config["seccomp"])


def _limit(limits: dict[str, int], account: list[int] | None) -> None:
    for name, value in limits.items():
        if name in _LIMITS:
            _lower(_LIMITS[name], value)
    if "processes" in limits and sys.platform == "linux":
        # The kernel counts everything that the account runs, not only ours.
        uid = account[0] if account else os.getuid()
        _lower(resource.RLIMIT_NPROC, _tasks_of(uid) + limits["processes"])


def _lower(which: int, value: int) -> None:
    hard = resource.getrlimit(which)[1]
    wanted = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (wanted, wanted))


def _tasks_of(uid: int) -> int:
    count = 0
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and os.stat(f"/proc/{entry}").st_uid == uid:
                count += os.stat(f"/proc/{entry}/task").st_nlink - 2
        except OSError:
            continue
    return count


def _drop(account: list[int] | None) -> None:
    if account:
        uid, gid = account
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)


def _drop_capabilities() -> None:
    """Let root's next program start with none: only for where root has no account to change to."""
    for capability in range(64 if sys.platform == "linux" else 0):
        try:
            syscalls.prctl(syscalls.PR_CAPBSET_DROP, capability)
        except OSError:  # past the last one that this kernel knows
            return


def _open_files() -> int:
    return min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 1 << 20)


def _become(command: list[str], env: dict[str, str]) -> NoReturn:
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for sign in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and a program would inherit that
        signal.signal(sign, signal.SIG_DFL)
    try:
        os.execve(command[0], command, env)  # noqa: S606 - what we are for
    except OSError as error:
        raise OSError(f"{command[0]} can't be started: {error.strerror}; declare what it needs as read paths") from None
