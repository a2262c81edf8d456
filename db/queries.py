"""Loads sql/*.sql as named queries: `queries.load("approvals").lock` is the text behind `-- name: lock`."""

import re
from functools import cache
from pathlib import Path
from types import SimpleNamespace

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)
FOLDER = Path(__file__).parent / "sql"


@cache
def load(noun: str) -> SimpleNamespace:
    """Return the queries of one noun's file as attributes.

    Raises ValueError where two queries of the file have one name.
    """
    parts = _NAME.split((FOLDER / f"{noun}.sql").read_text())[1:]
    names, bodies = parts[::2], [body.strip() for body in parts[1::2]]
    if len(names) != len(set(names)):
        raise ValueError(f"{noun}.sql names a query twice")
    return SimpleNamespace(**dict(zip(names, bodies, strict=True)))
