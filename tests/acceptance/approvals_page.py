"""The cards in docs/approvals.md: a real core, the real Slack door, and people who press what FakeSlack shows them."""

import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from agent.approvals.policy import Rule
from agent.approvals.types import Approval, Door
from agent.tools.base import Outcome, Source, ToolResult, ToolSpec, schema_hash, tool_id
from bot import payloads
from bot.client import web_client
from bot.directory import SlackGroups, SlackProfiles
from tests.fakes.counting_tools import CountingTool, CountingTools
from tests.fakes.slack import ALICE, BOB, CAROL, OPS, SRE, FakeSlack
from tests.fakes.slack_floor import WITHIN_S, slack_door
from tests.integration.conftest import ADMIN, Floor, running

Json = dict[str, Any]
Card = list[Json] | Json
"""A message's blocks, or a modal."""

DEPLOY = {
    "type": "object",
    "properties": {
        "service": {"type": "string"},
        "version": {"type": "string", "description": "A tag of the registry."},
        "replicas": {"type": "integer", "minimum": 1, "maximum": 20},
        "strategy": {"enum": ["rolling", "blue-green"]},
    },
    "required": ["service", "version"],
    "additionalProperties": False,
}
_SHOP = '{{tool deploy {"service": "shop", "version": "v2.4.1", "replicas": 4}}}'
_RESTART = '{{tool restart {"service": "%s"}}}'
_ASKS = Rule(auto_execute=False, approval_required=True)
_TWO = Rule(auto_execute=False, approval_required=True, approvers=(BOB, CAROL), quorum=2, four_eyes=True)
_LADDER = Rule(
    auto_execute=False,
    approval_required=True,
    approvers=(BOB,),
    remind_after_s=900,
    escalate_after_s=1800,
    escalate_to=(CAROL, SRE),
)
_CONSOLE = Rule(auto_execute=False, approval_required=True, doors=(Door.WEB,), fresh_login_s=300)


class Scene:
    """A workspace with its core, and what the people in it do; `cards` keeps what they saw, by name."""

    def __init__(self, floor: Floor, slack: FakeSlack) -> None:
        self.floor = floor
        self.slack = slack
        self.cards: dict[str, Card] = {}
        self._saw = 0

    async def rule(self, tool: str, rule: Rule) -> None:
        await self.floor.service.set_tool_approval(self.floor.tools[tool].spec.tool_id, rule, by=ADMIN)

    async def ask(self, *calls: str) -> tuple[Json, Approval]:
        """Have Alice ask for calls; return the message with the card, and its last approval."""
        said = await self.slack.say(ALICE, " ".join(calls))
        root = said["ts"]
        card = await self.slack.card(OPS, root, action=payloads.REJECT, timeout=WITHIN_S)
        if len(calls) > 1:
            card = await self.slack.card(OPS, root, action=payloads.APPROVE_ALL, timeout=WITHIN_S)
        return card, await self._approval(card)

    async def _approval(self, card: Json) -> Approval:
        approval_id = UUID(self.slack.buttons(card)[payloads.REJECT]["value"])
        return await self.floor.service.read_approval(approval_id, by=ADMIN)

    async def read(self, card: Json, containing: str) -> Json:
        """Return the message as it stands once a person reads this on it."""

        def found() -> Json | None:
            now = self.slack.find(OPS, card["ts"])
            return now if now and containing in self.slack.rendered(now) else None

        return await self.slack.until(found, WITHIN_S, what=f"A card with {containing!r}")

    async def keep(self, name: str, card: Json, containing: str) -> None:
        """Keep a message's blocks once a person reads this on it."""
        self.cards[name] = [_own(block) for block in (await self.read(card, containing))["blocks"]]

    async def keep_message(self, name: str, card: Json, containing: str) -> None:
        """Keep the blocks of another message in a card's thread."""
        said = await self.slack.bot_message(OPS, card["thread_ts"], containing=containing, timeout=WITHIN_S)
        await self.keep(name, said, containing)

    async def keep_whisper(self, name: str, containing: str) -> None:
        """Keep what one person alone was told."""
        told = lambda: next((m for m in self.slack.ephemerals if containing in self.slack.rendered(m)), None)  # noqa: E731
        found = await self.slack.until(told, WITHIN_S, what=f"A word with {containing!r}")
        self.cards[name] = [_own(block) for block in found["blocks"]]

    async def open(self, name: str, user: str, card: Json, action: str) -> Json:
        """Press the button, or take the choice of the menu, that opens a form; keep the form, and return it."""
        if action in self.slack.buttons(await self.read(card, "")):
            await self.click(user, card, action)
        else:
            await self.choose(user, card, action)
        view = await self.slack.until(lambda: self.slack.screen(user), WITHIN_S, what=f"The form {name}")
        shown = {key: view[key] for key in _OF_A_VIEW if key in view}
        self.cards[name] = {**shown, "blocks": [_own(block) for block in view["blocks"]]}
        return view

    async def click(self, user: str, card: Json, action: str) -> None:
        await self.slack.click(user, OPS, card["ts"], action)

    async def choose(self, user: str, card: Json, label: str) -> None:
        await self.slack.choose(user, OPS, await self.read(card, ""), label)


