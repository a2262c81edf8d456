"""Files that a tool gives to people: bounded, with names and media types that nothing can be smuggled through."""

import base64
import binascii
import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

MOST = 5
"""Files of one result."""
EACH = 5 * 1024 * 1024
EACH_TEXT = 1024 * 1024
"""Bytes of a file that is read through for secrets before anybody gets it."""
TOGETHER = 10 * 1024 * 1024
OPAQUE = "application/octet-stream"
_NAME_LIMIT = 80
_MEDIA_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,60}/[a-z0-9][a-z0-9!#$&^_.+-]{0,60}")
_ENDINGS = {
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/gif": ".gif",
    "image/webp": ".webp",
    "audio/mpeg": ".mp3",
    "audio/wav": ".wav",
    "application/pdf": ".pdf",
    "application/json": ".json",
    "text/csv": ".csv",
    "text/html": ".html",
    "text/markdown": ".md",
    "text/plain": ".txt",
}
_STARTS = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"%PDF-": "application/pdf",
}
_TEXTS = ("application/json", "application/xml", "application/yaml", "image/svg+xml")


class NotTaken(Exception):
    """Why a file is not shown, as the end of a sentence."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file for people; made by `attachment`, so name and media type are clean."""

    name: str
    media_type: str
    content: bytes

    @property
    def is_text(self) -> bool:
        """Whether it is text by its type, or by what is in it: then it can be read through for secrets."""
        kind = self.media_type
        if kind.startswith("text/") or kind in _TEXTS or kind.endswith(("+json", "+xml", "+yaml")):
            return True
        return kind == OPAQUE and not _is_binary(self.content)

    def mapped(self, change: Callable[[str], str]) -> "Attachment":
        """Return the file with its name, and what can be read in it, changed."""
        content = self.content
        if self.is_text:
            content = change(content.decode("utf-8", "replace")).encode("utf-8", "replace")
        return Attachment(clean_name(change(self.name), self.media_type), self.media_type, content)

    @property
    def described(self) -> str:
        return f"{self.name} ({self.media_type}, {_size(len(self.content))})"


class Kind(StrEnum):
    """How people get to see it."""

    FILE = "file"
    TABLE = "table"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Shown:
    """What is known of a stored attachment without its content."""

    attachment_id: UUID
    kind: Kind
    name: str
    media_type: str
    size: int
    tool_call_id: str
    created_at: datetime


def attachment(content: bytes, *, name: str | None = None, media_type: str | None = None) -> Attachment:
    """Return the file under a clean name; raise NotTaken for one that is empty or too large."""
    if not content:
        raise NotTaken("empty")
    if len(content) > EACH:
        raise NotTaken(f"larger than {_size(EACH)}")
    kind = clean_media_type(media_type)
    if kind == OPAQUE:
        kind = next((known for start, known in _STARTS.items() if content.startswith(start)), OPAQUE)
    made = Attachment(clean_name(name, kind), kind, content)
    if made.is_text and len(content) > EACH_TEXT:
        raise NotTaken(f"text of more than {_size(EACH_TEXT)}")
    return made


def decoded(data: str, *, name: str | None = None, media_type: str | None = None) -> Attachment:
    """Return the file whose bytes are base64; raise NotTaken for what is none, before it takes up any room."""
    if len(data) > EACH * 4 // 3 + 1024:
        raise NotTaken(f"larger than {_size(EACH)}")
    try:
        content = base64.b64decode("".join(data.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise NotTaken("not valid base64") from error
    return attachment(content, name=name, media_type=media_type)


def bounded(files: Iterable[Attachment]) -> tuple[tuple[Attachment, ...], int]:
    """Return the first files for which there is room, each under a name of its own, and how many are left out."""
    kept: list[Attachment] = []
    room, left = TOGETHER, 0
    for file in files:
        if len(kept) == MOST or len(file.content) > room:
            left += 1
            continue
        room -= len(file.content)
        taken = {other.name for other in kept}
        name = file.name if file.name not in taken else f"{len(kept) + 1}-{file.name}"
        kept.append(Attachment(name, file.media_type, file.content))
    return tuple(kept), left


def clean_name(name: str | None, media_type: str = OPAQUE) -> str:
    """Return the last part of a path without characters that hide, reorder or mean something to a system."""
    last = re.split(r"[/\\]", unicodedata.normalize("NFC", (name or "")[:1000]))[-1]
    shown = "".join(char for char in last if unicodedata.category(char)[0] not in "CZ" or char == " ")
    plain = " ".join(re.sub(r"[^\w .()+-]", "_", shown).split()).strip(". ") or "file"
    stem, dot, ending = plain.rpartition(".")
    if not dot or not 0 < len(ending) <= 10:
        stem, ending = plain, _ENDINGS.get(media_type, "").removeprefix(".")
    return f"{stem[:_NAME_LIMIT]}.{ending}" if ending else stem[:_NAME_LIMIT]


def clean_media_type(media_type: str | None) -> str:
    """Return the type without parameters, or the one that says nothing for what is no type."""
    bare = (media_type or "")[:200].partition(";")[0].strip(" ").lower()
    return bare if _MEDIA_TYPE.fullmatch(bare) else OPAQUE


def _is_binary(content: bytes) -> bool:
    try:
        return b"\x00" in content[:8192] or not content.decode()
    except UnicodeDecodeError:
        return True


def _size(count: int) -> str:
    return (
        f"{count} bytes"
        if count < 1024
        else f"{count // 1024} KiB"
        if count < 1024**2
        else f"{count / 1024**2:.3g} MiB"
    )
