"""What tools give to people: kept with the call's record, shown once in Slack, fetched over REST by its owner."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import pytest
from aiohttp import web

from agent.approvals.policy import Rule
from agent.attachments import KEPT_DAYS, SESSION_LIMIT
from agent.endings import Endings
from agent.tools.attachments import attachment
from agent.tools.base import Outcome, ToolResult
from bot.client import web_client
from bot.payloads import Place
from bot.posting import Poster
from tests.fakes.rest import OPERATOR, client_of, door_over
from tests.fakes.slack import ALICE, BOB, OPS, FakeSlack
from tests.fakes.slack_floor import WITHIN_S, Looped, slack_door
from tests.integration.conftest import ADMIN, Floor, running

PNG = b"\x89PNG\r\n\x1a\n" + bytes(64)
PICTURE = attachment(PNG, name="cpu.png", media_type="image/png")
RESTART = '{{tool restart {"service": "web"}}}'
UPTIME = '{{tool uptime {"service": "web"}}}'
RECORDS = json.dumps([{"pod": "<!channel>", "state": "\u202eok"}, {"pod": "<@U0CAROL|x>", "state": ""}])


@dataclass
class Stage:
    """A thread in FakeSlack, the core behind it, and the loops that a test may kill."""

    floor: Floor
    slack: FakeSlack
    presenter: Looped

    def gives(self, name: str, result: ToolResult) -> None:
        async def effect(_args: Mapping[str, Any]) -> ToolResult:
            return result

        self.floor.tools[name].effect = effect

    async def approved(self, text: str = RESTART) -> str:
        """Ask for a call, have Bob approve it, and return the thread when its answer is there."""
        root = (await self.slack.say(ALICE, text))["ts"]
        card = await self.slack.card(OPS, root, timeout=WITHIN_S)
        await self.slack.click(BOB, OPS, card, "approval_approve")
        return await self.answered(root)

    async def asked(self, text: str) -> str:
        return await self.answered((await self.slack.say(ALICE, text))["ts"])

    async def answered(self, root: str) -> str:
        await self.slack.bot_message(OPS, root, containing="tools said:", timeout=WITHIN_S)
        return root

    def files(self, root: str) -> list[str]:
        return [file["name"] for message in self.slack.bot_says(OPS, root) for file in message.get("files", [])]

    def tables(self, root: str) -> list[Any]:
        blocks = [block for message in self.slack.bot_says(OPS, root) for block in message.get("blocks", [])]
        return [block for block in blocks if block["type"] == "table"]

    def content(self, name: str) -> bytes:
        return next(upload.content or b"" for upload in self.slack.uploads.values() if upload.name == name)


@pytest.fixture
async def stage(dsn: str) -> AsyncIterator[Stage]:
    async with (
        FakeSlack() as slack,
        running(dsn, approvers=(BOB,)) as floor,
        slack_door(slack, floor.service) as (presenter, _),
    ):
        yield Stage(floor, slack, presenter)


async def test_a_picture_of_an_approved_call_is_shared_once_and_the_model_hears_of_it_in_one_line(stage: Stage) -> None:
    stage.gives("restart", ToolResult("Here it is.", attachments=(PICTURE,)))
    root = await stage.approved()
    await stage.slack.until(lambda: stage.files(root), WITHIN_S, what="The picture")
    assert stage.files(root) == ["cpu.png"]
    assert stage.content("cpu.png") == PNG
    said = await stage.floor.sql("SELECT content FROM messages WHERE role = 'tool'")
    assert [row["content"] for row in said] == [
        "Here it is.\n[Shown to the people beside this: cpu.png (image/png, 72 bytes)]"
    ]
    assert stage.slack.refused == []


async def test_records_are_a_table_of_plain_cells_in_which_nothing_comes_alive(stage: Stage) -> None:
    stage.gives("restart", ToolResult(RECORDS))
    root = await stage.approved()
    (table,) = await stage.slack.until(lambda: stage.tables(root), WITHIN_S, what="The table")
    assert [[cell["text"] for cell in row] for row in table["rows"]] == [
        ["pod", "state"],
        ["<!channel>", "\\u202eok"],
        ["<@U0CAROL|x>", " "],
    ]
    assert {cell["type"] for row in table["rows"] for cell in row} == {"raw_text"}
    message = next(m for m in stage.slack.bot_says(OPS, root) if table in m.get("blocks", []))
    assert stage.slack.pings(message) == []
    assert stage.slack.refused == []


async def test_a_long_text_of_an_approved_call_is_offered_whole_as_a_file_and_a_short_one_is_not(stage: Stage) -> None:
    long = "\n".join(f"line {n:04}" for n in range(300))
    stage.gives("restart", ToolResult(long))
    root = await stage.approved()
    await stage.slack.until(lambda: stage.files(root), WITHIN_S, what="The text")
    assert stage.files(root) == ["restart.txt"]
    assert stage.content("restart.txt").decode() == long
    stage.gives("restart", ToolResult("short"))
    assert stage.files(await stage.approved()) == []


async def test_more_than_the_model_hears_is_in_the_file(stage: Stage) -> None:
    stage.gives("restart", ToolResult("\n".join(f"line {n:06}" for n in range(6_000))))
    root = await stage.approved()
    await stage.slack.until(lambda: stage.files(root), WITHIN_S, what="The text")
    assert b"line 005999" in stage.content("restart.txt")
    (said,) = await stage.floor.sql("SELECT content FROM messages WHERE role = 'tool'")
    assert "line 003500" not in said["content"]


async def test_automatic_calls_show_files_and_what_is_meant_for_people_and_nothing_else(stage: Stage) -> None:
    stage.gives("uptime", ToolResult("x\n" * 500))
    quiet = await stage.asked(UPTIME)
    stage.gives("uptime", ToolResult(RECORDS))
    also_quiet = await stage.asked(UPTIME)
    stage.gives("uptime", ToolResult("one", attachments=(PICTURE,)))
    picture = await stage.asked(UPTIME)
    stage.gives("uptime", ToolResult("All is well.", for_people=True))
    text = await stage.asked(UPTIME)
    stage.gives("uptime", ToolResult(RECORDS, for_people=True))
    table = await stage.asked(UPTIME)
    for root in (quiet, also_quiet):
        assert (len(stage.slack.bot_says(OPS, root)), stage.files(root), stage.tables(root)) == (1, [], [])
    assert stage.files(picture) == ["cpu.png"]
    assert any("All is well." in stage.slack.rendered(m) for m in stage.slack.bot_says(OPS, text)[:-1])
    assert len(stage.tables(table)) == 1


async def test_a_failed_call_shows_no_table_and_an_empty_one_no_file(stage: Stage) -> None:
    stage.gives("restart", ToolResult("it broke", Outcome.FAILED))
    root = await stage.approved()
    assert (stage.files(root), stage.tables(root)) == ([], [])


@pytest.mark.parametrize("at", ["files.getUploadURLExternal", "files.completeUploadExternal"])
async def test_a_file_is_shared_once_though_the_presenter_dies_in_between(stage: Stage, at: str) -> None:
    """Whoever made the call is gone before its answer came: nobody can know whether it had its effect."""
    stage.gives("restart", ToolResult("Here.", attachments=(PICTURE,)))
    stage.slack.slow[at] = 3.0
    root = (await stage.slack.say(ALICE, RESTART))["ts"]
    card = await stage.slack.card(OPS, root, timeout=WITHIN_S)
    await stage.slack.click(BOB, OPS, card, "approval_approve")
    await stage.slack.until(lambda: stage.slack.called(at), WITHIN_S, what=at)
    await stage.presenter.kill()
    await stage.slack.until(lambda: stage.slack.called(at)[0], WITHIN_S)
    stage.slack.slow[at] = 0.0
    await asyncio.sleep(0)
    stage.presenter.start()
    await stage.answered(root)
    assert stage.files(root) == ["cpu.png"]


async def test_a_share_whose_answer_is_lost_is_looked_for_and_not_repeated(stage: Stage) -> None:
    stage.gives("restart", ToolResult("Here.", attachments=(PICTURE,)))
    stage.slack.drop_response_after["files.completeUploadExternal"] = 1
    root = await stage.approved()
    assert stage.files(root) == ["cpu.png"]
    assert len(stage.slack.uploads) == 1


async def test_a_file_that_was_shared_and_deleted_before_anybody_recorded_it_is_not_shared_again(stage: Stage) -> None:
    """Slack knows the file's id no more; the one before us had shared it."""
    root = (await stage.slack.say(ALICE, RESTART))["ts"]
    await stage.slack.card(OPS, root, timeout=WITHIN_S)
    (session,) = await stage.floor.sql("SELECT session_id FROM user_sessions WHERE source = 'slack'")
    poster, place = (
        Poster(stage.floor.service, web_client(stage.slack.bot_token, stage.slack.api_url)),
        Place(OPS, root),
    )
    await stage.floor.service.begin_post(session["session_id"], "result:x", "")
    await stage.floor.service.record_post(session["session_id"], "result:x", {"sharing": "F0GONE"}, "")
    await poster.uploads.share(session["session_id"], place, "result:x", filename="a.txt", content=b"a")
    assert stage.files(root) == []
    done = await stage.floor.service.find_post(session["session_id"], "result:x")
    assert done.ref == {"file": "F0GONE"}


