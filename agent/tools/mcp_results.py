"""What an MCP server answered, as one text for the model."""

import json
from typing import Any

import mcp_types as types

from agent.tools.base import Outcome, ToolResult

HARD_LIMIT = 1_000_000
"""Characters of a result that anything after this module ever sees."""


def result_of(answer: types.CallToolResult) -> ToolResult:
    """Return the answer's text; its structured form only where it has no text, never both."""
    text = _joined(answer.content)
    if not text and answer.structured_content is not None:
        text = json.dumps(answer.structured_content, ensure_ascii=False, default=str)[:HARD_LIMIT]
    if answer.is_error:
        return ToolResult(text or "The tool failed and gave no reason.", Outcome.FAILED)
    return ToolResult(text or "(The tool gave no text.)")


def _joined(content: list[Any]) -> str:
    parts: list[str] = []
    size = 0
    for block in content:
        part = _described(block)[: HARD_LIMIT - size]
        size += len(part) + 1
        parts.append(part)
        if size >= HARD_LIMIT:
            break
    return "\n".join(parts)


def _described(block: Any) -> str:
    match block:
        case types.TextContent():
            return block.text
        case types.ImageContent() | types.AudioContent():
            kind = "image" if isinstance(block, types.ImageContent) else "audio"
            return f"[{kind}, {block.mime_type}, about {len(block.data) * 3 // 4} bytes, not shown]"
        case types.ResourceLink():
            return f"[resource {block.name}: {block.uri}]"
        case types.EmbeddedResource(resource=types.TextResourceContents() as resource):
            return resource.text
        case types.EmbeddedResource():
            return f"[resource {block.resource.uri}, {block.resource.mime_type or 'binary'}, not shown]"
        case _:
            return f"[{getattr(block, 'type', 'content')}, not shown]"
