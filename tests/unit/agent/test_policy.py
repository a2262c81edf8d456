"""Which policy row counts for a call, and that nobody loosens it for themselves."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.approvals.policy import Row, Rule, Verdict, When, check, declared, groups_needed, rule_on
from agent.errors import Invalid

STRICTNESS = list(Verdict)
PRODUCTION = {"properties": {"env": {"const": "production"}}, "required": ["env"]}
STAGING = {"properties": {"env": {"const": "staging"}}, "required": ["env"]}
ANY = {"required": ["env"]}


def rule(verdict: str, **more: Any) -> Rule:
    return Rule(auto_execute=verdict == "auto", approval_required=verdict == "ask", **more)


def by_admin(verdict: str, **more: Any) -> Row:
    return Row(rule(verdict, **more))


def own(verdict: str, *, beneath: str | None = None, **more: Any) -> Row:
    return Row(rule(verdict, **more), by_admin=False, beneath=rule(beneath) if beneath else None)


@pytest.mark.parametrize(
    ("read_only", "default", "of_user", "verdict"),
    [
        (False, None, None, "ask"),
        (True, None, None, "auto"),
        (True, by_admin("ask"), None, "ask"),
        (False, by_admin("auto"), None, "auto"),
        (True, by_admin("deny"), None, "deny"),
        (False, by_admin("ask"), by_admin("auto"), "auto"),
        (False, by_admin("deny"), by_admin("auto"), "auto"),
        (False, by_admin("auto"), by_admin("ask"), "ask"),
        (False, by_admin("auto"), by_admin("deny"), "deny"),
        (True, None, by_admin("ask"), "ask"),
        (False, by_admin("auto"), own("ask"), "ask"),
        (False, by_admin("auto"), own("deny"), "deny"),
        (False, by_admin("ask"), own("auto"), "ask"),
        (False, by_admin("deny"), own("auto"), "deny"),
        (False, None, own("auto"), "ask"),
        (True, None, own("ask"), "ask"),
        (False, by_admin("auto"), own("auto", beneath="deny"), "deny"),
        (False, by_admin("deny"), own("ask", beneath="auto"), "ask"),
        (False, by_admin("deny"), own("auto", beneath="auto"), "auto"),
    ],
)
def test_which_row_counts(read_only: bool, default: Row | None, of_user: Row | None, verdict: str) -> None:
    ruling = rule_on({"env": "production"}, read_only=read_only, default=default, own=of_user)
    assert ruling.verdict == verdict


@pytest.mark.parametrize(
    ("flags", "when", "verdict"),
    [
        ("deny", [(PRODUCTION, "auto")], "auto"),
        ("auto", [(PRODUCTION, "ask")], "ask"),
        ("ask", [(STAGING, "auto")], "ask"),
        ("ask", [(PRODUCTION, "auto"), (ANY, "ask")], "ask"),
        ("ask", [(ANY, "auto"), (PRODUCTION, "deny")], "deny"),
        ("auto", [(PRODUCTION, "deny"), (ANY, "ask")], "deny"),
        ("deny", [(STAGING, "deny"), (ANY, "auto")], "auto"),
    ],
)
def test_a_matching_condition_beats_the_flags_and_the_strictest_of_several_counts(
    flags: str, when: list[tuple[dict[str, Any], Any]], verdict: str
) -> None:
    default = by_admin(flags, when=tuple(When(*condition) for condition in when))
    ruling = rule_on({"env": "production"}, read_only=False, default=default, own=None)
    assert ruling.verdict == verdict
    assert rule_on(None, read_only=False, default=default, own=None).verdict == flags


def test_a_users_own_conditions_can_tighten_but_not_loosen() -> None:
    default = by_admin("ask", when=(When(PRODUCTION, "deny"),))
    looser = own("auto", when=(When(PRODUCTION, "auto"),))
    assert rule_on({"env": "production"}, read_only=True, default=default, own=looser).verdict == "deny"
    stricter = own("ask", when=(When(STAGING, "deny"),))
    assert rule_on({"env": "staging"}, read_only=True, default=default, own=stricter).verdict == "deny"


def test_terms_come_from_the_row_that_counts_and_a_user_can_not_name_their_own_approvers() -> None:
    default = by_admin("ask", approvers=("U1OPS",), quorum=2, four_eyes=True, expires_in_s=600)
    mine = own("ask", approvers=("U9ME",), quorum=1, expires_in_s=60)
    ruling = rule_on({}, read_only=False, default=default, own=mine)
    assert (ruling.approvers, ruling.quorum, ruling.four_eyes, ruling.expires_in_s) == (("U1OPS",), 2, True, 60)


verdicts = st.sampled_from(["auto", "ask", "deny"])
conditions = st.builds(When, st.sampled_from([PRODUCTION, STAGING, ANY, {}]), verdicts)
rules = st.builds(
    lambda verdict, **more: rule(verdict, **more),
    verdicts,
    approvers=st.none() | st.lists(st.sampled_from(["U1A", "bob", "role:approver"]), max_size=2).map(tuple),
    quorum=st.none() | st.integers(1, 3),
    four_eyes=st.none() | st.booleans(),
    expires_in_s=st.none() | st.integers(1, 10**6),
    when=st.lists(conditions, max_size=3).map(tuple),
)
arguments = st.none() | st.fixed_dictionaries({}, optional={"env": st.sampled_from(["production", "staging", "dev"])})


@given(args=arguments, read_only=st.booleans(), default=st.none() | rules, mine=rules, beneath=st.none() | rules)
def test_an_own_row_never_makes_anything_looser(
    args: dict[str, Any] | None, read_only: bool, default: Rule | None, mine: Rule, beneath: Rule | None
) -> None:
    default_row = Row(default) if default else None
    without = rule_on(args, read_only=read_only, default=default_row, own=Row(beneath) if beneath else None)
    tightened = Row(mine, by_admin=False, beneath=beneath)
    ruling = rule_on(args, read_only=read_only, default=default_row, own=tightened)
    assert STRICTNESS.index(ruling.verdict) >= STRICTNESS.index(without.verdict)
    assert ruling.approvers == without.approvers
    assert ruling.quorum >= without.quorum
    assert ruling.four_eyes >= without.four_eyes
    assert ruling.expires_in_s <= without.expires_in_s


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (Rule(auto_execute=True, approval_required=True), "can't both be true"),
        (rule("ask", quorum=0), "quorum"),
        (rule("ask", expires_in_s=0), "expires_in_s"),
        (rule("ask", expires_in_s=10**9), "expires_in_s"),
        (rule("ask", when=(When({"type": "nonsense"}, "auto"),)), r"when\[0\]"),
        (rule("ask", when=(When({}, "auto"), When({"pattern": "(?=x)"}, "auto"))), r"when\[1\]"),
        (rule("ask", when=(When({"$ref": "https://example.com/schema"}, "auto"),)), r"when\[0\]"),
    ],
)
def test_a_row_that_can_not_be_meant_is_refused_with_the_reason(wrong: Rule, why: str) -> None:
    with pytest.raises(Invalid, match=why):
        check(wrong)


def test_nothing_configured_asks_unless_declared_read_only() -> None:
    assert declared(read_only=False) == rule("ask")
    assert declared(read_only=True) == rule("auto")


def test_only_ids_of_user_groups_are_asked_for() -> None:
    assert groups_needed(["S0123ABC", "U0123ABC", "SAM", "s0123abc", "role:approver", "S9OPS"]) == ["S0123ABC", "S9OPS"]