async def test_a_table_that_slack_refuses_becomes_a_file(stage: Stage) -> None:
    escaped = "\u202e" * 290
    stage.gives("restart", ToolResult(json.dumps([{"a": escaped} for _ in range(8)])))
    root = await stage.approved()
    await stage.slack.until(lambda: stage.files(root), WITHIN_S, what="The file")
    assert (stage.files(root), stage.tables(root)) == (["restart.csv"], [])


class Choosy(FakeSlack):
    """A Slack that takes no bytes."""

    async def serve_upload(self, request: web.Request) -> web.Response:
        return web.Response(status=413)


async def test_a_file_that_slack_refuses_is_told_of_and_holds_nothing_up(dsn: str) -> None:
    async with (
        Choosy() as slack,
        running(dsn, approvers=(BOB,)) as floor,
        slack_door(slack, floor.service) as (presenter, _),
    ):
        stage = Stage(floor, slack, presenter)
        stage.gives("restart", ToolResult("Here.", attachments=(PICTURE,)))
        root = await stage.approved()
        said = "\n".join(slack.rendered(message) for message in slack.bot_says(OPS, root))
        assert "Slack did not take the file cpu.png (upload_413)" in said
        assert stage.files(root) == []


async def test_the_card_says_before_anybody_approves_that_the_tool_is_unsandboxed(stage: Stage) -> None:
    stage.floor.tools.changed("restart", annotations={"unsandboxed": "files, network"})
    await stage.floor.core.publish_once(alone=True)
    root = (await stage.slack.say(ALICE, RESTART))["ts"]
    card = await stage.slack.card(OPS, root, timeout=WITHIN_S)
    assert "Unsandboxed: files, network not protected on this machine" in stage.slack.rendered(card)
    (opened,) = await stage.floor.sql("SELECT data FROM audit_log WHERE kind = 'approval.opened'")
    assert json.loads(opened["data"])["unsandboxed"] == "files, network"
    (found,) = (await stage.floor.service.list_approvals(by=ADMIN)).items
    assert found.unsandboxed == "files, network"
    plain = (await stage.slack.say(ALICE, '{{tool slow {"service": "web"}}}'))["ts"]
    assert "Unsandboxed" not in stage.slack.rendered(await stage.slack.card(OPS, plain, timeout=WITHIN_S))


