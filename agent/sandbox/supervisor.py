"""The process that stays outside: it ends the program and everything that it started, wherever that has gone."""

import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from typing import NoReturn

from agent.sandbox import syscalls

GRACE_S = 1.0
"""Between being asked to end the program and killing it."""
_PATIENCE_S = 5.0
_SOFT = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
AT_ONCE = signal.SIGQUIT
_PARENT_ENDS = signal.SIGUSR1
_WATCHED = (signal.SIGCHLD, AT_ONCE, _PARENT_ENDS, *_SOFT)


def run(start: Callable[[int], NoReturn], *, parent: int, folder: str) -> NoReturn:
    """Run `start` (given our process id) in a child, see it through, leave nothing behind, and end as it ended.

    SIGTERM ends it gently, SIGQUIT at once, and so does the end of `parent`, whose `folder` we then remove for it.
    Orphans come to us, not to init.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    if sys.platform == "linux":
        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)  # our environment may hold secrets that the program must not see
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, _PARENT_ENDS)
    if os.getppid() != parent:
        os._exit(0)
    own = os.getpid()
    child = os.fork()
    if child == 0:
        start(own)
    _let_go_of_pipes()
    status, parent_ends = _watch(child, parent)
    status = _sweep(child, status)
    if _has_ended(parent, patience_s=_PATIENCE_S if parent_ends else 0):
        shutil.rmtree(folder, ignore_errors=True)
    _end_as(status)


def die_with(parent: int) -> None:
    """Be killed when the supervisor is; to be said after a change of account, which clears it."""
    if sys.platform == "linux":
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def _let_go_of_pipes() -> None:
    """Whoever reads the program's output must see its end, not ours."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    os.closerange(3, min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 1 << 20))


def _watch(child: int, parent: int) -> tuple[int, bool]:
    """Return the program's status once it has ended or must be killed, and whether that is because its parent ends."""
    deadline: float | None = None
    while True:
        left = None if deadline is None else deadline - time.monotonic()
        received = _next_signal(left, parent) if left is None or left > 0 else None
        if received in (None, AT_ONCE, _PARENT_ENDS):
            return signal.SIGKILL, received == _PARENT_ENDS
        if received in _SOFT and deadline is None:
            deadline = time.monotonic() + GRACE_S
            _kill(-child, signal.SIGTERM)
        while (ended := _reaped()) is not None:
            if ended[0] == child:
                return ended[1], False


def _has_ended(parent: int, patience_s: float) -> bool:
    """Say whether the parent has ended; a thread of its own ends first and the rest of it later, so wait for that."""
    deadline = time.monotonic() + patience_s
    while os.getppid() == parent and time.monotonic() < deadline:
        time.sleep(0.002)
    return os.getppid() != parent


def _next_signal(left: float | None, parent: int) -> int | None:
    """Return the next signal to us; None after `left` seconds."""
    if sys.platform == "linux":
        received = signal.sigwaitinfo(_WATCHED) if left is None else signal.sigtimedwait(_WATCHED, left)
        return received.si_signo if received else None
    # Neither timed waiting nor a parent-death signal there, and a blocked SIGCHLD may be dropped: look again and again.
    time.sleep(0.02)
    if os.getppid() != parent:
        return _PARENT_ENDS
    pending = signal.sigpending() & {AT_ONCE, *_SOFT}
    return signal.sigwait(pending) if pending else signal.SIGCHLD


def _sweep(child: int, status: int) -> int:
    """Kill every descendant until there is none, and return the program's status."""
    deadline = time.monotonic() + _PATIENCE_S
    _kill(-child, signal.SIGKILL)
    while time.monotonic() < deadline:
        try:
            pid, ended = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if pid == child:
            status = ended
        elif pid == 0:
            for descendant in _descendants(os.getpid()):
                _kill(descendant, signal.SIGKILL)
            time.sleep(0.002)
    return status


def _reaped() -> tuple[int, int] | None:
    try:
        pid, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return None
    return (pid, status) if pid else None


def _descendants(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as file:
                    above = int(file.read().rpartition(")")[2].split()[1])
            except (OSError, ValueError, IndexError):
                continue
            children.setdefault(above, []).append(int(entry))
    found, new = list[int](), [root]
    while new:
        new = [pid for above in new for pid in children.get(above, [])]
        found += new
    return found


def _kill(pid: int, sign: int) -> None:
    try:
        os.kill(pid, sign)
    except (ProcessLookupError, PermissionError):
        return


def _end_as(status: int) -> NoReturn:
    if not os.WIFSIGNALED(status):
        os._exit(os.waitstatus_to_exitcode(status))
    sign = os.WTERMSIG(status)
    if sign not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(sign, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (sign,))
    os.kill(os.getpid(), sign)
    os._exit(128 + sign)
