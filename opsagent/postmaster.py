"""One PostgreSQL server in a folder of ours: made, started, asked, stopped with its own programs."""

import hashlib
import os
import pwd
import shlex
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import structlog

log = structlog.get_logger()

MAJOR = "18"
_PORT = 5432
PATIENCE_S = 60
_ATTEMPTS = 3
_LONGEST_SOCKET = 103
"""Bytes of a socket's path: macOS allows 103, Linux 107."""
_OPTIONS = {
    "listen_addresses": "",
    "port": str(_PORT),
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


class EmbeddedPostgresError(Exception):
    """The embedded database can't run; the message is one sentence that says why and what to do."""


@dataclass(frozen=True, slots=True)
class Server:
    home: Path
    binaries: Path
    account: pwd.struct_passwd | None
    """Who runs it where we are root, which PostgreSQL refuses to be."""

    @property
    def folder(self) -> Path:
        return self.home / "postgres"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def dsn(self) -> str:
        return f"postgresql://postgres@/postgres?host={quote(str(self.sockets))}&port={_PORT}"

    @property
    def sockets(self) -> Path:
        """The socket's folder: the server's own, or a private one in the temp folder where drivers can't use that."""
        is_short = len(os.fsencode(self.folder / f".s.PGSQL.{_PORT}")) <= _LONGEST_SOCKET
        if is_short and "," not in str(self.folder):  # to libpq a comma separates hosts
            return self.folder
        recorded = _lines(self.data / "postmaster.pid")
        if len(recorded) > 4 and self.is_alive():  # it may have been started with another TMPDIR
            return Path(recorded[4])
        uid = self.account.pw_uid if self.account else os.geteuid()
        short = hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:12]
        return Path(tempfile.gettempdir()).resolve() / f"opsagent-{uid}-{short}"

    def run(self) -> None:
        """Return once the server answers, started by us unless it already runs."""
        self._make_data()
        deadline = time.monotonic() + PATIENCE_S
        attempts = 0
        while not self._answers():
            if not self.is_alive():
                attempts += 1
                self._start(is_last_try=attempts == _ATTEMPTS)
            if time.monotonic() > deadline:
                raise failure(self.home, f"it runs, but has not answered within {PATIENCE_S} seconds")
            time.sleep(0.05)
        log.debug("embedded.ready", folder=str(self.folder), started=attempts > 0)

    def stop(self) -> None:
        """Stop the server, gently if it lets us."""
        if not self.is_alive():
            return
        sockets = self.sockets
        try:
            self._pg_ctl("stop", "-m", "fast", "-w", "-t", str(PATIENCE_S))
        except EmbeddedPostgresError:
            log.warning("embedded.stop_forced", folder=str(self.folder))
            self._pg_ctl("stop", "-m", "immediate", "-w", "-t", "10")
        if sockets != self.folder:
            shutil.rmtree(sockets, ignore_errors=True)

    def is_alive(self) -> bool:
        """Whether the process that the data folder names is our server: not a zombie, not a stranger's reused id."""
        return _is_postmaster(_recorded_pid(self.data / "postmaster.pid"), self.data)

    def _answers(self) -> bool:
        import psycopg

        try:
            with psycopg.connect(self.dsn, connect_timeout=2) as connection:
                connection.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def _make_data(self) -> None:
        self.folder.mkdir(mode=0o700, exist_ok=True)
        if self.account:
            os.chown(self.folder, self.account.pw_uid, self.account.pw_gid)
        version = (self.data / "PG_VERSION").read_text().strip() if self.data.exists() else ""
        if version and version != MAJOR:
            raise EmbeddedPostgresError(
                f"{self.data} was made by PostgreSQL {version} and this is {MAJOR}: start it with the opsagent that "
                "made it and copy its data with pg_dump, or move the folder away for a new database."
            )
        if version:
            return
        draft = self.folder / "data.new"  # an initdb that was killed half-way must not be taken for a database
        shutil.rmtree(draft, ignore_errors=True)
        locale = ("--encoding=UTF8", "--no-locale", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
        self._run("initdb", "-D", str(draft), "-U", "postgres", "--auth=trust", *locale)
        draft.rename(self.data)

    def _start(self, *, is_last_try: bool) -> None:
        for lock in (self.data / "postmaster.pid", self.sockets / f".s.PGSQL.{_PORT}.lock"):
            # Only what PostgreSQL would wrongly respect; its own test of a dead one's leftovers is better than ours.
            if (pid := _recorded_pid(lock)) and _exists(pid) and not _is_postmaster(pid, self.data):
                log.warning("embedded.stale_lock_removed", path=str(lock), pid=pid)
                lock.unlink()
        self._make_sockets()
        options = {**_OPTIONS, "unix_socket_directories": f'"{self.sockets}"'}
        given = " ".join(f"-c {shlex.quote(f'{name}={value}')}" for name, value in options.items())
        try:
            self._pg_ctl("start", "-w", "-t", str(PATIENCE_S), "-l", str(self.folder / "server.log"), "-o", given)
        except EmbeddedPostgresError:
            if is_last_try:
                raise
            time.sleep(0.5)

    def _make_sockets(self) -> None:
        sockets = self.sockets
        if sockets == self.folder:
            return
        uid, gid = (self.account.pw_uid, self.account.pw_gid) if self.account else (os.geteuid(), os.getegid())
        if not sockets.exists():
            sockets.mkdir(mode=0o700)
            os.chown(sockets, uid, gid)
        found = sockets.lstat()
        if sockets.is_symlink() or found.st_uid != uid or found.st_mode & 0o077:
            raise failure(self.home, f"the folder {sockets} for its socket is not private to it: remove that folder")

    def _pg_ctl(self, verb: str, *args: str) -> None:
        self._run("pg_ctl", verb, "-D", str(self.data), *args)

    def _run(self, program: str, *args: str) -> None:
        user: dict[str, Any] = (
            {"user": self.account.pw_uid, "group": self.account.pw_gid, "extra_groups": ()} if self.account else {}
        )
        with tempfile.TemporaryFile() as output:  # a pipe would stay open as long as the server runs
            done = subprocess.run(
                [str(self.binaries / program), *args],
                cwd=self.folder,
                env={"PATH": os.defpath, "LC_ALL": "C"},  # none of our secrets, no PGPORT of somebody else
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
                **user,
            )
            if done.returncode:
                output.seek(0)
                said = output.read().decode(errors="replace").strip().splitlines()
                fatal = [line for line in _lines(self.folder / "server.log")[-20:] if "FATAL" in line]
                reason = (fatal if program == "pg_ctl" and fatal else said or [f"{program} failed"])[-1]
                raise failure(self.home, reason.partition("FATAL:")[2].strip() or reason)


def failure(home: Path, reason: str) -> EmbeddedPostgresError:
    return EmbeddedPostgresError(
        f"The embedded database in {home / 'postgres'} can't run: {reason.rstrip('.')}; its server.log says more, and "
        "DATABASE_URL can name a server of your own instead."
    )


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []


def _recorded_pid(path: Path) -> int:
    lines = _lines(path)
    return int(lines[0]) if lines and lines[0].strip().isdigit() else 0


def _exists(pid: int) -> bool:
    import psutil

    return psutil.pid_exists(pid)


def _is_postmaster(pid: int, data: Path) -> bool:
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE or not process.name().startswith("postgres"):
            return False
        return str(data) in process.cmdline()
    except psutil.AccessDenied:
        return True
    except psutil.Error:
        return False
