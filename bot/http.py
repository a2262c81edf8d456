"""Slack's HTTP door: one endpoint for events, clicks and commands."""

from slack_bolt.adapter.starlette.async_handler import (
    AsyncSlackRequestHandler,
    Request,  # pyright: ignore[reportPrivateImportUsage]
    Response,  # pyright: ignore[reportPrivateImportUsage]
)
from slack_bolt.async_app import AsyncApp

_BODY_LIMIT = 4_000_000


class SlackEndpoint:
    """What is mounted at /slack/events."""

    def __init__(self, app: AsyncApp) -> None:
        self._handler = AsyncSlackRequestHandler(app)

    async def handle(self, request: Request) -> Response:
        """Answer one request of Slack's; 401 where its signature doesn't hold."""
        length = request.headers.get("content-length", "")
        if not length.isdigit() or int(length) > _BODY_LIMIT:
            return Response(status_code=413, content="Too large, or of unknown length")
        return await self._handler.handle(request)
