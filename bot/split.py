"""An answer cut into pieces that fit Slack's messages: code and tables whole, or opened again in the next piece."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

PIECE_LIMIT = 5_500
"""Characters of one piece, as Slack counts them: one markdown block."""

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)")
_RULE_CELL = r"\s*:?-+:?\s*"
_RULE = re.compile(rf"\s*\|?{_RULE_CELL}(?:\|{_RULE_CELL})*\|?\s*")
_HEADER_SHARE = 4


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of the text, and what was added around it so that it renders by itself.

    The `text` of all pieces, joined, is the text that was split.
    """

    text: str
    opened: str = ""
    closed: str = ""

    @property
    def shown(self) -> str:
        return f"{self.opened}{self.text}{self.closed}"


class Kind(StrEnum):
    PROSE = "prose"
    FENCE = "fence"
    TABLE = "table"


@dataclass(frozen=True, slots=True)
class Section:
    """Consecutive lines that belong together; `opened` and `closed` are what a part of them needs around it."""

    kind: Kind
    lines: tuple[str, ...]
    opened: str = ""
    closed: str = ""

    @property
    def text(self) -> str:
        return "".join(self.lines)


def width(text: str) -> int:
    """Return how many characters Slack counts: UTF-16 units, so an emoji is two."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def split(text: str, limit: int = PIECE_LIMIT) -> list[Piece]:
    """Return the text in pieces of at most `limit`, cut where it hurts least."""
    pieces: list[Piece] = []
    held, used = "", 0
    for section in _sections(text, limit):
        size = width(section.text)
        if held and used + size > limit:
            pieces.append(Piece(held))
            held, used = "", 0
        if size <= limit:
            held, used = held + section.text, used + size
        else:
            pieces.extend(_parts(section, limit))
    return [*pieces, Piece(held)] if held else pieces


def _sections(text: str, limit: int) -> Iterator[Section]:
    lines = text.splitlines(keepends=True)
    at = 0
    while at < len(lines):
        section = _fence(lines, at, limit) or _table(lines, at, limit) or _paragraph(lines, at)
        yield section
        at += len(section.lines)


def _fence(lines: list[str], at: int, limit: int) -> Section | None:
    match = _FENCE.fullmatch(lines[at].rstrip("\r\n"))
    if match is None or (match[1][0] == "`" and "`" in match[2]):
        return None
    mark = match[1]
    if width(lines[at]) + len(mark) > limit // _HEADER_SHARE:
        return None
    end = at + 1
    while end < len(lines) and not _closes(lines[end], mark):
        end += 1
    opened = lines[at] if lines[at].endswith("\n") else lines[at] + "\n"
    return Section(Kind.FENCE, tuple(lines[at : end + 1]), opened, mark)


def _closes(line: str, mark: str) -> bool:
    stripped = line.strip()
    return len(stripped) >= len(mark) and set(stripped) == {mark[0]} and len(line) - len(line.lstrip(" ")) <= 3


def _table(lines: list[str], at: int, limit: int) -> Section | None:
    if at + 1 >= len(lines) or "|" not in lines[at] or "|" not in lines[at + 1] or not _RULE.fullmatch(lines[at + 1]):
        return None
    header = lines[at] + lines[at + 1]
    if width(header) > limit // _HEADER_SHARE:
        return None
    end = at + 2
    while end < len(lines) and "|" in lines[end] and _FENCE.match(lines[end]) is None:
        end += 1
    return Section(Kind.TABLE, tuple(lines[at:end]), header)


def _paragraph(lines: list[str], at: int) -> Section:
    """The lines up to and with the blank ones that follow; never past the start of a fence."""
    end = at + 1
    while end < len(lines) and _FENCE.match(lines[end]) is None and (lines[end - 1].strip() or not lines[end].strip()):
        end += 1
    return Section(Kind.PROSE, tuple(lines[at:end]))


def _parts(section: Section, limit: int) -> Iterator[Piece]:
    """Cut one section that is too long for a piece; its later parts are opened again as the first was."""
    around = width(section.opened) + (width(section.closed) + 1 if section.closed else 0)
    room = limit - around
    held, used, first = "", 0, True
    for line in _bits(section.lines, room):
        size = width(line)
        if held and used + size > room:
            yield _part(section, held, first=first, last=False)
            held, used, first = "", 0, False
        held, used = held + line, used + size
    yield _part(section, held, first=first, last=True)


def _part(section: Section, text: str, *, first: bool, last: bool) -> Piece:
    opened = "" if first else section.opened
    if not section.closed or last:
        return Piece(text, opened)
    return Piece(text, opened, section.closed if text.endswith("\n") else f"\n{section.closed}")


def _bits(lines: tuple[str, ...], room: int) -> Iterator[str]:
    """The lines; one that is longer than a piece is cut, after a space where there is one near the end."""
    for line in lines:
        rest = line
        while width(rest) > room:
            end = _reach(rest, room)
            space = rest.rfind(" ", end * 3 // 4, end)
            if space > 0:
                end = space + 1
            yield rest[:end]
            rest = rest[end:]
        if rest:
            yield rest


def _reach(text: str, room: int) -> int:
    """How many characters of the text fit."""
    low = room // 2
    end = min(len(text), room)
    while end > low and width(text[:end]) > room:
        end -= max(1, (width(text[:end]) - room) // 2)
    return end
