"""One bounded HTTP exchange through the egress guard, and how its end is told."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from agent.egress import EgressRefused
from agent.egress_http import guarded_client, send
from agent.tools.declared.declaration import House

_CHARSETS = frozenset({"utf-8", "utf-16", "us-ascii", "iso-8859-1", "iso-8859-15", "windows-1252"})
"""Python knows many more, and some of them decode in no sensible time."""


class NoAnswer(Exception):
    """There is no answer to use; the message says why, `sent` whether the request may have had an effect."""

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


@dataclass(frozen=True)
class Answer:
    """What a server said, as far as it was read."""

    status: int
    phrase: str
    kind: str
    text: str
    cut: bool
    took_ms: int


async def ask(
    house: House,
    method: str,
    url: str,
    *,
    params: Sequence[tuple[str, str]] = (),
    headers: Mapping[str, str] | None = None,
    json: Any = None,
    timeout_s: float,
    max_bytes: int,
) -> Answer:
    """Return the answer, no more than `max_bytes` of it; raises NoAnswer."""
    own = {"user-agent": "opsagent", "accept-encoding": "identity", **(headers or {})}
    began = time.monotonic()
    async with guarded_client(house.egress, timeout_s=timeout_s) as client:
        request = client.build_request(
            method, url, params=httpx.QueryParams([*params]) if params else None, headers=own, json=json
        )
        origin = f"{request.url.scheme}://{request.url.netloc.decode()}"
        try:
            response = await send(client, request)
        except EgressRefused as error:
            raise NoAnswer(error.message, sent=not isinstance(error, httpx.ConnectError)) from error
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise NoAnswer(f"{origin} can't be reached ({type(error).__name__}).", sent=False) from error
        except httpx.TransportError as error:
            raise NoAnswer(f"{origin} gave no answer ({type(error).__name__}).", sent=True) from error
        try:
            data, cut = await _read(response, max_bytes)
        except httpx.TransportError as error:
            raise NoAnswer(f"{origin} broke off its answer ({type(error).__name__}).", sent=True) from error
        finally:
            await response.aclose()
    kind = response.headers.get("content-type", "")
    text = data.decode(_charset(response), "replace")
    took = round((time.monotonic() - began) * 1000)
    return Answer(response.status_code, response.reason_phrase, kind, text, cut, took)


async def _read(response: httpx.Response, max_bytes: int) -> tuple[bytes, bool]:
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        # A small answer can unpack to any size, and none was asked for.
        raise NoAnswer("The server answered compressed, which it was not asked to do.", sent=True)
    data = bytearray()
    async for chunk in response.aiter_raw(16384):
        data += chunk
        if len(data) > max_bytes:
            return bytes(data[:max_bytes]), True
    return bytes(data), False


def _charset(response: httpx.Response) -> str:
    named = (response.charset_encoding or "utf-8").lower()
    return named if named in _CHARSETS else "utf-8"