async def given(floor: Floor, session_id: UUID, **result: Any) -> Any:
    """Run a call of the session that gives something, and return its turn as REST shows it."""

    async def effect(_args: Mapping[str, Any]) -> ToolResult:
        return ToolResult("ok", **result)

    floor.tools["uptime"].effect = effect
    return await floor.say(session_id, UPTIME)


async def test_over_rest_it_is_listed_with_the_turn_and_downloaded_by_its_owner_alone(floor: Floor) -> None:
    alice, bob = await floor.user("alice"), await floor.user("bob")
    session_id = await floor.session(by=alice)
    evil = attachment(b"<script>alert(1)</script>", name='a";\u202e<x>.html', media_type="text/html")
    view = await given(floor, session_id, attachments=(evil,))
    (shown,) = view.attachments
    path = f"/api/sessions/{session_id}/attachments/{shown.attachment_id}"
    async with client_of(door_over(floor.service), **OPERATOR) as api:
        turn = (await api.get(f"/api/sessions/{session_id}/turns/{view.turn.turn_id}")).json()
        assert turn["attachments"] == [
            {
                "attachment_id": str(shown.attachment_id),
                "kind": "file",
                "name": shown.name,
                "media_type": "text/html",
                "size": 25,
                "tool_call_id": shown.tool_call_id,
                "created_at": turn["attachments"][0]["created_at"],
            }
        ]
        answer = await api.get(path)
        assert (answer.status_code, answer.content) == (200, evil.content)
        assert answer.headers["content-type"].startswith("text/html")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-disposition"].startswith("attachment; filename*=UTF-8''a")
        assert "sandbox" in answer.headers["content-security-policy"]
        other = await floor.session(by=alice)
        for wrong in (f"/api/sessions/{other}/attachments/{shown.attachment_id}", path[:-36] + str(uuid4())):
            assert (await api.get(wrong)).status_code == 404
    _, content = await floor.service.read_attachment(session_id, shown.attachment_id, by=alice)
    assert content == evil.content
    with pytest.raises(Exception, match="no such session"):
        await floor.service.read_attachment(session_id, shown.attachment_id, by=bob)


