"""What an MCP server answers: text for the model, files and tables for people."""

import base64
from typing import Any

import mcp_types as types

from agent.tools.base import Outcome
from agent.tools.mcp_results import result_of

PNG = b"\x89PNG\r\n\x1a\n" + bytes(8)
DATA = base64.b64encode(PNG).decode()


def answer(*content: Any, **more: Any) -> types.CallToolResult:
    return types.CallToolResult(content=list(content), **more)


def image(data: str = DATA, mime_type: str = "image/png", **more: Any) -> types.ImageContent:
    return types.ImageContent(type="image", data=data, mime_type=mime_type, **more)


def text(said: str, **more: Any) -> types.TextContent:
    return types.TextContent(type="text", text=said, **more)


def blob(uri: str) -> types.EmbeddedResource:
    resource = types.BlobResourceContents(uri=uri, blob=DATA, mime_type="image/png")
    return types.EmbeddedResource(type="resource", resource=resource)


def test_the_model_hears_the_name_of_a_file_and_people_get_its_bytes() -> None:
    result = result_of(answer(text("Here."), image()))
    assert result.text == "Here.\n[image image.png]"
    assert [(file.name, file.content) for file in result.attachments] == [("image.png", PNG)]
    assert not result.for_people


def test_a_resource_is_named_after_the_end_of_its_address() -> None:
    (file,) = result_of(answer(blob("file:///a/../b/cpu%2Fload.png?x=/y"))).attachments
    assert file.name == "load.png"


def test_what_cannot_be_taken_says_why_and_takes_nothing_with_it() -> None:
    hostile = image("!!", "image/png\r\nX: y")
    result = result_of(answer(hostile, image("A" * (12 << 20)), text("fine")))
    assert result.attachments == ()
    assert result.text.splitlines() == [
        "[image, application/octet-stream, not shown: not valid base64]",
        "[image, image/png, not shown: larger than 5 MiB]",
        "fine",
    ]


def test_structured_content_is_a_table_and_is_not_said_twice() -> None:
    records = [{"pod": "a", "ready": True}]
    result = result_of(answer(text("one pod"), structured_content={"result": records}))
    assert result.text == "one pod"
    assert result.table
    assert result.table.columns == ("pod", "ready")


def test_a_failure_gives_people_nothing_but_its_text() -> None:
    result = result_of(answer(text("no"), image(), is_error=True))
    assert (result.outcome, result.attachments, result.table) == (Outcome.FAILED, (), None)


def test_the_protocols_own_mark_says_what_is_for_people() -> None:
    marked = types.Annotations(audience=["user"])
    assert result_of(answer(text("look", annotations=marked))).for_people
