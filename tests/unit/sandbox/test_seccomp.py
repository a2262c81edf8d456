"""The filter, run by a small BPF machine, for both kinds of processor."""

import errno

import pytest

from agent.sandbox import seccomp, syscalls

ALLOWED, KILLED = "allowed", "killed"
MACHINES = [syscalls.X86_64, syscalls.AARCH64]


def verdict(steps: list[seccomp.Step], machine: str, number: int, *arguments: int) -> str:
    """Return what the kernel would answer to the call."""
    words = {0: number, 4: syscalls.AUDIT_ARCH[machine]}
    words |= {16 + 8 * place: value & 0xFFFFFFFF for place, value in enumerate((*arguments, 0, 0, 0, 0, 0, 0)[:6])}
    held, at = 0, 0
    while True:
        code, yes, no, value = steps[at]
        at += 1
        match code:
            case 0x20:
                held = words[value]
            case 0x54:
                held &= value
            case 0x15:
                at += yes if held == value else no
            case 0x35:
                at += yes if held >= value else no
            case 0x45:
                at += yes if held & value else no
            case 0x06:
                if value == 0x7FFF0000:
                    return ALLOWED
                return KILLED if value == 0x80000000 else errno.errorcode[value & 0xFFFF]
            case _:
                raise AssertionError(f"the kernel knows no instruction {code:#x}")


def ask(name: str, *arguments: int, machine: str, network: bool = False, ports_only: bool = False) -> str:
    number = syscalls.number(name, machine)
    assert number is not None
    return verdict(seccomp.program(machine, network=network, ports_only=ports_only), machine, number, *arguments)


pytestmark = pytest.mark.parametrize("machine", MACHINES)


def test_every_denied_call_is_refused(machine: str) -> None:
    answers = {ask(name, machine=machine) for name in syscalls.DENIED if syscalls.number(name, machine) is not None}
    assert answers == {"EPERM"}


def test_ordinary_calls_pass(machine: str) -> None:
    ordinary = {"read": (0, 63), "execve": (59, 221), "openat": (257, 56), "futex": (202, 98), "connect": (42, 203)}
    for numbers in ordinary.values():
        number = numbers[MACHINES.index(machine)]
        steps = seccomp.program(machine, network=False, ports_only=False)
        assert verdict(steps, machine, number) == ALLOWED


def test_another_machines_calls_end_the_program(machine: str) -> None:
    other = next(name for name in MACHINES if name != machine)
    steps = seccomp.program(machine, network=False, ports_only=False)
    assert verdict(steps, other, 0) == KILLED


def test_threads_and_forks_pass_and_namespaces_do_not(machine: str) -> None:
    thread, fork = 0x3D0F00, 0x1200011
    assert ask("clone", thread, machine=machine) == ALLOWED
    assert ask("clone", fork, machine=machine) == ALLOWED
    for namespace in (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
        assert ask("clone", namespace | 17, machine=machine) == "EPERM"
    assert ask("clone3", machine=machine) == "ENOSYS"


@pytest.mark.parametrize("family", [1, 2, 10, 16, 17, 40])
def test_no_socket_without_network(machine: str, family: int) -> None:
    assert ask("socket", family, 1, machine=machine) == "EAFNOSUPPORT"


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        ((2, 1, 0), ALLOWED),
        ((2, 1 | 0x80800, 6), ALLOWED),
        ((10, 2, 17), ALLOWED),
        ((16, 3, 0), ALLOWED),
        ((16, 3, 9), "EAFNOSUPPORT"),
        ((2, 1, 262), "EAFNOSUPPORT"),
        ((2, 1, 132), "EAFNOSUPPORT"),
        ((2, 3, 1), "EAFNOSUPPORT"),
        ((2, 5, 0), "EAFNOSUPPORT"),
        ((1, 1, 0), "EAFNOSUPPORT"),
        ((17, 3, 0), "EAFNOSUPPORT"),
    ],
)
def test_network_is_tcp_udp_and_routes(machine: str, arguments: tuple[int, ...], answer: str) -> None:
    assert ask("socket", *arguments, machine=machine, network=True) == answer


@pytest.mark.parametrize(
    ("family", "kind", "answer"),
    [(1, 1, ALLOWED), (1, 1 | 0x80800, ALLOWED), (1, 5, ALLOWED), (1, 2, "EPERM"), (1, 3, "EPERM"), (30, 1, "EPERM")],
)
def test_pairs_are_streams(machine: str, family: int, kind: int, answer: str) -> None:
    assert ask("socketpair", family, kind, machine=machine) == answer


def test_calls_on_processes_reach_only_oneself(machine: str) -> None:
    for name in ("prlimit64", "sched_setaffinity", "sched_setscheduler", "sched_setparam", "sched_setattr"):
        assert ask(name, 0, 7, machine=machine) == ALLOWED
        assert ask(name, 4242, 7, machine=machine) == "EPERM"
    assert ask("setpriority", 0, 0, 5, machine=machine) == ALLOWED
    assert ask("setpriority", 0, 4242, 5, machine=machine) == "EPERM"
    assert ask("setpriority", 2, 0, 5, machine=machine) == "EPERM"


def test_typing_into_a_terminal_is_refused(machine: str) -> None:
    assert ask("ioctl", 0, 0x5401, machine=machine) == ALLOWED
    assert ask("ioctl", 0, 0x5412, machine=machine) == "EPERM"
    assert ask("ioctl", 0, 0x541C, machine=machine) == "EPERM"


def test_fast_open_is_refused_only_where_ports_count(machine: str) -> None:
    fast = 0x20000000
    assert ask("sendto", 3, 0, 1, fast, machine=machine, network=True) == ALLOWED
    assert ask("sendto", 3, 0, 1, fast, machine=machine, network=True, ports_only=True) == "EPERM"
    assert ask("sendmsg", 3, 0, fast, machine=machine, network=True, ports_only=True) == "EPERM"
    assert ask("sendto", 3, 0, 1, 0, machine=machine, network=True, ports_only=True) == ALLOWED


def test_x32_numbers_are_refused_where_they_exist(machine: str) -> None:
    steps = seccomp.program(machine, network=True, ports_only=False)
    assert verdict(steps, machine, 0x40000000 + 101) == ("EPERM" if machine == syscalls.X86_64 else ALLOWED)
