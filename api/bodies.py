"""What may come in: bounded bodies, strict JSON, and nothing that a database or a reader would trip over."""

import asyncio
import json
import math
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problems import Problem, problem_response

LIMIT = 1024 * 1024
DEPTH_LIMIT = 64
_SLOWEST_S = 30.0
_TOO_LARGE = ("body_too_large", f"The body is larger than {LIMIT // 1024} KiB, which is the limit: send less.")


class SizeLimit:
    """ASGI middleware: a body above the limit is 413, whether it was announced or comes in chunks."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "0").lstrip("0")
        if len(announced) > 10 or (announced.isdecimal() and int(announced) > LIMIT):
            # The connection is closed: what follows on it is a body that nobody reads.
            refusal = problem_response(413, *_TOO_LARGE, headers={"Connection": "close"})
            await refusal(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b"")) if message["type"] == "http.request" else 0
            if seen > LIMIT:
                raise Problem(413, *_TOO_LARGE, headers={"Connection": "close"})
            return message

        await self._app(scope, counted, send)


class StrictRequest(Request):
    """A request whose body arrives in time, says it is JSON, and is read without leniency."""

    async def checked(self) -> "StrictRequest":
        try:
            async with asyncio.timeout(_SLOWEST_S):
                body = await self.body()
        except TimeoutError:
            detail = f"The body did not arrive within {_SLOWEST_S:g} seconds: send it again."
            raise Problem(408, "body_too_slow", detail, headers={"Connection": "close"}) from None
        if body and not self._says_json():
            detail = "Send the body as JSON, uncompressed, with the header Content-Type: application/json."
            raise Problem(415, "not_json", detail)
        return self

    async def json(self) -> Any:
        return strict_json(await self.body())

    def _says_json(self) -> bool:
        kind = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        encoding = self.headers.get("content-encoding", "identity").strip().lower()
        return encoding == "identity" and (
            kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))
        )


def strict_json(body: bytes) -> Any:
    """Parse JSON without duplicate keys, NaN, deep nesting, NUL characters or lone surrogates."""
    try:
        value = json.loads(body.decode(), object_pairs_hook=_object, parse_constant=_constant)
    except RecursionError:
        raise _too_deep() from None
    except json.JSONDecodeError as error:
        detail = f"The body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}."
        raise Problem(400, "malformed_json", detail) from None
    except UnicodeDecodeError:
        raise Problem(400, "malformed_json", "The body is not JSON: it is not UTF-8 text.") from None
    except ValueError as error:
        raise Problem(400, "malformed_json", f"The body is not JSON: {error}.") from None
    _check(value)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object names the same key twice")
    return found


def _constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON value")


def _check(value: Any) -> None:
    level: list[Any] = [value]
    for _ in range(DEPTH_LIMIT):
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below.extend(item.keys())
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
            else:
                _check_leaf(item)
        if not below:
            return
        level = below
    raise _too_deep()


def _check_leaf(item: Any) -> None:
    if isinstance(item, str):
        if "\0" in item or any("\ud800" <= c <= "\udfff" for c in item if not c.isascii()):
            detail = "A text in the body holds a NUL character or half a surrogate pair, which can't be stored."
            raise Problem(422, "unstorable_text", detail)
    elif isinstance(item, float) and not math.isfinite(item):
        raise Problem(422, "number_out_of_range", "A number in the body is too large.")


def _too_deep() -> Problem:
    return Problem(422, "nested_too_deep", f"The body is nested deeper than {DEPTH_LIMIT} levels: flatten it.")
