"""A minimal server to start beside ours: FastAPI, a LangGraph graph, LangGraph's own Postgres saver, nothing else."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import uvicorn
from fastapi import FastAPI
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool
from pydantic import BaseModel

from benchmarks.bare_graph import build


class Said(BaseModel):
    message: str
    thread_id: str | None = None


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    kwargs = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
    async with AsyncConnectionPool(os.environ["BENCH_DSN"], kwargs=kwargs, open=False) as pool:
        saver: Any = AsyncPostgresSaver(pool)
        await saver.setup()
        app.state.graph = build(saver)
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/readyz")
async def ready() -> dict[str, str]:
    return {"status": "ok"}


@app.post("/execute")
async def execute(said: Said) -> dict[str, str]:
    thread = said.thread_id or str(uuid4())
    config = {"configurable": {"thread_id": thread}}
    state = await app.state.graph.ainvoke({"messages": [HumanMessage(said.message)]}, config, durability="async")
    return {"thread_id": thread, "reply": str(state["messages"][-1].content)}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), log_config=None, access_log=False)
