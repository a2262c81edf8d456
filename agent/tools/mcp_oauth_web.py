"""How OAuth's requests leave: through the egress guard, bounded in size, time and number."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx2

from agent.egress import EgressPolicy, EgressRefused
from agent.egress_http import GuardedTransport2
from agent.tools.mcp_oauth import NotLoggedIn

REQUEST_S = 8.0
BODY_LIMIT = 256 * 1024
_REQUESTS = 40
"""More than any way to a token takes; a server that leads in circles is left."""


class Web:
    """Sends OAuth's requests: guarded, bounded, without redirects of its own, and never less safe than the server."""

    def __init__(self, client: httpx2.AsyncClient, *, https_only: bool) -> None:
        self._client = client
        self._https_only = https_only
        self._left = _REQUESTS

    async def send(self, request: httpx2.Request, *, head_only: bool = False) -> httpx2.Response:
        """Return the answer, read whole; raises NotLoggedIn."""
        host = request.url.host[:100]
        if self._https_only and request.url.scheme != "https":
            raise NotLoggedIn(f"needs a login, but leads to `{host}` without TLS, which an https server must not do")
        self._left -= 1
        if self._left < 0:
            raise NotLoggedIn("needs a login, but leads from one address to the next without end")
        request.headers["accept-encoding"] = "identity"
        try:
            async with asyncio.timeout(REQUEST_S):
                response = await self._client.send(request, stream=True, follow_redirects=False)
                try:
                    body = b"" if head_only else await _read(response)
                finally:
                    await response.aclose()
        except EgressRefused as error:
            raise NotLoggedIn(f"needs a login, but leads to where tools may not go: {error.message}") from error
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, TimeoutError) as error:
            said = f"needs a login, but `{host}` gives no answer ({type(error).__name__})"
            raise NotLoggedIn(said) from error
        whole = httpx2.Response(response.status_code, headers=response.headers, content=body, request=request)
        whole.next_request = response.next_request
        return whole


@asynccontextmanager
async def web_to(url: str, policy: EgressPolicy | None) -> AsyncGenerator[Web]:
    """Open what sends the requests that a login at the server of `url` takes."""
    transport = GuardedTransport2(policy) if policy else None
    async with httpx2.AsyncClient(
        transport=transport, timeout=httpx2.Timeout(REQUEST_S), trust_env=policy is None, follow_redirects=False
    ) as client:
        yield Web(client, https_only=url.lower().startswith("https:"))


async def _read(response: httpx2.Response) -> bytes:
    if response.headers.get("content-encoding", "identity") != "identity":
        raise NotLoggedIn("needs a login, but answers compressed, which was not asked for")
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > BODY_LIMIT:
            raise NotLoggedIn(f"needs a login, but answers with more than {BODY_LIMIT} bytes")
    return bytes(body)
