"""An explanation is the ruling itself, told: whose rule decides, by which condition, and what does not count."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.approvals.conditions import When
from agent.approvals.policy import Row, Rule, Scope, Verdict, declared, explain, rule_on
from agent.approvals.reasons import reasons
from agent.approvals.types import Door
from tests.unit.agent.test_policy import (
    ANY,
    PRODUCTION,
    STAGING,
    STRICTNESS,
    arguments,
    by_admin,
    conditions,
    own,
    rule,
)

doors = st.none() | st.lists(st.sampled_from(list(Door)), min_size=1, unique=True).map(tuple)
rules = st.builds(
    lambda verdict, **more: rule(verdict, **more),
    st.sampled_from(["auto", "ask", "deny"]),
    quorum=st.none() | st.integers(1, 3),
    doors=doors,
    fresh_login_s=st.none() | st.integers(1, 3600),
    when=st.lists(conditions, max_size=4).map(tuple),
)
rows = st.none() | st.builds(Row, rules, by_admin=st.just(True))
own_rows = rows | st.builds(Row, rules, by_admin=st.just(False), beneath=st.none() | rules)


def said(of: Rule, args: dict[str, Any] | None) -> Verdict:
    """What one rule says, in the words of the contract; every condition used here only looks at `env`."""
    fits = {
        str(PRODUCTION): lambda a: a.get("env") == "production",
        str(STAGING): lambda a: a.get("env") == "staging",
        str(ANY): lambda a: "env" in a,
        str({}): lambda _: True,
    }
    found = [w.decision for w in of.when if args is not None and fits[str(w.args)](args)]
    for word in ("deny", "ask", "auto"):
        if word in found:
            return Verdict(word)
    return Verdict.AUTO if of.auto_execute else Verdict.ASK if of.approval_required else Verdict.DENY


@given(args=arguments, read_only=st.booleans(), default=rows, mine=own_rows)
def test_what_is_explained_is_what_counts(
    args: dict[str, Any] | None, read_only: bool, default: Row | None, mine: Row | None
) -> None:
    there = {"read_only": read_only, "default": default, "own": mine}
    found = explain(args, **there)
    assert found.ruling == rule_on(args, **there)
    base = default.rule if default else declared(read_only=read_only)
    if mine is None:
        expected = said(base, args)
    elif mine.by_admin:
        expected = said(mine.rule, args)
    else:
        expected = max(said(mine.rule, args), said(mine.beneath or base, args), key=STRICTNESS.index)
    assert found.ruling.verdict == expected
    look = found.decided_by
    assert look in found.counted
    assert look.verdict == expected
    if look.deciding is not None:
        assert look.rule.when[look.deciding].decision == expected
    assert {look.scope for look in found.counted}.isdisjoint(found.passed_over)
    assert all(sentence.endswith(".") for sentence in reasons(found))


@given(args=arguments, default=rows, mine=rules, beneath=st.none() | rules)
def test_an_own_row_opens_no_door_and_asks_for_no_older_login(
    args: dict[str, Any] | None, default: Row | None, mine: Rule, beneath: Rule | None
) -> None:
    without = rule_on(args, read_only=False, default=default, own=Row(beneath) if beneath else None)
    ruling = rule_on(args, read_only=False, default=default, own=Row(mine, by_admin=False, beneath=beneath))
    if without.doors is not None:
        assert ruling.doors is not None
        assert set(ruling.doors) <= set(without.doors)
    if without.fresh_login_s is not None:
        assert ruling.fresh_login_s is not None
        assert ruling.fresh_login_s <= without.fresh_login_s


@pytest.mark.parametrize(
    ("default", "mine", "scope", "when"),
    [
        (None, None, Scope.DECLARATION, None),
        (by_admin("ask"), None, Scope.DEFAULT, None),
        (by_admin("ask", when=(When(STAGING, "auto"), When(ANY, "deny"))), None, Scope.DEFAULT, 1),
        (by_admin("ask"), by_admin("auto"), Scope.USER_BY_ADMIN, None),
        (by_admin("auto"), own("ask"), Scope.OWN, None),
        (by_admin("ask"), own("auto"), Scope.DEFAULT, None),
        (by_admin("ask"), own("ask"), Scope.DEFAULT, None),
        (by_admin("auto"), own("ask", beneath="deny"), Scope.USER_BY_ADMIN, None),
        (by_admin("auto"), own("auto", when=(When(PRODUCTION, "deny"),)), Scope.OWN, 0),
    ],
)
def test_the_rule_that_decides_is_named(default: Row | None, mine: Row | None, scope: Scope, when: int | None) -> None:
    found = explain({"env": "production"}, read_only=False, default=default, own=mine)
    assert (found.decided_by.scope, found.decided_by.deciding) == (scope, when)


def test_the_reasons_stand_in_the_order_of_precedence_and_say_what_does_not_count() -> None:
    default = by_admin("ask", quorum=2, when=(When(PRODUCTION, "deny"), When(ANY, "ask")))
    said_of_default = reasons(explain({"env": "production"}, read_only=True, default=default, own=None))
    assert said_of_default == (
        'The tool\'s default row says deny: the arguments fit its condition when[0], {"properties": {"env": {"const": '
        '"production"}}, "required": ["env"]}; when[1] (ask) match too, and deny beats ask beats auto.',
        "The tool's declaration does not count: the tool's default row stands before it.",
    )
    tightened = own("ask", doors=(Door.WEB,), fresh_login_s=300)
    found = reasons(explain({}, read_only=True, default=by_admin("auto"), own=tightened))
    assert found[0] == "The user's own row says ask: approval_required is true."
    assert found[1] == "The tool's default row says auto: auto_execute is true."
    assert "can only tighten" in found[2]
    assert "declaration does not count" in found[3]
    assert "in the web console" in found[4]
    assert "within the last 5 minutes" in found[4]
