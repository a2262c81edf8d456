"""Programs that try to get out of the sandbox: each ends with OPEN where it got through, BLOCKED where it did not.

They also run unsandboxed, to show that they can succeed: none may harm more than the test's own victim. What would,
such as another priority for a whole account, is asked of the filter alone, in test_seccomp.py.
"""

import json
import sys
from dataclasses import dataclass

_FRAME = """
import ctypes, json, os, signal, socket, sys, time
world = json.loads(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
ARM = os.uname().machine == "aarch64"

def syscall(x86_64, aarch64, *args):
    wide = [ctypes.c_long(value) if isinstance(value, int) else value for value in args]
    result = libc.syscall(ctypes.c_long(aarch64 if ARM else x86_64), *wide)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result

def attack():
{body}

try:
    attack()
except BaseException as error:
    print("BLOCKED", type(error).__name__, error)
else:
    print("OPEN")
"""


@dataclass(frozen=True, slots=True)
class Attack:
    name: str
    body: str
    needs_account: bool = False
    """The kernel does not hold root to it."""
    only_root_outside: bool = False
    """The kernel lets only root do it, so that only root can see it succeed where nothing is sandboxed."""

    @property
    def code(self) -> str:
        return _FRAME.format(body="\n".join(f"    {line}" for line in self.body.strip().splitlines()))

    def command(self, world: dict[str, object]) -> list[str]:
        return [sys.executable, "-I", "-S", "-c", self.code, json.dumps(world)]


NEW_USER = 0x10000000

ATTACKS = (
    Attack("read_a_secret_in_a_home", "open(world['secret']).read()"),
    Attack("list_a_home", "os.listdir(os.path.dirname(world['secret']))"),
    Attack("read_another_environment", "assert b'CANARY' in open(f\"/proc/{world['victim']}/environ\", 'rb').read()"),
    Attack("read_another_memory_map", "open(f\"/proc/{world['victim']}/maps\").read()"),
    Attack(
        "read_the_supervisors_environment",
        "open(f'/proc/{os.getppid()}/environ', 'rb').read()",
        only_root_outside=True,
    ),
    Attack("read_a_neighbours_command_line", "open(f\"/proc/{world['victim']}/cmdline\").read()"),
    Attack("read_the_accounts", "open('/etc/passwd').read()"),
    Attack("read_the_launchers_config", "open(os.path.join(os.environ['HOME'], '../config.json')).read()"),
    Attack("read_another_sandboxs_folder", "open(world['shared'] + '/readable').read()"),
    Attack("write_outside", "open(world['shared'] + '/new', 'w').write('x')"),
    Attack("truncate_outside", "os.truncate(world['shared'] + '/writable', 0)"),
    Attack("append_outside", "open(world['shared'] + '/writable', 'a').write('x')"),
    Attack("delete_outside", "os.unlink(world['shared'] + '/deletable')"),
    Attack("link_outside_into_own_folder", "os.link(world['shared'] + '/readable', 'mine'); open('mine').read()"),
    Attack("rename_outside", "os.rename(world['shared'] + '/movable', 'mine')"),
    Attack(
        "tcp_to_loopback",
        "socket.create_connection(('127.0.0.1', world['tcp']), 5)",
    ),
    Attack(
        "udp_to_loopback",
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', world['udp']))",
    ),
    Attack("tcp_listen", "socket.create_server(('127.0.0.1', 0))"),
    Attack("netlink", "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)"),
    Attack("abstract_unix_socket", "socket.socket(socket.AF_UNIX).connect('\\0' + world['abstract'])"),
    Attack("unix_socket_file", "socket.socket(socket.AF_UNIX).connect(world['shared'] + '/stream')"),
    Attack(
        "datagram_pair_connected_again",
        "pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
        "pair[0].connect(world['shared'] + '/datagram'); pair[0].send(b'x')",
    ),
    Attack(
        "raw_pair_connected_again",
        "pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_RAW)\n"
        "pair[0].connect(world['shared'] + '/datagram'); pair[0].send(b'x')",
    ),
    Attack("signal_another_process", "os.kill(world['victim'], 0)"),
    Attack("stop_the_supervisor", "assert os.getppid() > 1; os.kill(os.getppid(), 0)"),
    Attack("ptrace_another_process", "syscall(101, 117, 0x4206, world['victim'], None, None)"),
    Attack(
        "read_another_memory",
        "held = ctypes.create_string_buffer(8)\n"
        "class Vector(ctypes.Structure): _fields_ = (('base', ctypes.c_void_p), ('size', ctypes.c_size_t))\n"
        "here = Vector(ctypes.addressof(held), 8); there = Vector(world['address'], 8)\n"
        "syscall(310, 270, world['victim'], ctypes.byref(here), 1, ctypes.byref(there), 1, 0)",
    ),
    Attack(
        "limit_another_process",
        "import resource; resource.prlimit(world['victim'], resource.RLIMIT_CORE, (0, 0))",
    ),
    Attack("slow_another_process", "os.setpriority(os.PRIO_PROCESS, world['victim'], 19)"),
    Attack("pin_another_process", "os.sched_setaffinity(world['victim'], {0})"),
    Attack("user_namespace_by_unshare", f"syscall(272, 97, {NEW_USER})"),
    Attack(
        "user_namespace_by_clone",
        f"pid = syscall(56, 220, {NEW_USER} | signal.SIGCHLD, None, None, None, None)\n"
        "if pid == 0: os._exit(0)\n"
        "os.waitpid(pid, 0)",
    ),
    Attack(
        "user_namespace_by_clone3",
        f"args = (ctypes.c_uint64 * 11)({NEW_USER}, 0, 0, 0, signal.SIGCHLD)\n"
        "pid = syscall(435, 435, ctypes.byref(args), 88)\n"
        "if pid == 0: os._exit(0)\n"
        "os.waitpid(pid, 0)",
    ),
    Attack("io_uring", "syscall(425, 425, 2, ctypes.create_string_buffer(120))"),
    Attack("bpf_map", "syscall(321, 280, 0, (ctypes.c_uint32 * 18)(2, 4, 8, 1), 72)", only_root_outside=True),
    Attack("userfaultfd", "syscall(323, 282, 0)", only_root_outside=True),
    Attack("key_ring", "syscall(250, 219, 0, -3, 1)"),
    Attack("system_v_memory", "syscall(29, 194, 0, 4096, 0o1600)"),
    Attack(
        "personality_without_randomisation",
        "syscall(135, 92, 0x0040000)",
    ),
    Attack("allocate_900_mb", "held = bytearray(900 << 20)"),
    Attack("write_100_mb", "with open('big', 'wb') as file:\n    for _ in range(100): file.write(bytes(1 << 20))"),
    Attack(
        "fork_600_times",
        "for _ in range(600):\n    if os.fork() == 0:\n        time.sleep(600)",
        needs_account=True,
    ),
)
