"""What an MCP server answered: one text for the model, and what people are shown beside."""

import json
from typing import Any
from urllib.parse import unquote

import mcp_types as types

from agent.tools import attachments, tables
from agent.tools.attachments import Attachment, NotTaken
from agent.tools.base import Outcome, ToolResult

HARD_LIMIT = 1_000_000
"""Characters of a result that anything after this module ever sees."""


def result_of(answer: types.CallToolResult) -> ToolResult:
    """Return the answer's text, its structured form only where it has no text, never both; files and table apart."""
    files: list[Attachment] = []
    text = _joined(answer.content, files)
    if not text and answer.structured_content is not None:
        text = json.dumps(answer.structured_content, ensure_ascii=False, default=str)[:HARD_LIMIT]
    if answer.is_error:
        return ToolResult(text or "The tool failed and gave no reason.", Outcome.FAILED)
    return ToolResult(
        text or "(The tool gave no text.)",
        attachments=tuple(files),
        table=tables.of_structured(answer.structured_content),
        for_people=any(_is_for_people(block) for block in answer.content),
    )


def _joined(content: list[Any], files: list[Attachment]) -> str:
    parts: list[str] = []
    size = 0
    for block in content:
        part = _described(block, files)[: HARD_LIMIT - size]
        size += len(part) + 1
        parts.append(part)
        if size >= HARD_LIMIT:
            break
    return "\n".join(parts)


def _described(block: Any, files: list[Attachment]) -> str:
    match block:
        case types.TextContent():
            return block.text
        case types.ImageContent() | types.AudioContent():
            return _file(files, block.type, block.data, None, block.mime_type)
        case types.ResourceLink():
            return f"[resource {block.name}: {block.uri}]"
        case types.EmbeddedResource(resource=types.TextResourceContents() as resource):
            return resource.text
        case types.EmbeddedResource(resource=types.BlobResourceContents() as resource):
            name = unquote(str(resource.uri)[:2000].partition("?")[0])
            return _file(files, "resource", resource.blob, name, resource.mime_type)
        case _:
            return f"[{getattr(block, 'type', 'content')}, not shown]"


def _file(files: list[Attachment], what: str, data: str, name: str | None, media_type: str | None) -> str:
    """Keep the file for people; return what the model reads in its place."""
    try:
        made = attachments.decoded(data, name=name or what, media_type=media_type)
    except NotTaken as why:
        return f"[{what}, {attachments.clean_media_type(media_type)}, not shown: {why}]"
    files.append(made)
    return f"[{what} {made.name}]"


def _is_for_people(block: Any) -> bool:
    """Whether the server means it for the user: the protocol's own mark."""
    marks = getattr(block, "annotations", None)
    return marks is not None and "user" in (marks.audience or [])
