"""Seccomp: which system calls a process and all its children can make, as one BPF program."""

import ctypes
import errno
import struct

from agent.sandbox import syscalls

_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_KILL, _ERRNO, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_ACTION_AVAILABLE, _MODE_FILTER = 2, 2

_AT_NUMBER, _AT_ARCH = 0, 4
_X32 = 0x40000000

_NEW_NAMESPACES = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET."""
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_FAST_OPEN = 0x20000000
_UNIX, _INET, _INET6, _NETLINK = 1, 2, 10, 16
_STREAM, _DATAGRAM, _PACKETS, _TYPE = 1, 2, 5, 0xF
_ANY, _TCP, _UDP = 0, 6, 17

_OWN_PROCESS_ONLY = ("prlimit64", "sched_setaffinity", "sched_setscheduler", "sched_setparam", "sched_setattr")
"""Calls whose first argument names a process: 0 is oneself, anything else could be the agent under the same account."""

Step = tuple[int, int, int, int]


def available() -> bool:
    """Whether this kernel filters system calls, and we know its machine's numbers."""
    if syscalls.machine() is None:
        return False
    wanted = ctypes.c_uint32(_ERRNO)
    try:
        syscalls.call("seccomp", ctypes.c_uint(_ACTION_AVAILABLE), ctypes.c_uint(0), ctypes.byref(wanted))
    except OSError:
        return False
    return True


def install(*, network: bool, ports_only: bool) -> None:
    """Filter this process's calls from now on, for good; needs no_new_privs."""
    here = syscalls.machine()
    if here is None:
        raise OSError(errno.ENOSYS, "system calls of this machine are not known")
    steps = program(here, network=network, ports_only=ports_only)
    code = b"".join(struct.pack("HBBI", *step) for step in steps)
    held = ctypes.create_string_buffer(code, len(code))
    described = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(steps), ctypes.addressof(held)))
    syscalls.prctl(syscalls.PR_SET_SECCOMP, _MODE_FILTER, ctypes.addressof(described))


def program(machine: str, *, network: bool, ports_only: bool) -> list[Step]:
    """Return the filter: refused calls answer EPERM, sockets EAFNOSUPPORT, clone3 ENOSYS; all else is allowed."""
    steps = [_load(_AT_ARCH), (_JUMP_EQUAL, 1, 0, syscalls.AUDIT_ARCH[machine]), _answer(_KILL), _load(_AT_NUMBER)]
    if machine == syscalls.X86_64:  # the x32 numbers reach the same calls
        steps += [(_JUMP_AT_LEAST, 0, 1, _X32), _error(errno.EPERM)]
    for name in syscalls.DENIED:
        steps += _when(machine, name, [_error(errno.EPERM)])
    # glibc falls back to clone, whose flags a filter can read; clone3 hides them behind a pointer.
    steps += _when(machine, "clone3", [_error(errno.ENOSYS)])
    steps += _when(machine, "clone", [_argument(0), *_refuse_bits(_NEW_NAMESPACES)])
    steps += _when(machine, "ioctl", [_argument(1), *_refuse_value(_TIOCSTI), *_refuse_value(_TIOCLINUX)])
    for name in _OWN_PROCESS_ONLY:
        steps += _when(machine, name, [_argument(0), *_only(0)])
    steps += _when(machine, "setpriority", [_argument(0), *_only(0), _argument(1), *_only(0)])
    steps += _when(machine, "socketpair", _pair_rules())
    steps += _when(machine, "socket", _socket_rules() if network else [_error(errno.EAFNOSUPPORT)])
    if ports_only:  # fast open connects without Landlock's being asked
        for name, place in (("sendto", 3), ("sendmsg", 2), ("sendmmsg", 3)):
            steps += _when(machine, name, [_argument(place), *_refuse_bits(_FAST_OPEN)])
    return [*steps, _answer(_ALLOW)]


def _pair_rules() -> list[Step]:
    """Unix pairs of streams: a datagram pair, also asked for as raw, could be connected again to a socket file."""
    kind = [(_JUMP_EQUAL, 2, 0, _STREAM), (_JUMP_EQUAL, 1, 0, _PACKETS), _error(errno.EPERM)]
    return [_argument(0), *_only(_UNIX), _argument(1), (_AND, 0, 0, _TYPE), *kind]


def _socket_rules() -> list[Step]:
    """TCP and UDP, and the netlink socket that resolvers ask for routes; MPTCP and SCTP would pass Landlock by."""
    refuse = _error(errno.EAFNOSUPPORT)
    protocol = [
        _argument(2),
        *((_JUMP_EQUAL, 3 - place, 0, allowed) for place, allowed in enumerate((_ANY, _TCP, _UDP))),
        refuse,
        _answer(_ALLOW),
    ]
    kind = [
        _argument(1),
        (_AND, 0, 0, _TYPE),
        (_JUMP_EQUAL, 2, 0, _STREAM),
        (_JUMP_EQUAL, 1, 0, _DATAGRAM),
        refuse,
    ]
    internet = [*kind, *protocol]
    netlink = [_argument(2), (_JUMP_EQUAL, 1, 0, 0), refuse, _answer(_ALLOW)]
    return [
        _argument(0),
        (_JUMP_EQUAL, 3, 0, _INET),
        (_JUMP_EQUAL, 2, 0, _INET6),
        (_JUMP_EQUAL, 1 + len(internet), 0, _NETLINK),
        refuse,
        *internet,
        *netlink,
    ]


def _when(machine: str, name: str, then: list[Step]) -> list[Step]:
    """Run `then` for that call; what falls off its end is allowed."""
    known = syscalls.number(name, machine)
    if known is None:
        return []
    body = then if len(then) == 1 else [*then, _answer(_ALLOW)]
    return [(_JUMP_EQUAL, 0, len(body), known), *body]


def _refuse_bits(bits: int) -> list[Step]:
    return [(_JUMP_ANY_BIT, 0, 1, bits), _error(errno.EPERM)]


def _refuse_value(value: int) -> list[Step]:
    return [(_JUMP_EQUAL, 0, 1, value), _error(errno.EPERM)]


def _only(value: int) -> list[Step]:
    return [(_JUMP_EQUAL, 1, 0, value), _error(errno.EPERM)]


def _load(offset: int) -> Step:
    return (_LOAD, 0, 0, offset)


def _argument(place: int) -> Step:
    """Load an argument's low half: every argument that we judge is an int to the kernel."""
    return _load(16 + 8 * place)


def _error(code: int) -> Step:
    return _answer(_ERRNO | code)


def _answer(action: int) -> Step:
    return (_RETURN, 0, 0, action)
