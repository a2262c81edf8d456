"""The least that a click needs: FastAPI, Slack's signature, one compare-and-set."""

import asyncio
import hashlib
import hmac
import json
import os
import socket
from typing import Any
from urllib.parse import parse_qs
from uuid import uuid4

import asyncpg
import uvicorn
from fastapi import FastAPI, Request, Response

from benchmarks.subject import obey, quiet

_SETTLE = "UPDATE bench_approvals SET status = 'approved' WHERE id = $1 AND status = 'pending' RETURNING id"


def build(pool: asyncpg.Pool, secret: str) -> FastAPI:
    app = FastAPI()

    @app.post("/slack/events")
    async def click(request: Request) -> Response:
        body = await request.body()
        signed = b"v0:" + request.headers["x-slack-request-timestamp"].encode() + b":" + body
        expected = "v0=" + hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(expected, request.headers["x-slack-signature"]):
            return Response(status_code=401)
        value = json.loads(parse_qs(body.decode())["payload"][0])["actions"][0]["value"]
        won = await pool.fetchval(_SETTLE, value)
        return Response(status_code=200 if won else 409)

    return app


async def main() -> None:
    async with asyncpg.create_pool(os.environ["BENCH_DSN"], min_size=2, max_size=10) as pool:
        await pool.execute("CREATE TABLE bench_approvals (id text PRIMARY KEY, status text NOT NULL)")
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        app = build(pool, os.environ["SLACK_SIGNING_SECRET"])
        config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1)
        running = asyncio.create_task(uvicorn.Server(config).serve(sockets=[listener]))

        async def asked(n: int) -> dict[str, Any]:
            ids = [str(uuid4()) for _ in range(n)]
            await pool.executemany("INSERT INTO bench_approvals VALUES ($1, 'pending')", [(id_,) for id_ in ids])
            return {"ids": ids, "threads": ["1700000000.000100"] * n}

        async def port() -> dict[str, Any]:
            return {"port": listener.getsockname()[1]}

        try:
            await obey({"asked": asked, "port": port})
        finally:
            running.cancel()
            await asyncio.wait([running], timeout=3)


if __name__ == "__main__":
    quiet()
    asyncio.run(main())
