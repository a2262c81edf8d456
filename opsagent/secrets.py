"""Generated keys: an API_KEY or SECRET_KEY that nobody set is made once and kept in a file of the home folder."""

import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog
from pydantic import SecretStr

from opsagent.config import Settings, SettingsError

log = structlog.get_logger()

API_KEY_FILE = "api_key"
SECRET_KEY_FILE = "secret_key"  # noqa: S105 - a file's name
_OWNER_ONLY = 0o600


@dataclass(frozen=True, slots=True)
class KeptKey:
    """A key of the home folder: print its path, never its value."""

    variable: str
    path: Path
    value: SecretStr


def with_keys(settings: Settings) -> tuple[Settings, tuple[KeptKey, ...]]:
    """Return the settings with no key missing, and the keys that came from files instead of the environment."""
    kept: list[KeptKey] = []
    if settings.api_key is None:
        kept.append(kept_key(settings.home, "API_KEY", API_KEY_FILE))
    if settings.secret_key is None:
        kept.append(kept_key(settings.home, "SECRET_KEY", SECRET_KEY_FILE))
    return settings.model_copy(update={key.variable.lower(): key.value for key in kept}), tuple(kept)


def kept_key(home: Path, variable: str, name: str) -> KeptKey:
    """Return the key that `home` keeps under `name`, made now where there is none; all processes get the same."""
    path = home / name
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            _keep_first(path, secrets.token_urlsafe(48))
        value = _read(path)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise SettingsError(
            f"{variable} is not set and can't be kept in {path} ({reason}): set {variable}, or let OPSAGENT_HOME "
            "name a folder of yours."
        ) from None
    if len(value) < 32:
        raise SettingsError(f"{path} holds no whole key: delete it for a new one, or set {variable}.")
    return KeptKey(variable, path, SecretStr(value))


def rotate_secret_key(home: Path) -> Path:
    """Put a new key before the kept ones, which still read what they signed; return the file's path."""
    kept = kept_key(home, "SECRET_KEY", SECRET_KEY_FILE)
    draft = _draft(kept.path, f"{secrets.token_urlsafe(48)},{kept.value.get_secret_value()}")
    draft.replace(kept.path)
    return kept.path


def _keep_first(path: Path, value: str) -> None:
    # A link appears whole or not at all: a second process sees no half-written key, and the first key wins.
    draft = _draft(path, value)
    with suppress(FileExistsError):
        os.link(draft, path)
    draft.unlink()


def _draft(path: Path, value: str) -> Path:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, _OWNER_ONLY)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(value + "\n")
        file.flush()
        os.fsync(file.fileno())
    return draft


def _read(path: Path) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(descriptor, encoding="utf-8") as file:
        if os.fstat(file.fileno()).st_mode & 0o077:
            os.fchmod(file.fileno(), _OWNER_ONLY)
            log.warning("secrets.mode_tightened", path=str(path))
        return file.read().strip()
