"""The Slack app's manifest: what Slack accepts, and no scope or event without its counterpart."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "manifest.yml").read_text())


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return json.loads((ROOT / "tests/fakes/slack-manifest.schema.json").read_text())


def test_slacks_own_schema_accepts_the_manifest(manifest: dict[str, Any], schema: dict[str, Any]) -> None:
    jsonschema.Draft7Validator(schema).validate(manifest)


def test_the_schema_would_refuse_a_wrong_one(manifest: dict[str, Any], schema: dict[str, Any]) -> None:
    wrong = {**manifest, "features": {**manifest["features"], "agent_view": {"agent_description": "x" * 301}}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(schema).validate(wrong)


def test_it_starts_in_socket_mode_as_an_agent_people_can_write_to(manifest: dict[str, Any]) -> None:
    assert manifest["settings"]["socket_mode_enabled"] is True
    assert manifest["settings"]["interactivity"]["is_enabled"] is True
    assert manifest["features"]["app_home"]["messages_tab_enabled"] is True
    assert manifest["features"]["app_home"]["messages_tab_read_only_enabled"] is False
    assert "assistant:write" in manifest["oauth_config"]["scopes"]["bot"]
