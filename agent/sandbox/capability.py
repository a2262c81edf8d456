"""What this machine can do to hold a program: asked of the kernel and tried out, once a process."""

import os
import pwd
import shutil
import subprocess
import sys
from functools import cache

from agent.sandbox import landlock, seccomp
from agent.sandbox.policy import Account, Capability

_ACCOUNTS = ("opsagent-tools", "nobody")
"""Whom tools run as where the agent is root: an account made for it, else the one that owns nothing."""
_PATIENCE_S = 10


@cache
def current() -> Capability:
    """Return what this machine can; the first call takes some ten milliseconds and starts processes."""
    return probe()


def probe(bwrap: str | None = None) -> Capability:
    """Try it out; `bwrap` is the bubblewrap to try, by default the one on PATH."""
    is_root = os.geteuid() == 0
    account = _account() if is_root else None
    found = bwrap or shutil.which("bwrap")
    return Capability(
        landlock=landlock.abi(),
        seccomp=seccomp.available(),
        is_root=is_root,
        account=account,
        bwrap=found if found and _holds(found, account, is_root=is_root) else None,
    )


def _account() -> Account | None:
    """Return the first account that exists and can start the Python that we run: ours may lie in a private home."""
    for name in _ACCOUNTS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        account = Account(name, entry.pw_uid, entry.pw_gid)
        if entry.pw_uid != 0 and _works([sys.executable, "-I", "-S", "-c", "pass"], account):
            return account
    return None


def _holds(bwrap: str, account: Account | None, *, is_root: bool) -> bool:
    """Whether it can make every namespace that we ask of it; containers often forbid them."""
    if is_root and account is None:
        return False
    return _works([bwrap, "--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "true"], account)


def _works(command: list[str], account: Account | None) -> bool:
    try:
        done = subprocess.run(
            command,
            cwd="/",
            env={"PATH": os.defpath},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_PATIENCE_S,
            check=False,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=() if account else None,
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0
