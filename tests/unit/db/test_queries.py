"""Named queries: each text under its name, comments before it and all."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from db import queries


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(queries, "FOLDER", tmp_path)
    queries.load.cache_clear()
    yield tmp_path
    queries.load.cache_clear()


def test_each_query_is_found_under_its_name(folder: Path) -> None:
    (folder / "things.sql").write_text("-- name: read\n-- Why.\nSELECT 1;\n\n-- name: save\nDELETE FROM t;\n")
    found = queries.load("things")
    assert vars(found) == {"read": "-- Why.\nSELECT 1;", "save": "DELETE FROM t;"}


def test_two_queries_of_one_name_are_refused(folder: Path) -> None:
    (folder / "things.sql").write_text("-- name: read\nSELECT 1;\n-- name: read\nSELECT 2;\n")
    with pytest.raises(ValueError, match=r"things\.sql names a query twice"):
        queries.load("things")


@pytest.mark.parametrize("path", sorted(queries.FOLDER.glob("*.sql")), ids=lambda path: path.stem)
def test_every_query_is_one_statement_that_ends(path: Path) -> None:
    for name, text in vars(queries.load(path.stem)).items():
        code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("--"))
        assert code.rstrip().endswith(";"), name
        assert code.count(";") == 1, name
