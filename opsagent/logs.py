"""Logs: structlog and the standard library through one handler, with every secret taken out of the finished line."""

import json
import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, TextIO
from urllib.parse import quote

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

HIDDEN = "[hidden]"
_SHORTEST = 6
"""A shorter secret would take out ordinary words, and guards nothing."""

# One alternation: what a group matched stays, the rest of the match goes. Bounded repeats keep long lines linear.
_PATTERNS = (
    r"\bxox[a-z]-[\w-]{6,}",
    r"\bxapp-[\w-]{6,}",
    r"\bsk-[\w-]{8,}",
    r"(\bBearer\s{1,4})[\w.~+/=-]{8,}",
    r"(\b(?:password|passwd|secret|api[_-]?key|(?:access|refresh|id)_token)(?:\\{0,4}[\"'])?\s{0,4}[=:]\s{0,4}"
    r"(?:\\{0,4}[\"'])?)(?!\[hidden)[^\s\"'\\,;&)}\]]{3,}",
    r"(\b[a-z][a-z0-9+.-]{1,20}://[^\s:/@\"'\\]{0,200}:)[^\s/@\"'\\]{1,200}(?=@)",
)
_QUIET = (
    "aiohttp",
    "alembic",
    "asyncio",
    "dashscope",
    "httpcore",
    "httpcore2",
    "httpx",
    "httpx2",
    "mcp",
    "procrastinate",
    "psycopg",
    "slack_bolt",
    "slack_sdk",
    "sqlalchemy",
    "urllib3",
    "uvicorn.access",
    "websockets",
)

_SILENT = ("mcp.client.auth",)
"""Logs what authorization servers answer, which may repeat a secret; our own line tells of each failure."""


def redactor(secrets: Iterable[str]) -> Callable[[str], str]:
    """Return a function that hides the given secrets, and whatever looks like one, in a text."""
    spellings = {spelling for secret in secrets if len(secret) >= _SHORTEST for spelling in _spellings(secret)}
    known = [re.escape(spelling) for spelling in sorted(spellings, key=len, reverse=True)]
    pattern = re.compile("|".join((*known, *(f"(?i:{pattern})" for pattern in _PATTERNS))))

    def keep(match: re.Match[str]) -> str:
        return "".join(part for part in match.groups() if part) + HIDDEN

    return lambda text: pattern.sub(keep, text)


def set_up(level: str = "INFO", secrets: Iterable[str] = (), stream: TextIO | None = None) -> Callable[[str], str]:
    """Send all logs of this process to `stream` (stderr): readable on a terminal, else JSON lines.

    Return the redactor, for what is printed past the logs.
    """
    out = stream or sys.stderr
    redact = redactor(secrets)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            *_shared(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = _Handler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *_shared()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_rendering(out), _last(redact)],
        )
    )
    _take_over(handler, level)
    return redact


class _Handler(logging.StreamHandler[TextIO]):
    """A handler that says so when a record can't be written, without printing the record's arguments."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the library's name
        self.stream.write(json.dumps({"event": "log.unwritable", "logger": record.name, "line": record.lineno}) + "\n")
        self.flush()


def _spellings(secret: str) -> set[str]:
    """Return how a line may spell a secret: as it is, as a repr, in an address, and each of them inside JSON."""
    plain = {secret, repr(secret)[1:-1], quote(secret, safe="")}
    return plain | {json.dumps(text, ensure_ascii=ascii_only)[1:-1] for text in plain for ascii_only in (True, False)}


def _shared() -> list[Processor]:
    return [
        structlog.stdlib.add_log_level,
        _uncoloured,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]


def _uncoloured(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    # uvicorn sends each of its lines a second time with colours in it.
    event.pop("color_message", None)
    return event


def _rendering(out: TextIO) -> list[Processor]:
    if out.isatty():
        return [
            structlog.dev.ConsoleRenderer(
                colors="NO_COLOR" not in os.environ, exception_formatter=structlog.dev.plain_traceback
            )
        ]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str, ensure_ascii=False)]


def _last(redact: Callable[[str], str]) -> Processor:
    # After rendering: a secret can't hide in a nested value, an exception's text or an argument's repr.
    def hide(_logger: WrappedLogger, _method: str, line: str | EventDict) -> str:
        return redact(str(line))

    return hide  # pyright: ignore[reportReturnType] - the last processor gets the text of the one before


def _take_over(handler: logging.Handler, level: str) -> None:
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for other in list(logging.root.manager.loggerDict.values()):
        if isinstance(other, logging.Logger) and other.handlers:
            other.handlers.clear()
            other.propagate = True
    quiet = logging.INFO if level == "DEBUG" else max(logging.WARNING, logging.getLevelNamesMapping()[level])
    for name in _QUIET:
        logging.getLogger(name).setLevel(quiet)
    for name in _SILENT:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.captureWarnings(True)
    sys.excepthook = _crashed
    threading.excepthook = lambda args: _crashed(args.exc_type, args.exc_value, args.exc_traceback)


def _crashed(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> Any:
    if not issubclass(kind, KeyboardInterrupt | SystemExit):
        logging.getLogger("opsagent").critical("process.crashed", exc_info=(kind, error or kind(), trace))
