"""Passwords: Argon2id off the event loop, a few at a time."""

import asyncio
from functools import cache
from typing import Any

# 64 MiB and about 0.1 s of a core each: more at once would let logins starve everything else.
_AT_ONCE = 2


class Passwords:
    """Hashes and checks; an unknown user costs as much as a wrong password."""

    def __init__(self) -> None:
        self._room = asyncio.Semaphore(_AT_ONCE)
        self._decoy: str | None = None

    async def hash(self, password: str) -> str:
        async with self._room:
            return await asyncio.to_thread(lambda: _hasher().hash(password))

    async def check(self, password: str, stored: str | None) -> tuple[bool, str | None]:
        """Return whether it is right, and a new hash where the stored one should be replaced.

        With no stored hash it checks against one of nobody's, and the answer is always no.
        """
        if stored is None:
            if self._decoy is None:
                self._decoy = await self.hash("nobody's password")
            await self._verify(password, self._decoy)
            return False, None
        return await self._verify(password, stored)

    async def _verify(self, password: str, stored: str) -> tuple[bool, str | None]:
        async with self._room:
            return await asyncio.to_thread(lambda: _hasher().verify_and_update(password, stored))


@cache
def _hasher() -> Any:
    from pwdlib import PasswordHash

    return PasswordHash.recommended()
