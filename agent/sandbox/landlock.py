"""Landlock: which files and ports a process and all its children can reach, as far as this kernel knows."""

import ctypes
import os
import stat
from collections.abc import Iterable

from agent.sandbox import syscalls

_CREATE_VERSION = 1
_RULE_PATH, _RULE_PORT = 1, 2

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_MAKE_CHAR, _MAKE_BLOCK = 1 << 6, 1 << 11
_REFER, _TRUNCATE, _IOCTL_DEVICE = 1 << 13, 1 << 14, 1 << 15
_FIRST_RIGHTS = (1 << 13) - 1
_ON_A_FILE = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEVICE

_BIND_TCP, _CONNECT_TCP = 1 << 0, 1 << 1
_SCOPE_ABSTRACT_SOCKETS, _SCOPE_SIGNALS = 1 << 0, 1 << 1

PORTS_SINCE = 4
SCOPES_SINCE = 6


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathRule(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


class _PortRule(ctypes.Structure):
    _fields_ = (("allowed", ctypes.c_uint64), ("port", ctypes.c_uint64))


def abi() -> int:
    """Return the version that the kernel offers; 0 where there is none or it is switched off."""
    try:
        return syscalls.call("landlock_create_ruleset", None, ctypes.c_size_t(0), ctypes.c_uint32(_CREATE_VERSION))
    except OSError:
        return 0


def ruleset(
    version: int, *, read: Iterable[str], write: Iterable[str], devices: Iterable[str], ports: Iterable[int] | None
) -> int:
    """Return a ruleset's file descriptor for `restrict`; `ports` None leaves TCP alone, empty forbids it.

    A path that is not there, or that we may not reach, gives nobody a right and is no error.
    """
    files = _FIRST_RIGHTS
    files |= (_REFER if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0)
    files |= _IOCTL_DEVICE if version >= 5 else 0
    net = _BIND_TCP | _CONNECT_TCP if ports is not None and version >= PORTS_SINCE else 0
    scoped = _SCOPE_ABSTRACT_SOCKETS | _SCOPE_SIGNALS if version >= SCOPES_SINCE else 0
    wanted = _Ruleset(files, net, scoped)
    known = 8 if version < PORTS_SINCE else 16 if version < SCOPES_SINCE else 24  # an older kernel refuses more
    made = syscalls.call("landlock_create_ruleset", ctypes.byref(wanted), ctypes.c_size_t(known), ctypes.c_uint32(0))
    reading = _EXECUTE | _READ_FILE | _READ_DIR
    for path in read:
        _allow(made, path, reading & files)
    for path in write:
        _allow(made, path, files & ~(_MAKE_CHAR | _MAKE_BLOCK | _IOCTL_DEVICE))
    for path in devices:
        _allow(made, path, (_READ_FILE | _WRITE_FILE | _TRUNCATE) & files)
    for port in (ports or ()) if net else ():
        rule = _PortRule(_CONNECT_TCP, port)
        _add(made, _RULE_PORT, rule)
    return made


def restrict(made: int) -> None:
    """Put this process under the ruleset, for good; needs no_new_privs."""
    syscalls.call("landlock_restrict_self", ctypes.c_int(made), ctypes.c_uint32(0))
    os.close(made)


def _allow(made: int, path: str, rights: int) -> None:
    try:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(opened).st_mode):
            rights &= _ON_A_FILE
        _add(made, _RULE_PATH, _PathRule(rights, opened))
    finally:
        os.close(opened)


def _add(made: int, kind: int, rule: ctypes.Structure) -> None:
    syscalls.call("landlock_add_rule", ctypes.c_int(made), ctypes.c_int(kind), ctypes.byref(rule), ctypes.c_uint32(0))