_SLACKS_NAME = re.compile(r"[a-z]+0\d{7}")
_OF_A_VIEW = ("type", "callback_id", "private_metadata", "title", "submit", "close")


def _own(block: Json) -> Json:
    """A block as it was sent: Slack names those that have no name."""
    return {key: value for key, value in block.items() if key != "block_id" or not _SLACKS_NAME.fullmatch(value)}


async def _would(_args: Mapping[str, Any]) -> ToolResult:
    return ToolResult("would repeat 3 jobs of web:\n  backup\n  index\n  mail")


class _Tools(CountingTools):
    """`deploy` beside the others: it has arguments worth editing. `repeat` says what it would do."""

    def __init__(self) -> None:
        super().__init__()
        spec = ToolSpec(
            tool_id=tool_id(Source.CUSTOM, None, "deploy"),
            name="deploy",
            original_name="deploy",
            description="deploy a service",
            source=Source.CUSTOM,
            server=None,
            input_schema=DEPLOY,
            schema_hash=schema_hash("deploy", "deploy a service", DEPLOY),
        )
        self._tools["deploy"] = CountingTool(spec, self.effects)
        self.with_preview("repeat").says = _would


@asynccontextmanager
async def scene(dsn: str) -> AsyncIterator[Scene]:
    async with FakeSlack() as slack:
        client = web_client(slack.bot_token, slack.api_url)
        directory = {"groups": SlackGroups(client), "profiles": SlackProfiles(client)}
        async with (
            running(dsn, tools=_Tools(), approvers=(BOB, CAROL), **directory) as floor,
            slack_door(slack, floor.service),
        ):
            for user in (BOB, CAROL):  # their names are known once they have said something
                said = await slack.say(user, "hello")
                await slack.bot_message(OPS, said["ts"], containing="answer 1", timeout=WITHIN_S)
            yield Scene(floor, slack)


async def cards(dsn: str) -> dict[str, Card]:
    """Act all that the page tells, and return what people saw: nothing in it changes from run to run."""
    async with scene(dsn) as scene_:
        for act in (_previewed, _decided, _rejected, _together, _elsewhere, _remembered, _waited_for, _ended, _unknown):
            await act(scene_)
        return {name: _steady(card) for name, card in scene_.cards.items()}


async def _previewed(scene: Scene) -> None:
    card, _ = await scene.ask('{{tool repeat {"service": "web"}}}')
    await scene.keep("preview", card, "would repeat 3 jobs")


async def _decided(scene: Scene) -> None:
    await scene.rule("deploy", _TWO)
    card, _ = await scene.ask(_SHOP)
    await scene.keep("pending", card, "0 of 2 approvals")
    await scene.click(ALICE, card, payloads.APPROVE)
    await scene.keep_whisper("refused", "You may not")
    await scene.click(BOB, card, payloads.APPROVE)
    await scene.read(card, "1 of 2 approvals")
    await scene.choose(BOB, card, "Take back my vote")
    await scene.read(card, "0 of 2 approvals")
    await scene.click(BOB, card, payloads.APPROVE)
    await scene.read(card, "1 of 2 approvals")
    form = await scene.open("edit", CAROL, card, payloads.EDIT)
    replicas = next(b["block_id"] for b in form["blocks"] if b.get("label", {}).get("text") == "replicas")
    await scene.slack.submit(CAROL, form, {replicas: "2"})
    await scene.keep("edited", card, "now: 2")
    await scene.click(BOB, card, payloads.APPROVE)
    await scene.keep("approved", card, "deployed shop")


async def _rejected(scene: Scene) -> None:
    card, _ = await scene.ask(_RESTART % "db")
    form = await scene.open("reject", BOB, card, payloads.REJECT_REASON)
    said = {
        payloads.REASON_FIELD: "db has no replica then.",
        payloads.INSTEAD_FIELD: "Fail over first, then restart db.",
    }
    await scene.slack.submit(BOB, form, said)
    await scene.keep("rejected", card, "db has no replica then.")
    await scene.keep_message("instead", card, "wants this instead")


async def _together(scene: Scene) -> None:
    await scene.rule("restart", _ASKS)
    card, _ = await scene.ask(_RESTART % "web", _RESTART % "worker")
    await scene.keep("several", card, "2 waiting for approval")
    await scene.click(BOB, card, payloads.APPROVE_ALL)
    await scene.read(card, "restarted worker")


