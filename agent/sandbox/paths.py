"""What programs need of the file system before anything is declared for them."""

import os
import sys
from pathlib import Path

_PROGRAMS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store")
_SETTINGS = (
    *("ssl", "ca-certificates", "pki", "crypto-policies", "ld.so.cache", "ld.so.conf", "ld.so.conf.d"),
    *("resolv.conf", "hosts", "nsswitch.conf", "host.conf", "gai.conf", "services", "protocols", "alternatives"),
    *("localtime", "timezone", "mime.types", "terminfo", "os-release", "locale.conf", "locale.alias", "debian_version"),
)
_KERNEL = ("/sys/devices/system/cpu", "/sys/devices/system/node")
_KERNEL_FACTS = tuple(
    f"/proc/{name}"
    for name in ("cpuinfo", "meminfo", "stat", "loadavg", "uptime", "version", "filesystems", "sys/vm", "sys/kernel")
)
"""Not /proc itself: it shows every neighbour's command line."""
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
HOST = ("/proc", "/sys")


def system() -> tuple[str, ...]:
    """Return the system's programs, libraries and harmless settings: no accounts, no secrets."""
    return (*_PROGRAMS, *(f"/etc/{name}" for name in _SETTINGS), *_KERNEL)


def kernel_facts() -> tuple[str, ...]:
    return _KERNEL_FACTS


def python() -> tuple[str, ...]:
    """Return what this interpreter needs to start and to import what is installed."""
    own = (sys.executable, os.path.realpath(sys.executable), sys.prefix, sys.base_prefix, sys.exec_prefix)
    packages = (path for path in sys.path if path.endswith(("site-packages", "dist-packages")))
    return _without_repeats(*own, *packages)


def of_command(program: str) -> tuple[str, ...]:
    """Return what a program at that path needs: itself, its virtual environment, or Node's modules beside it."""
    found = [Path(program)]
    while found[-1].is_symlink() and len(found) < 40:
        found.append(found[-1].parent / found[-1].readlink())
    needed = [str(path) for path in (*found, found[-1].resolve())]
    for path in (*found, found[-1].resolve()):
        root = path.parent.parent
        if (root / "pyvenv.cfg").is_file():
            needed += [str(root), *_home_of(root / "pyvenv.cfg")]
        if path.name.startswith("python") and (root / "lib").is_dir() and path.parent.name == "bin":
            needed += [str(path.parent), str(root / "lib")]
        if (root / "lib" / "node_modules").is_dir():
            needed += [str(path.parent), str(root / "lib" / "node_modules")]
    return _without_repeats(*needed)


def _home_of(settings: Path) -> list[str]:
    """Return the Python that a virtual environment was made from."""
    for line in settings.read_text(errors="replace").splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "home" and value.strip():
            base = Path(value.strip()).resolve().parent
            return [str(base / "bin"), str(base / "lib")]
    return []


def _without_repeats(*paths: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(path for path in paths if path and path != "/"))
