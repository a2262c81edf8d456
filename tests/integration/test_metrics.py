"""What operators' monitoring reads: figures without names, also while the database is away."""

from uuid import uuid4

import httpx
from prometheus_client.parser import text_string_to_metric_families
from pytest_mock import MockerFixture

from tests.fakes.rest import OPERATOR, client_of, door_over
from tests.integration.conftest import ADMIN, Floor

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


async def scraped(api: httpx.AsyncClient) -> tuple[Series, str]:
    answer = await api.get("/metrics", headers={"X-API-Key": ""})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    samples = [sample for family in text_string_to_metric_families(answer.text) for sample in family.samples]
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in samples}, answer.text


def labels(**found: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(found.items()))


async def test_what_waits_and_what_was_answered_is_counted_without_a_key_or_a_name(floor: Floor) -> None:
    session_id = await floor.session()
    await floor.say(session_id, '{{tool restart {"service": "obviously-secret"}}}')
    await floor.user("somebody-here")
    async with client_of(door_over(floor.service), **OPERATOR) as api:
        assert (await api.get(f"/api/sessions/{session_id}")).status_code == 200
        assert (await api.get(f"/api/sessions/{uuid4()}")).status_code == 404
        assert (await api.get("/wp-admin.php")).status_code == 404
        await api.request("BREW", "/coffee")
        found, text = await scraped(api)
    assert found["opsagent_database_up", ()] == 1
    assert found["opsagent_turns", labels(status="awaiting_approval")] == 1
    assert found["opsagent_turns", labels(status="queued")] == 0
    assert found["opsagent_approvals_pending", ()] == 1
    assert found["opsagent_approvals_oldest_seconds", ()] > 0
    assert found["opsagent_events_total", labels(kind="approval.opened")] == 1
    assert found["opsagent_pool_acquired_total", ()] > 0
    assert found["opsagent_mcp_servers", labels(connected="true")] == 0
    answered = "opsagent_http_request_seconds_count"
    route = "/api/sessions/{session_id}"
    assert found[answered, labels(method="GET", route=route, status="200")] == 1
    assert found[answered, labels(method="GET", route=route, status="404")] == 1
    assert found[answered, labels(method="GET", route="other", status="404")] == 1
    assert {dict(key[1])["method"] for key in found if key[0] == answered} == {"GET", "other"}
    for hidden in (str(session_id), "obviously-secret", "somebody-here", "wp-admin", "BREW", "api-key"):
        assert hidden not in text


async def test_a_database_that_is_away_is_told_not_failed_with(floor: Floor, mocker: MockerFixture) -> None:
    mocker.patch.object(floor.service, "read_figures", side_effect=OSError("gone"))
    async with client_of(door_over(floor.service), **OPERATOR) as api:
        found, _ = await scraped(api)
    assert found["opsagent_database_up", ()] == 0
    assert not any(name == "opsagent_turns" for name, _ in found)
    assert any(name == "python_info" for name, _ in found)


async def test_however_often_it_is_asked_the_database_is_asked_rarely(floor: Floor, mocker: MockerFixture) -> None:
    read = mocker.spy(floor.service, "read_figures")
    mocker.patch("api.metrics.FRESH_S", 3600.0)
    await floor.service.create_session(by=ADMIN)
    async with client_of(door_over(floor.service), **OPERATOR) as api:
        for _ in range(5):
            await scraped(api)
    assert read.call_count == 1
