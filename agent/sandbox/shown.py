"""What a custom tool gives to people beside its text, as its worker sends it: files as base64, records for a table."""

import base64
from collections.abc import Generator
from pathlib import Path
from typing import Any, cast

from agent.tools.attachments import MOST, Attachment, NotTaken, attachment, bounded, decoded

_RECORDS = 1_000


def of(content: Any, artifact: Any) -> dict[str, Any]:
    """Return what is to be shown of a tool's content and its LangChain artifact; what can't be is said in `notes`."""
    if _is_records(artifact):
        return {"files": [], "records": artifact[:_RECORDS], "notes": []}
    files: list[Attachment] = []
    notes: list[str] = []
    for found in (*_in_content(content), *_in_artifact(artifact)):
        try:
            files.append(_file(found))
        except (NotTaken, OSError) as why:
            notes.append(f"[a file, not shown: {why}]")
    kept, left = bounded(files)
    notes = [*notes[:MOST], *([f"[{left} more files, not shown]"] if left else [])]
    return {"files": [_sent(file) for file in kept], "records": None, "notes": notes}


def _in_content(content: Any) -> Generator[Any]:
    if isinstance(content, bytes):
        yield content
    for block in cast("list[Any]", content) if isinstance(content, list) else ():
        if isinstance(block, dict) and block.get("type") in ("image", "audio", "video", "file") and "base64" in block:
            yield cast("dict[str, Any]", block)


def _in_artifact(artifact: Any) -> Generator[Any]:
    for one in cast("list[Any]", artifact) if isinstance(artifact, list | tuple) else (artifact,):
        if isinstance(one, bytes | Path) or (isinstance(one, str) and one):
            yield one
        elif isinstance(one, dict) and ("content" in one or "base64" in one):
            yield cast("dict[str, Any]", one)


def _file(found: Any) -> Attachment:
    if isinstance(found, bytes):
        return attachment(found)
    if isinstance(found, str):
        return attachment(found.encode("utf-8", "replace"), media_type="text/plain")
    if isinstance(found, Path):
        return attachment(found.read_bytes(), name=found.name)
    name, media_type = _word(found, "name", "filename"), _word(found, "media_type", "mime_type")
    if "base64" in found:
        return decoded(str(found["base64"]), name=name, media_type=media_type)
    content = found["content"]
    if isinstance(content, Path):
        return attachment(content.read_bytes(), name=name or content.name, media_type=media_type)
    if isinstance(content, str):
        return attachment(content.encode("utf-8", "replace"), name=name, media_type=media_type or "text/plain")
    if isinstance(content, bytes):
        return attachment(content, name=name, media_type=media_type)
    raise NotTaken("its content is neither bytes nor text nor a path")


def _word(found: dict[str, Any], *keys: str) -> str | None:
    return next((str(found[key]) for key in keys if isinstance(found.get(key), str)), None)


def _is_records(artifact: Any) -> bool:
    if not isinstance(artifact, list) or not artifact:
        return False
    flat = (isinstance(one, dict) and not {"content", "base64"} & set(cast("Any", one)) for one in artifact[:_RECORDS])
    return all(flat)


def _sent(file: Attachment) -> dict[str, str]:
    return {
        "name": file.name,
        "media_type": file.media_type,
        "data": base64.b64encode(file.content).decode(),
    }
