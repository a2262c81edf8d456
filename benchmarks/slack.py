"""Slack's side: how long people wait for the answer, for the tool, and for the ack of a click."""

import asyncio
import hashlib
import hmac
import json
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from statistics import median
from urllib.parse import urlencode

import aiohttp

from benchmarks.database import Server
from benchmarks.figures import Figure, at_most, milliseconds, paired, percentile, spread, times
from benchmarks.subject import Subject, started
from tests.fakes.slack import ALICE, BOB, TEAM, FakeSlack

ROUNDS = 7
EACH = 15
CLICKS = 40
RUNNING = 16
_GAP_S = 0.025


def _env(slack: FakeSlack) -> dict[str, str]:
    return {
        "BENCH_DOOR": "1",
        "SLACK_BOT_TOKEN": slack.bot_token,
        "SLACK_SIGNING_SECRET": slack.signing_secret,
        "SLACK_API_URL": slack.api_url,
        "APPROVERS": BOB,
    }


@asynccontextmanager
async def _workspace(server: Server) -> AsyncIterator[tuple[FakeSlack, Subject]]:
    """A fake Slack, and the product in one process with its door open to it."""
    async with FakeSlack() as slack, started(server, "product", **_env(slack)) as ours:
        slack.http_target = f"http://127.0.0.1:{(await ours.do('port'))['port']}"
        yield slack, ours


async def waits(server: Server) -> list[Figure]:
    """A message to its answer in Slack, and a click to the tool's start, against the reference's turn and resume."""
    found: dict[str, list[float]] = defaultdict(list)
    async with AsyncExitStack() as stack:
        slack, ours = await stack.enter_async_context(_workspace(server))
        bare = await stack.enter_async_context(started(server, "reference"))
        for number in range(-1, ROUNDS):
            answers = await _answers(slack, EACH)
            starts = await _starts(slack, ours, EACH)
            turns = (await bare.do("turns", n=EACH))["ms"]
            resumes = (await bare.do("interrupts", n=EACH))["resumed"]["ms"]
            if number >= 0:
                named = {"answer": answers, "turn": turns, "start": starts, "resume": resumes}
                for name, values in named.items():
                    found[name].append(median(values))
                    found[f"all {name}"] += values
    return [
        _wait("Slack message to the answer at Slack against a reference turn", found, "answer", "turn", 5.0),
        _wait("click to the tool's start against a reference resume", found, "start", "resume", 3.0),
    ]


def _wait(name: str, found: dict[str, list[float]], ours: str, bare: str, most: float) -> Figure:
    ratio, all_ = paired(found[ours], found[bare]), found[f"all {ours}"]
    shown = f" (p50 {milliseconds(median(all_))}, p99 {milliseconds(percentile(all_, 0.99))}; "
    return at_most(name, ratio, most, times, with_=f"{shown}rounds {spread(found[ours], found[bare])})")


async def _answers(slack: FakeSlack, n: int) -> list[float]:
    taken: list[float] = []
    for _ in range(n):
        said = await slack.say(ALICE, "hello there", channel=slack.dm(ALICE))
        answer = await slack.bot_message(slack.dm(ALICE), said["ts"], containing="ereht")
        taken.append((float(answer["ts"]) - float(said["ts"])) * 1000)
    return taken


async def _starts(slack: FakeSlack, ours: Subject, n: int) -> list[float]:
    taken: list[float] = []
    for _ in range(n):
        said = await slack.say(ALICE, "restart web", channel=slack.dm(ALICE))
        card = await slack.card(slack.dm(ALICE), said["ts"])
        await asyncio.sleep(0.1)  # people take longer than that, and the turn is at rest by then
        await ours.do("tool_starts")
        clicked = time.time()
        await slack.click(BOB, slack.dm(ALICE), card, "approval_approve")
        await slack.bot_message(slack.dm(ALICE), said["ts"], containing="It is done.")
        taken.append(((await ours.do("tool_starts"))["at"][0] - clicked) * 1000)
    return taken


