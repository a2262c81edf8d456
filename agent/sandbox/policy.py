"""What a sandbox lets through, as values: the spec of a call, the mode, what a kernel can, what is missing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

LANDLOCK_MINIMUM = 4
"""Linux 6.7: the first to judge files whole (truncation too) and TCP ports."""
SCOPES_MINIMUM = 6
"""Linux 6.12: the first to keep a program's signals inside its sandbox."""


class SandboxUnavailable(Exception):
    """The program was not run, because it could not be run safely; the message is one sentence for the operator."""


class Mode(StrEnum):
    """What happens where this machine can't protect itself fully."""

    STRICT = "strict"
    """Refuse to run."""
    BEST_EFFORT = "best_effort"
    """Run with what there is, and say what is missing."""
    OFF = "off"
    """Run with the agent's own rights; only environment, temp dir and the end of the process are looked after."""


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """What one program may use; all that is not named here, it can't."""

    read_paths: tuple[str, ...] = ()
    """Read and executed, beside the system's programs and libraries."""
    write_paths: tuple[str, ...] = ()
    """Read and written, beside the call's own temp dir."""
    network: bool = False
    ports: tuple[int, ...] = ()
    """TCP ports that it may connect to; none named: all of them. UDP is open with the network, for names."""
    env: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    """Its environment beside PATH, HOME, TMPDIR, LANG and USER; may hold the secrets that it was given."""
    memory_mb: int | None = 1024
    """Address space of each process; None for Node, Go and Java, which reserve more than they use."""
    cpu_s: int | None = 60
    """CPU seconds of each process, over its whole life."""
    file_mb: int = 64
    processes: int = 64
    """Processes and threads."""
    wall_s: float = 60.0
    """How long `run` waits; whoever starts a wrapped command minds the time on their own."""
    host_view: bool = False
    """Sees the machine's processes and mounts, as `ps` and `df` need to."""

    def __post_init__(self) -> None:
        if self.ports and not self.network:
            raise ValueError("Ports are named, but the network is off: declare the network, or drop the ports.")
        for path in (*self.read_paths, *self.write_paths):
            if not path.startswith("/"):
                raise ValueError(f"A sandbox path must be absolute, and {path!r} is not.")


@dataclass(frozen=True, slots=True)
class Account:
    """Who the program runs as where the agent is root."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Capability:
    """What this machine can do to hold a program."""

    landlock: int
    """The ABI that the kernel offers; 0 is none."""
    seccomp: bool
    is_root: bool
    account: Account | None = None
    """An account to drop to, known to be able to start Python; only ever set where the agent is root."""
    bwrap: str | None = None
    """The path of a bubblewrap that works here."""


@dataclass(frozen=True, slots=True)
class Protections:
    """What holds one program, and what a whole sandbox would have held besides."""

    applied: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def is_complete(self) -> bool:
        return not self.missing


@dataclass(frozen=True, slots=True)
class Finished:
    """How a program ended, and what it said."""

    returncode: int
    """As `subprocess` has it: negative for the signal that ended it."""
    stdout: bytes
    stderr: bytes
    truncated: bool
    timed_out: bool
    protections: Protections


def protections(capability: Capability, spec: SandboxSpec, mode: Mode) -> Protections:
    """Return what would hold a program of that spec here; in strict mode raise unless it is everything."""
    on = mode is not Mode.OFF
    has_landlock = on and capability.landlock >= LANDLOCK_MINIMUM
    has_namespaces = on and capability.bwrap is not None and not spec.host_view
    has_account = on and (capability.account is not None or not capability.is_root)
    dropped = on and capability.account is not None
    has_scopes = has_landlock and capability.landlock >= SCOPES_MINIMUM
    holds = {
        "files": has_landlock,
        "network": on and capability.seccomp and (has_landlock or not spec.ports),
        "system calls": on and capability.seccomp,
        "other processes": has_scopes or dropped or has_namespaces,
        "limits": on,
        "unprivileged account": has_account,
    }
    applied = tuple(name for name, is_held in holds.items() if is_held)
    missing = tuple(name for name, is_held in holds.items() if not is_held)
    if missing and mode is Mode.STRICT:
        raise SandboxUnavailable(_refusal(capability, missing))
    return Protections((*applied, "namespaces") if has_namespaces else applied, missing)


def _refusal(capability: Capability, missing: tuple[str, ...]) -> str:
    reasons: list[str] = []
    if capability.landlock < LANDLOCK_MINIMUM:
        offered = f"Landlock ABI {capability.landlock}" if capability.landlock else "no Landlock"
        reasons.append(f"the kernel offers {offered} and ABI {LANDLOCK_MINIMUM} (Linux 6.7) is needed")
    elif "other processes" in missing:
        reasons.append(f"Landlock before ABI {SCOPES_MINIMUM} (Linux 6.12) can't keep signals inside")
    if not capability.seccomp:
        reasons.append("the kernel can't filter system calls (seccomp)")
    if "unprivileged account" in missing:
        reasons.append("opsagent runs as root and has no account to drop to that can start Python")
    return (
        f"The sandbox is strict and can't protect {', '.join(missing)} here, so nothing was run: "
        f"{'; '.join(reasons)}. Run it elsewhere, or set the sandbox to best_effort."
    )
