"""Generated keys: made once, private, the same for everyone, never printed."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from opsagent.config import Settings, SettingsError
from opsagent.secrets import kept_key, rotate_secret_key, with_keys

ASK = "import sys; from pathlib import Path; from opsagent.secrets import kept_key; sys.stdin.readline(); \
print(kept_key(Path(sys.argv[1]), 'API_KEY', 'api_key').value.get_secret_value())"


def settings_of(home: Path, **given: SecretStr) -> Settings:
    unset = {"api_key": None, "secret_key": None, **given}
    return Settings(_env_file=None).model_copy(update={"opsagent_home": home, **unset})


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_missing_keys_are_made_once_in_private_files_and_reused(tmp_path: Path) -> None:
    home = tmp_path / "home"
    first, kept = with_keys(settings_of(home))
    second, again = with_keys(settings_of(home))
    assert [key.variable for key in kept] == ["API_KEY", "SECRET_KEY"]
    assert kept == again
    assert (first.api_key, first.secret_keys) == (second.api_key, second.secret_keys)
    assert first.api_key != first.secret_key
    assert len(first.secret_keys[0].get_secret_value().encode()) >= 32
    assert mode(home) == 0o700
    assert [mode(key.path) for key in kept] == [0o600, 0o600]
    assert sorted(os.listdir(home)) == ["api_key", "secret_key"]


def test_keys_that_are_set_are_left_alone(tmp_path: Path) -> None:
    given = settings_of(tmp_path / "home", api_key=SecretStr("fake-api"), secret_key=SecretStr("fake" * 10))
    settings, kept = with_keys(given)
    assert settings == given
    assert kept == ()
    assert not (tmp_path / "home").exists()


def test_processes_that_start_at_once_get_the_same_key(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ASK, str(tmp_path / "home")]
    pipe = subprocess.PIPE
    asking = [subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True) for _ in "123"]
    for process in asking:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    keys = {process.communicate()[0].strip().splitlines()[-1] for process in asking}
    assert len(keys) == 1
    assert len(keys.pop()) >= 32


def test_a_key_that_lost_the_race_is_thrown_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "api_key"
    there = path.exists
    calls: list[bool] = []

    def missing_at_first(self: Path) -> bool:
        if self == path and not calls:
            calls.append(True)
            path.write_text("w" * 40)
            return False
        return there()

    monkeypatch.setattr(Path, "exists", missing_at_first)
    assert kept_key(tmp_path, "API_KEY", "api_key").value.get_secret_value() == "w" * 40
    assert os.listdir(tmp_path) == ["api_key"]


def test_a_file_others_can_read_is_made_private(tmp_path: Path) -> None:
    path = kept_key(tmp_path, "API_KEY", "api_key").path
    path.chmod(0o644)
    kept_key(tmp_path, "API_KEY", "api_key")
    assert mode(path) == 0o600


def test_the_key_stands_in_no_log_and_no_repr(tmp_path: Path) -> None:
    kept_key(tmp_path, "API_KEY", "api_key").path.chmod(0o644)
    with capture_logs() as logs:
        kept = kept_key(tmp_path, "API_KEY", "api_key")
    assert [entry["event"] for entry in logs] == ["secrets.mode_tightened"]
    assert kept.value.get_secret_value() not in repr(logs) + repr(kept)


def test_an_emptied_file_is_refused_rather_than_used(tmp_path: Path) -> None:
    (tmp_path / "secret_key").write_text("\n")
    with pytest.raises(SettingsError, match="delete it for a new one"):
        kept_key(tmp_path, "SECRET_KEY", "secret_key")


def test_a_home_that_can_not_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="set API_KEY, or let OPSAGENT_HOME"):
        kept_key(tmp_path / "file", "API_KEY", "api_key")


def test_a_planted_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("p" * 40)
    (tmp_path / "api_key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SettingsError):
        kept_key(tmp_path, "API_KEY", "api_key")


def test_rotation_puts_a_new_key_before_the_old_ones(tmp_path: Path) -> None:
    old = with_keys(settings_of(tmp_path))[0].secret_keys
    path = rotate_secret_key(tmp_path)
    new = with_keys(settings_of(tmp_path))[0].secret_keys
    assert new[1:] == old
    assert new[0] not in old
    assert mode(path) == 0o600
    assert sorted(os.listdir(tmp_path)) == ["api_key", "secret_key"]
