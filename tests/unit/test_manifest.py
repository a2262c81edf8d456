"""The Slack app that manifest.yml makes is the one that bot/ needs: no scope or event too few, none too many."""

import ast
import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from slack_sdk.web.async_client import AsyncWebClient

from bot import payloads
from bot.check import NEEDED_SCOPES
from tests.fakes.slack_api import METHOD_SCOPES

ROOT = Path(__file__).parents[2]
KINDS = ("channels", "groups", "im", "mpim")
# What neither a method's name nor an event's tells.
FOR_FEATURES = {"agent_view": {"assistant:write"}}
# Approvers are members of channels, never of direct messages.
FOR_CHANNELS_ONLY = {"conversations.members": {"channels:read", "groups:read"}}
FOR_FIELDS = {"users.info": {"users:read.email"}}
FOR_EVENTS = {"app_mention": {"app_mentions:read"}} | {f"message.{kind}": {f"{kind}:history"} for kind in KINDS}


@pytest.fixture(scope="module")
def manifest():
    return yaml.safe_load((ROOT / "manifest.yml").read_text())


def calls():
    """The names of all Web API methods called in bot/, as the client spells them."""
    trees = [ast.parse(path.read_text()) for path in (ROOT / "bot").rglob("*.py")]
    names = {
        node.func.attr
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    own = {n for n in names if "_" in n.strip("_") and not n.startswith("_") and n != "api_call"}
    return {name for name in own if hasattr(AsyncWebClient, name)}


def methods():
    """The Web API methods, as Slack spells them."""
    spelled = {method.replace(".", "_"): method for method in METHOD_SCOPES}
    return {spelled.get(name, name) for name in calls()}


def scopes_of(method):
    if method in FOR_CHANNELS_ONLY:
        return FOR_CHANNELS_ONLY[method]
    scope = METHOD_SCOPES[method]
    wanted = {scope.replace("*", kind) for kind in KINDS} if scope and "*" in scope else {scope} - {None}
    return wanted | FOR_FIELDS.get(method, set())


def events_heard():
    kinds = {f"message.{kind}" for kind in KINDS}
    named = {*payloads.MESSAGE_EVENTS, payloads.STOP_EVENT, *payloads.FAREWELLS}
    return (named - {"message"}) | kinds


def test_the_scan_finds_the_calls_that_are_there():
    assert {"chat.postMessage", "chat.update", "views.open", "users.info", "files.completeUploadExternal"} <= methods()


def test_what_every_called_method_needs_is_known():
    assert methods() - METHOD_SCOPES.keys() == set()


def test_each_scope_is_needed_and_each_needed_scope_is_there(manifest):
    needed = {scope for method in methods() for scope in scopes_of(method)}
    needed |= {scope for event in events_heard() for scope in FOR_EVENTS.get(event, set())}
    needed |= {s for feature in FOR_FEATURES.keys() & manifest["features"].keys() for s in FOR_FEATURES[feature]}
    assert sorted(manifest["oauth_config"]["scopes"]["bot"]) == sorted(needed)


def test_each_event_is_heard_and_each_heard_event_is_subscribed(manifest):
    assert sorted(manifest["settings"]["event_subscriptions"]["bot_events"]) == sorted(events_heard())


def test_the_scopes_that_the_token_is_checked_for_are_the_manifests(manifest):
    assert sorted(manifest["oauth_config"]["scopes"]["bot"]) == sorted(NEEDED_SCOPES)


def test_buttons_work_and_direct_messages_can_be_written(manifest):
    assert manifest["settings"]["interactivity"]["is_enabled"] is True
    assert manifest["features"]["app_home"]["messages_tab_enabled"] is True
    assert manifest["features"]["app_home"]["messages_tab_read_only_enabled"] is False


def test_slack_takes_the_manifest(manifest):
    schema = json.loads((ROOT / "tests/fakes/slack-manifest.schema.json").read_text())
    jsonschema.Draft7Validator(schema).validate(manifest)