async def _elsewhere(scene: Scene) -> None:
    await scene.rule("restart", _CONSOLE)
    card, _ = await scene.ask(_RESTART % "vault")
    await scene.keep("elsewhere", card, "may be approved only")
    await scene.choose(ALICE, card, "Cancel my request")
    await scene.keep("cancelled", card, "Cancelled by")
    await scene.rule("restart", _ASKS)


async def _remembered(scene: Scene) -> None:
    card, _ = await scene.ask(_RESTART % "cache")
    form = await scene.open("remember", BOB, card, "Approve and don't ask again…")
    await scene.slack.submit(BOB, form)
    await scene.keep("remembered", card, "restarted cache")
    root = card["thread_ts"]
    await scene.slack.say(ALICE, _RESTART % "cache", thread_ts=root)
    spared = await scene.slack.bot_message(OPS, root, containing="Not asked again", timeout=WITHIN_S)
    await scene.keep("spared", spared, "restarted cache")


async def _waited_for(scene: Scene) -> None:
    await scene.rule("restart", _LADDER)
    card, _ = await scene.ask(_RESTART % "queue")
    for seconds, name, words in ((900, "reminded", "still waits"), (900, "escalated", "so you are asked now")):
        back = f"interval '{seconds} s'"
        await scene.floor.sql(
            f"UPDATE approvals SET remind_at = remind_at - {back}, escalate_at = escalate_at - {back}"
        )
        await scene.keep_message(name, card, words)
    form = await scene.open("extend", BOB, card, "More time…")
    await scene.slack.submit(BOB, form, {payloads.TIME_FIELD: "604800"})
    form = await scene.open("reassign", BOB, card, "Have others decide…")
    await scene.slack.submit(BOB, form, {payloads.PEOPLE_FIELD: [CAROL]})
    await scene.keep_message("reassigned", card, "handed")
    await scene.click(CAROL, card, payloads.REJECT)
    await scene.rule("restart", _ASKS)


async def _ended(scene: Scene) -> None:
    card, approval = await scene.ask(_RESTART % "mail")
    await scene.floor.sql("UPDATE approvals SET expires_at = now() WHERE approval_id = $1", approval.approval_id)
    await scene.keep("expired", card, "Expired")


async def _unknown(scene: Scene) -> None:
    async def vanish(_args: Mapping[str, Any]) -> ToolResult:
        return ToolResult("no answer came", Outcome.UNKNOWN)

    scene.floor.tools["restart"].effect = vanish
    card, _ = await scene.ask(_RESTART % "ldap")
    await scene.click(BOB, card, payloads.APPROVE)
    await scene.keep("unknown", card, "Nobody can tell")
    scene.floor.tools["restart"].effect = None
    form = await scene.open("resolve", BOB, card, payloads.MARK_DONE)
    said = {payloads.RESULT_FIELD: "ldap is up since 13:52.", payloads.REASON_FIELD: "Looked at it."}
    await scene.slack.submit(BOB, form, said)
    await scene.keep("resolved", card, "said that it was done")
    await scene.keep_message("resolved-news", card, "whose outcome was unknown")


_DATE = re.compile(r"<!date\^\d+\^([^|]+)\|[^>]+>")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def _steady(card: Card) -> Card:
    """The same card with ids and times that are the same each time: the ids counted, all times one."""
    said = _DATE.sub(r"<!date^1795442400^\1|2026-11-23 14:00 UTC>", json.dumps(card))
    ids = list(dict.fromkeys(_UUID.findall(said)))
    for number, found in enumerate(ids, start=1):
        said = said.replace(found, f"00000000-0000-4000-8000-{number:012}")
    return json.loads(said)


def written(card: Card) -> str:
    """Return the card as the page has it: JSON, a line for each block."""
    if isinstance(card, list):
        return "[" + ",\n ".join(_line(block) for block in card) + "]"
    head = _line({key: value for key, value in card.items() if key != "blocks"})
    return f'{head[:-1]},\n "blocks": [\n  ' + ",\n  ".join(_line(block) for block in card["blocks"]) + "]}"


def _line(part: Any) -> str:
    return json.dumps(part, ensure_ascii=False)


CARD = re.compile(r"<!-- card: ([\w-]+) -->\n.*?<!-- /card -->", re.DOTALL)
JSON = re.compile(r"```json\n(.*?)\n```", re.DOTALL)


def filled(page: str, cards: Mapping[str, Card]) -> str:
    """Return the page with each card as it is now between its markers."""

    def one(found: re.Match[str]) -> str:
        return f"<!-- card: {found[1]} -->\n```json\n{written(cards[found[1]])}\n```\n<!-- /card -->"

    return CARD.sub(one, page)
