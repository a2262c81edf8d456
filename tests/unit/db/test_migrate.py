"""What a failed migration says: the line that names the error, not the caret under it."""

import pytest

from db.migrate import _reason


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (
            "Traceback (most recent call last):\n  File 'x.py', line 1\npsycopg.errors.SyntaxError: syntax error\n"
            "LINE 5:     only boolean\n            ^",
            "psycopg.errors.SyntaxError: syntax error",
        ),
        ("psycopg.errors.UniqueViolation: twice\nDETAIL:  Key (a)=(1).", "psycopg.errors.UniqueViolation: twice"),
        ("Traceback (most recent call last):\nKeyError: 'X'", "KeyError: 'X'"),
        ("Killed", "Killed"),
        ("", "it said nothing"),
    ],
)
def test_the_reason_is_the_line_that_names_the_error(output: str, said: str) -> None:
    assert _reason(output) == said