class Clicker:
    """Presses buttons one at a time, as Slack delivers them, and takes the time to each ack."""

    def __init__(self, slack: FakeSlack, http: aiohttp.ClientSession, subject: Subject, port: int) -> None:
        self._slack = slack
        self._http = http
        self.subject = subject
        self._url = f"http://127.0.0.1:{port}/slack/events"

    async def clicks(self, n: int, *, asks: Subject | None = None) -> list[float]:
        asked = await (asks or self.subject).do("asked", n=n)
        await asyncio.sleep(0.5)
        taken: list[float] = []
        for approval_id, thread_ts in zip(asked["ids"], asked["threads"], strict=True):
            body = self._body(approval_id, thread_ts)
            begun = time.perf_counter()
            async with self._http.post(self._url, data=body, headers=self._signed(body)) as answer:
                await answer.read()
            taken.append((time.perf_counter() - begun) * 1000)
            assert answer.status == 200, answer.status
            await asyncio.sleep(_GAP_S)
        return taken

    def _body(self, approval_id: str, thread_ts: str) -> bytes:
        action = {"type": "button", "action_id": "approval_approve", "block_id": "b1", "value": approval_id}
        payload = {
            "type": "block_actions",
            "user": {"id": BOB, "username": "bob", "team_id": TEAM},
            "team": {"id": TEAM, "domain": "ops"},
            "api_app_id": "A0OPSAGENT",
            "channel": {"id": "C0OPS", "name": "ops"},
            "container": {"type": "message", "message_ts": "1700000000.000100", "channel_id": "C0OPS"},
            "message": {
                "ts": "1700000000.000100",
                "thread_ts": thread_ts,
                "text": "a card",
                "team": TEAM,
                "type": "message",
            },
            "actions": [action],
            "state": {"values": {}},
            "is_enterprise_install": False,
            "trigger_id": "1.fake",
            "response_url": f"{self._slack.base_url}/response/none",
        }
        return urlencode({"payload": json.dumps(payload)}).encode()

    def _signed(self, body: bytes) -> dict[str, str]:
        now = str(int(time.time()))
        signed = hmac.new(self._slack.signing_secret.encode(), f"v0:{now}:".encode() + body, hashlib.sha256)
        return {
            "Content-Type": "application/x-www-form-urlencoded",
            "X-Slack-Request-Timestamp": now,
            "X-Slack-Signature": f"v0={signed.hexdigest()}",
        }


async def acks(server: Server) -> list[Figure]:
    """The ack of a click: in one process, and with the turns in another; against the bare one, and under load."""
    async with AsyncExitStack() as stack:
        slack = await stack.enter_async_context(FakeSlack())
        http = await stack.enter_async_context(aiohttp.ClientSession())
        database = await server.fresh()
        stack.push_async_callback(server.drop, database)
        up = await stack.enter_async_context(started(server, "product", **_env(slack)))
        serve = await stack.enter_async_context(
            started(server, "product", database=database, BENCH_WORK="0", **_env(slack))
        )
        work = await stack.enter_async_context(started(server, "product", database=database, BENCH_MODEL_S="1"))
        bare = await stack.enter_async_context(started(server, "bare_click", SLACK_SIGNING_SECRET=slack.signing_secret))
        sides = {
            name: Clicker(slack, http, subject, (await subject.do("port"))["port"])
            for name, subject in (("up", up), ("serve", serve), ("bare", bare))
        }
        found = await _idle(sides)
        busy_up = await stack.enter_async_context(started(server, "product", BENCH_MODEL_S="1", **_env(slack)))
        busy = Clicker(slack, http, busy_up, (await busy_up.do("port"))["port"])
        loads = [
            ("`up`, a model that takes 1 s", *await _under_load(busy, busy_up), True),
            ("`serve` beside `work`, a model that takes 1 s", *await _under_load(sides["serve"], work), None),
            ("`up`, a model that answers at once", *await _under_load(sides["up"], up), None),
        ]
    name = "click ack p50 against FastAPI + HMAC + compare-and-set"
    return [
        *(_ack(f"{name}, {of}", found, side) for side, of in (("serve", "`serve`"), ("up", "`up`"))),
        *(_loaded(what, idle, under, counts) for what, idle, under, counts in loads),
    ]


async def _idle(sides: dict[str, Clicker]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = defaultdict(list)
    for number in range(-1, 5):
        for name, clicker in sides.items() if number % 2 else reversed(sides.items()):
            values = await clicker.clicks(CLICKS)
            if number >= 0:
                found[name].append(median(values))
    return found


def _ack(name: str, found: dict[str, list[float]], side: str) -> Figure:
    shown = f" ({milliseconds(median(found[side]))} and {milliseconds(median(found['bare']))}; "
    ratio = paired(found[side], found["bare"])
    return at_most(name, ratio, 1.3, times, with_=f"{shown}rounds {spread(found[side], found['bare'])})")


async def _under_load(clicker: Clicker, runner: Subject) -> tuple[list[float], list[float]]:
    """Acks without and with turns running, in turns of their own."""
    idle: list[float] = []
    under: list[float] = []
    for _ in range(2):
        idle += await clicker.clicks(CLICKS)
        await runner.do("stream", n=RUNNING)
        try:
            under += await clicker.clicks(CLICKS)
        finally:
            await runner.do("stream", n=0)
        await asyncio.sleep(1.5)
    return idle, under


def _loaded(what: str, idle: list[float], under: list[float], counts: bool | None) -> Figure:
    before, after = percentile(idle, 0.99), percentile(under, 0.99)
    name, shown = f"ack p99 with {RUNNING} turns running against idle, {what}", f" ({before:.1f} and {after:.1f} ms)"
    if counts is None:
        return Figure(name, times(after / before) + shown)
    return at_most(name, after / before, 2.0, times, with_=shown)
