"""docs/approvals.md shows the cards that people get, calls that there are, and codes that are answered."""

import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from uuid import UUID

import jsonschema
import pytest

from agent.audit import Kind
from agent.errors import Refusal
from opsagent.cli import _parser
from tests.acceptance.approvals_page import CARD, JSON, cards, filled, written
from tests.fakes.block_kit import check_blocks, check_view
from tests.fakes.rest import door_over

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "approvals.md"
TEXT = PAGE.read_text()
WRITES = "OPSAGENT_WRITE_PAGES"
HOW = (
    f"docs/approvals.md is not what people see any more: {WRITES}=1 .venv/bin/pytest {Path(__file__).relative_to(ROOT)}"
)
VALUES = {name: str(UUID(int=n)) for n, name in enumerate(("APPROVAL", "OTHER", "GRANT", "TOOL", "SESSION", "TURN"))}
VALUES |= {"DIGEST": "0" * 64, "OTHERS_DIGEST": "1" * 64}
CARDS = {found[1]: found[0] for found in CARD.finditer(TEXT)}


async def test_the_page_shows_the_cards_that_people_get(dsn: str) -> None:
    found = await cards(dsn)
    named = CARD.findall(TEXT)
    assert sorted(named) == sorted(found), "each card of the scenes stands once on the page"
    if os.environ.get(WRITES):
        PAGE.write_text(filled(TEXT, found))
        return
    for name, card in found.items():
        shown = JSON.search(CARDS[name])
        assert (shown[1] if shown else "nothing") == written(card), HOW


@pytest.mark.parametrize("name", sorted(CARDS))
def test_slack_takes_each_card(name: str) -> None:
    shown = JSON.search(CARDS[name])
    assert shown, HOW
    card = json.loads(shown[1])
    assert (check_view(card) if isinstance(card, dict) else check_blocks(card)) == []


def commands(program: str) -> list[list[str]]:
    """The page's calls of a program, as a shell would split them."""
    lines = "\n".join(re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)).replace("\\\n", " ")
    for name, value in VALUES.items():
        lines = re.sub(rf"'?\${name}\b'?", value, lines)
    return [words[1:] for words in _split(lines) if words[:1] == [program]]


def _split(script: str) -> Iterator[list[str]]:
    """The commands, each to the line where its quotes are closed."""
    command = ""
    for line in script.splitlines():
        command = f"{command}\n{line}" if command else line
        try:
            yield shlex.split(command, comments=True)
        except ValueError:
            continue
        command = ""
    assert not command, "a quote is left open"


@pytest.mark.parametrize("words", commands("rest"), ids=lambda words: " ".join(words)[:60])
def test_each_call_is_one_that_rest_has(words: list[str]) -> None:
    document = door_over(None).openapi()
    method, (path, query) = words[0].lower(), (urlsplit(words[1]).path, urlsplit(words[1]).query)
    found = [calls[method] for known, calls in document["paths"].items() if _fits(known, path) and method in calls]
    assert found, f"there is no {words[0]} {path}"
    taken = {one["name"] for one in found[0].get("parameters", []) if one["in"] == "query"}
    assert {name for name, _ in parse_qsl(query)} <= taken
    body = json.loads(words[words.index("-d") + 1]) if "-d" in words else None
    if body is not None:
        schema = found[0]["requestBody"]["content"]["application/json"]["schema"]
        jsonschema.validate(body, {**schema, "components": document["components"]})


def _fits(known: str, path: str) -> bool:
    """Whether it is this path; one that says `batch` is no id."""
    pattern = re.sub(r"\{[^}]+\}", "[0-9a-f-]{36}", known)
    return re.fullmatch(pattern, path) is not None


@pytest.mark.parametrize("words", commands("opsagent"), ids=lambda words: " ".join(words)[:60])
def test_each_command_is_one_that_there_is(words: list[str]) -> None:
    _parser().parse_args(words)


def test_each_code_is_answered_and_each_entry_is_written() -> None:
    codes = set(re.findall(r"\b4\d\d `(\w+)`", TEXT))
    assert codes
    assert codes <= set(_codes(Refusal))
    entries = set(re.findall(r"`((?:approval|call|execution|grant|policy)\.\w+)`", TEXT))
    assert len(entries) > 10
    assert entries <= set(Kind)


def _codes(kind: type[Any]) -> Iterator[str]:
    yield kind.code
    for narrower in kind.__subclasses__():
        yield from _codes(narrower)


def test_each_field_that_the_page_names_of_an_approval_is_there() -> None:
    document = door_over(None).openapi()
    named = {"args", "args_proposed", "approvers", "execution", "preview", "result", "resolutions"}
    assert all(f"`{name}`" in TEXT for name in named)
    assert named <= set(document["components"]["schemas"]["ApprovalOut"]["properties"])
