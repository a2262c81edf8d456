"""The console's pages: what is served, and how strictly."""

import re
from importlib.resources import files

import httpx
import pytest
from fastapi import FastAPI, Request, Response

from api.asgi import build_asgi
from api.routes.health import Readiness
from tests.fakes.memory_service import MemoryService
from tests.unit.api.conftest import KEYS, client_of

STATIC = files("api.console").joinpath("static")
SCRIPTS = sorted(file.name for file in STATIC.iterdir() if file.name.endswith(".js"))


async def test_the_page_and_all_it_loads_are_served_without_a_key(anyone: httpx.AsyncClient) -> None:
    page = await anyone.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    wanted = set(re.findall(r'(?:src|href)="(/[^"]+)"', page.text))
    assert {"/console/console.js", "/console/console.css"} <= wanted
    for name in SCRIPTS:
        script = await anyone.get(f"/console/{name}")
        assert script.headers["content-type"].startswith("text/javascript")
        wanted |= {f"/console/{found}" for found in re.findall(r'from "\./([\w.]+)"', script.text)}
    for path in wanted:
        assert (await anyone.get(path)).status_code == 200, path


async def test_nothing_from_elsewhere_and_nothing_inline_runs(anyone: httpx.AsyncClient) -> None:
    page = await anyone.get("/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"<script(?![^>]*src=)|<style|\son\w+=|\sstyle=|https?://", page.text)
    assert page.headers["referrer-policy"] == "no-referrer"
    assert page.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_script_makes_markup_of_text(name: str) -> None:
    text = STATIC.joinpath(name).read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc", text)


async def test_an_unchanged_page_is_not_sent_again(anyone: httpx.AsyncClient) -> None:
    page = await anyone.get("/")
    assert page.headers["cache-control"] == "no-cache"
    again = await anyone.get("/", headers={"If-None-Match": page.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert (await anyone.get("/", headers={"If-None-Match": '"older"'})).status_code == 200
    assert (await anyone.head("/")).content == b""


async def test_answers_of_the_api_are_not_kept(api: httpx.AsyncClient) -> None:
    assert (await api.get("/api/sessions")).headers["cache-control"] == "no-store"


async def test_slack_events_go_to_the_handler_that_was_handed_in(service: MemoryService) -> None:
    async def ready() -> Readiness:
        return Readiness(ready=True)

    async def slack(request: Request) -> Response:
        return Response(b"heard " + await request.body())

    app: FastAPI = build_asgi(service, keys=KEYS, readiness=ready, slack_handler=slack)
    async with client_of(app) as client:
        answer = await client.post("/slack/events", content=b"payload=1")
        assert (answer.status_code, answer.content) == (200, b"heard payload=1")
        assert (await client.post("/slack/events", content=b"x" * 2_000_000)).status_code == 413
