"""Secrets at rest: sealed to the place where they are stored, so that one that was moved or planted is refused."""

import base64
import hashlib
import os
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_FORM = "sealed1"
_NONCE = 12
_PURPOSE = b"opsagent: secrets at rest"


class CannotOpen(Exception):
    """A stored secret is not what was stored there; the message says what it is instead, never its text."""


class KeyUnknown(CannotOpen):
    """It was sealed with a key that this process does not have."""


def place(table: str, row: object, column: str) -> str:
    """Return the name of a place: what is sealed for it opens nowhere else."""
    return f"{table}:{row}:{column}"


class Sealer:
    """AES-256-GCM under keys derived from SECRET_KEY: the first seals, all of them open."""

    def __init__(self, keys: Sequence[str]) -> None:
        if not keys:
            raise ValueError("Sealing needs at least one key.")
        self._keys: dict[str, AESGCM] = {}
        for key in keys:
            derived = HKDF(SHA256(), 32, None, _PURPOSE).derive(key.encode())
            self._keys.setdefault(hashlib.sha256(derived).hexdigest()[:12], AESGCM(derived))
        self._newest = next(iter(self._keys))

    def seal(self, text: str, at: str) -> str:
        nonce = os.urandom(_NONCE)
        made = nonce + self._keys[self._newest].encrypt(nonce, text.encode(), _bound(at, self._newest))
        return f"{_FORM}.{self._newest}.{base64.b64encode(made).decode()}"

    def open(self, sealed: str, at: str) -> str:
        """Return the text that was sealed for this place; raises CannotOpen."""
        form, _, rest = sealed.partition(".")
        key_id, _, body = rest.partition(".")
        if form != _FORM or not body:
            raise CannotOpen("it is not sealed: somebody wrote it there by hand")
        key = self._keys.get(key_id)
        if key is None:
            raise KeyUnknown("it is sealed with a key that SECRET_KEY does not list")
        try:
            made = base64.b64decode(body, validate=True)
            return key.decrypt(made[:_NONCE], made[_NONCE:], _bound(at, key_id)).decode()
        except (InvalidTag, ValueError) as error:
            raise CannotOpen("it was changed, or sealed for another place") from error

    def is_newest(self, sealed: str) -> bool:
        """Return whether the newest key sealed it."""
        return sealed.startswith(f"{_FORM}.{self._newest}.")


def _bound(at: str, key_id: str) -> bytes:
    return f"{_FORM}|{key_id}|{at}".encode()