async def test_it_goes_with_the_transcript_with_the_session_and_after_a_week(floor: Floor) -> None:
    async def left(session_id: UUID) -> int:
        (row,) = await floor.sql("SELECT count(*) AS n FROM attachments WHERE session_id = $1", session_id)
        return row["n"]

    cleared, deleted, old, young = [await floor.session() for _ in range(4)]
    for session_id in (cleared, deleted, old, young):
        await given(floor, session_id, attachments=(PICTURE,))
        assert await left(session_id) == 1
    await floor.service.clear_messages(cleared, by=ADMIN)
    await floor.service.delete_session(deleted, by=ADMIN)
    aged = "UPDATE attachments SET created_at = now() - make_interval(days => $2) WHERE session_id = $1"
    await floor.sql(aged, old, KEPT_DAYS + 1)
    await floor.sql(aged, young, KEPT_DAYS - 1)
    await Endings(floor.core.database).expire_attachments()
    assert [await left(session_id) for session_id in (cleared, deleted, old, young)] == [0, 0, 0, 1]


async def test_a_session_has_room_for_so_much_and_the_model_hears_what_was_not_kept(floor: Floor) -> None:
    session_id = await floor.session()
    await given(floor, session_id, attachments=(PICTURE,))
    await floor.sql("UPDATE attachments SET size = $2 WHERE session_id = $1", session_id, SESSION_LIMIT - 10)
    view = await given(floor, session_id, attachments=(PICTURE,))
    assert view.attachments == []
    assert "no room for more files" in (view.turn.reply or "")


async def test_an_approval_tells_what_its_call_gave(floor: Floor) -> None:
    async def effect(_args: Mapping[str, Any]) -> ToolResult:
        return ToolResult(RECORDS)

    floor.tools["restart"].effect = effect
    await floor.service.set_tool_approval(
        floor.tools["restart"].spec.tool_id, Rule(auto_execute=False, approval_required=True), by=ADMIN
    )
    sent = await floor.service.submit_message(await floor.session(), RESTART, by=ADMIN)
    view = await floor.parked(sent.turn.turn_id, 1)
    await floor.decide(view.pending_approvals[0])
    await floor.done(sent.turn.turn_id)
    approval = await floor.service.read_approval(view.pending_approvals[0].approval_id, by=ADMIN)
    assert [(shown.kind, shown.name) for shown in approval.attachments] == [("table", "restart.json")]
    shown, content = await floor.service.read_attachment(
        approval.session_id, approval.attachments[0].attachment_id, by=ADMIN
    )
    assert shown.media_type == "application/json"
    assert json.loads(content)["columns"] == ["pod", "state"]
