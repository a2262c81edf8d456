"""Logs: one line a fact, from wherever it comes, and no secret in any of them."""

import io
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from opsagent import logs

CANARY = 'canary-"7f3a\\é-0001'


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def as_before() -> Iterator[None]:
    root, hooks = logging.getLogger(), (sys.excepthook, threading.excepthook)
    handlers, level = root.handlers[:], root.level
    quiet = {name: logging.getLogger(name).level for name in logs._QUIET}
    yield
    root.handlers = handlers
    root.setLevel(level)
    for name, before in quiet.items():
        logging.getLogger(name).setLevel(before)
    sys.excepthook, threading.excepthook = hooks
    logging.captureWarnings(False)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


@pytest.fixture(params=[io.StringIO, Terminal], ids=["json", "terminal"])
def out(request: pytest.FixtureRequest, as_before: None) -> io.StringIO:
    stream = request.param()
    logs.set_up("INFO", [CANARY], stream)
    return stream


def boom() -> None:
    raise RuntimeError(f"refused {CANARY}")


def by_event() -> None:
    structlog.get_logger().info(f"said {CANARY}")


def by_value() -> None:
    structlog.get_logger().info("said", headers={"deep": [{"inner": (CANARY, 1)}]}, error=ValueError(CANARY))


def by_percent() -> None:
    structlog.get_logger().info("said %s and %r", CANARY, CANARY)


def by_exception() -> None:
    try:
        boom()
    except RuntimeError:
        structlog.get_logger().exception("failed")


def by_context() -> None:
    structlog.contextvars.bind_contextvars(token_in_use=CANARY)
    structlog.get_logger("named").warning("said")


def by_standard_logger() -> None:
    logging.getLogger("somewhere").warning("said %s", {"nested": CANARY}, extra={"more": CANARY})


def by_standard_exception() -> None:
    try:
        boom()
    except RuntimeError:
        logging.getLogger("somewhere").exception("failed", stack_info=True)


def by_uvicorn() -> None:
    logging.getLogger("uvicorn.error").error('"GET /?key=%s" 500', quote(CANARY, safe=""))


def by_bad_arguments() -> None:
    root = logging.getLogger()
    root.handlers = [handler for handler in root.handlers if isinstance(handler, logs._Handler)]  # pytest's raise
    logging.getLogger("somewhere").warning("said %d", CANARY)


def by_crash() -> None:
    try:
        boom()
    except RuntimeError as error:
        sys.excepthook(type(error), error, error.__traceback__)


def by_crash_of_a_thread() -> None:
    thread = threading.Thread(target=boom)
    thread.start()
    thread.join()


ROUTES = [
    by_event,
    by_value,
    by_percent,
    by_exception,
    by_context,
    by_standard_logger,
    by_standard_exception,
    by_uvicorn,
    by_bad_arguments,
    by_crash,
    by_crash_of_a_thread,
]


@pytest.mark.parametrize("route", ROUTES)
def test_a_secret_reaches_no_line_by_any_route(route: Callable[[], None], out: io.StringIO) -> None:
    route()
    assert out.getvalue().strip()
    assert "7f3a" not in out.getvalue()
    if not out.isatty():
        for line in out.getvalue().splitlines():
            json.loads(line)


def test_a_line_says_when_who_and_how_bad(as_before: None) -> None:
    out = io.StringIO()
    logs.set_up("INFO", stream=out)
    structlog.get_logger("agent.worker").info("turn.claimed", turn_id=7)
    logging.getLogger("library").warning("slow: %s", 3)
    ours, theirs = map(json.loads, out.getvalue().splitlines())
    assert ours.pop("timestamp").endswith("Z")
    assert ours == {"event": "turn.claimed", "turn_id": 7, "level": "info", "logger": "agent.worker"}
    assert (theirs["event"], theirs["level"], theirs["logger"]) == ("slow: 3", "warning", "library")


def test_the_level_counts_and_chatty_libraries_are_quieter(as_before: None) -> None:
    out = io.StringIO()
    logs.set_up("INFO", stream=out)
    structlog.get_logger().debug("hidden")
    logging.getLogger("httpx").info("hidden")
    logging.getLogger("slack_sdk.web").debug("hidden")
    assert out.getvalue() == ""
    logs.set_up("ERROR", stream=out)
    logging.getLogger("httpx").warning("hidden")
    assert out.getvalue() == ""


def test_a_handler_that_a_library_brought_does_not_print_past_us(as_before: None) -> None:
    past, out = io.StringIO(), io.StringIO()
    library = logging.getLogger("uvicorn")
    library.addHandler(logging.StreamHandler(past))
    library.propagate = False
    logs.set_up("INFO", [CANARY], out)
    library.warning(CANARY)
    assert past.getvalue() == ""
    assert len(out.getvalue().splitlines()) == 1


@pytest.mark.parametrize(
    "text",
    [
        "xoxb-1-0123456789-canary",
        "xoxp-1-0123456789-canary",
        "xapp-1-A0-canary0123",
        "key sk-0123456789canary",
        "Authorization: Bearer abc.canary.def",
        "authorization: bearer canary0123",
        "password=canary&x=1",
        'password: "canary"',
        '{\\"password\\": \\"canary\\"}',
        "connect postgres://ops:canary@db/ops failed",
        "connect postgresql+x://ops:canary%40@db:5432/ops",
        "api_key='canary'",
    ],
)
def test_what_looks_like_a_secret_is_hidden_without_being_known(text: str) -> None:
    hidden = logs.redactor(())(text)
    assert "canary" not in hidden
    assert logs.HIDDEN in hidden


@pytest.mark.parametrize(
    "text",
    [
        "task-0123456789abcdef finished",
        "http://localhost:8000/users/@bob",
        "max_tokens=24000 tokens: 12",
        "the bearer of this note",
        "secrets.generated",
        "postgresql://postgres@/postgres?host=/tmp/x",
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    assert logs.redactor(["another-secret"])(text) == text


def test_the_longest_secret_goes_first() -> None:
    redact = logs.redactor(["canary", "canary-and-more"])
    assert redact("a canary-and-more b") == f"a {logs.HIDDEN} b"


@given(st.text(min_size=12, max_size=40), st.booleans())
def test_any_secret_is_hidden_however_json_spells_it(secret: str, ascii_only: bool) -> None:
    line = json.dumps({"args": ["<", secret, ">"], "repr": repr([secret])}, ensure_ascii=ascii_only)
    hidden: dict[str, Any] = json.loads(logs.redactor([secret])(line))
    assert secret not in hidden["args"]
    assert repr(secret)[1:-1] not in hidden["repr"]


def test_a_process_without_a_terminal_writes_json_to_stderr_only() -> None:
    code = (
        "import warnings, structlog; from opsagent import logs; logs.set_up('INFO', ['canary-0001']);"
        "structlog.get_logger().info('ready'); warnings.warn('canary-0001'); raise ValueError('canary-0001')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert done.stdout == ""
    assert "canary" not in done.stderr
    assert [events[0]["event"], events[-1]["event"]] == ["ready", "process.crashed"]
