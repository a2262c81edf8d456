"""The OpenAPI document lists every call, each with its key, its problems and a name of its own."""

from typing import Any

import httpx
import pytest

CALLS = """
POST /api/sessions
GET /api/sessions
GET /api/sessions/{session_id}
DELETE /api/sessions/{session_id}
POST /api/sessions/{session_id}/execute
GET /api/sessions/{session_id}/turns/{turn_id}
POST /api/sessions/{session_id}/cancel
GET /api/sessions/{session_id}/messages
DELETE /api/sessions/{session_id}/messages
GET /api/tools
GET /api/tools/{tool_id}
PUT /api/tools/{tool_id}/approval
GET /api/tools/pending-approvals
POST /api/tools/approvals/{approval_id}/approve
POST /api/tools/approvals/{approval_id}/reject
POST /api/approvals
GET /api/approvals
GET /api/approvals/{approval_id}
POST /api/approvals/{approval_id}/approve
POST /api/approvals/{approval_id}/reject
POST /api/approvals/batch
POST /api/approvals/{approval_id}/withdraw
POST /api/approvals/{approval_id}/cancel
POST /api/approvals/{approval_id}/extend
POST /api/approvals/{approval_id}/reassign
POST /api/approvals/{approval_id}/resolve
POST /api/users
POST /api/users/login
POST /api/users/logout
GET /api/users/profile
PUT /api/users/profile
POST /api/users/profile/link
POST /api/users/profile/link/confirm
GET /api/users
PATCH /api/users/{user_id}
POST /api/users/{user_id}/link
GET /api/tokens
POST /api/tokens
DELETE /api/tokens/{token_id}
POST /api/mcp-servers/{server_id}/oauth/start
GET /api/audit
GET /api/audit/verify
GET /healthz
GET /readyz
GET /metrics
""".strip().splitlines()


# A login has no key yet, and making an account takes no id that could be unknown.
OPEN = {"login", "create_user"}


@pytest.fixture
async def document(anyone: httpx.AsyncClient) -> dict[str, Any]:
    return (await anyone.get("/openapi.json")).json()


def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {f"{m.upper()} {path}": call for path, calls in document["paths"].items() for m, call in calls.items()}


def test_every_call_is_listed_with_summary_and_tag(document: dict[str, Any]) -> None:
    found = operations(document)
    assert set(CALLS) <= set(found)
    for name, call in found.items():
        assert call["summary"], name
        assert call["tags"], name
    ids = [call["operationId"] for call in found.values()]
    assert len(set(ids)) == len(ids)
    assert all(operation.isidentifier() and "__" not in operation for operation in ids)


def test_every_call_of_the_api_names_its_keys_and_its_problems(document: dict[str, Any]) -> None:
    for name, call in operations(document).items():
        if "/api/" not in name or call["operationId"] in OPEN:
            continue
        assert {"bearer", "api_key"} <= {scheme for way in call["security"] for scheme in way}, name
        for status in ("401", "403", "404", "422"):
            content = call["responses"][status]["content"]
            assert content == {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}, name
    assert document["components"]["schemas"]["Problem"]["required"] == ["title", "status", "code", "detail"]
    at = document["components"]["schemas"]["ApprovalOut"]["properties"]["created_at"]
    assert (at["type"], at["format"]) == ("string", "date-time")
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    def references(node: Any) -> set[str]:
        if isinstance(node, list):
            return set().union(*(references(item) for item in node), set())
        if not isinstance(node, dict):
            return set()
        own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return own.union(*(references(value) for value in node.values()), set())

    found = references(document)
    assert found
    known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert found <= known


async def test_the_title_is_ours_and_no_page_loads_from_elsewhere(
    document: dict[str, Any], anyone: httpx.AsyncClient
) -> None:
    assert document["info"]["title"] == "opsagent"
    for path in ("/docs", "/redoc"):
        assert (await anyone.get(path)).status_code == 404
