"""Pure: through which doors a call may be approved, and how lately its approver must have entered a password."""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Protocol

from agent.approvals.types import Approval, Decision, Door, FreshLoginNeeded, WrongDoor

LONGEST_LOGIN_S = 24 * 3600
_PLACES = {
    Door.SLACK: "in Slack",
    Door.API: "over REST",
    Door.WEB: "in the web console",
    Door.CLI: "on the command line",
}
_STILL = "It can be rejected from everywhere."
_WITH_PASSWORDS = (Door.API, Door.WEB)


class Terms(Protocol):
    """What a rule, a ruling and an approval say of it."""

    @property
    def doors(self) -> tuple[Door, ...] | None: ...

    @property
    def fresh_login_s(self) -> int | None: ...


def problem(terms: Terms) -> str | None:
    """Return why a rule can't say this, or None."""
    if terms.doors is not None and not terms.doors:
        return "doors must name one door at least; null means every door."
    if terms.fresh_login_s is None:
        return None
    if not 1 <= terms.fresh_login_s <= LONGEST_LOGIN_S:
        return f"fresh_login_s must lie between 1 and {LONGEST_LOGIN_S} (a day)."
    if not _usable(terms):
        return "fresh_login_s needs the door api or web: nobody enters a password elsewhere."
    return None


def both(one: Collection[Door] | None, other: Collection[Door] | None) -> tuple[Door, ...] | None:
    """Return the doors that both allow; where that is none, nobody can approve."""
    if one is None or other is None:
        kept = other if one is None else one
        return None if kept is None else tuple(kept)
    return tuple(door for door in one if door in other)


def sooner(one: int | None, other: int | None) -> int | None:
    """Return the stricter of two limits; None is none."""
    return min((limit for limit in (one, other) if limit is not None), default=None)


def check(
    approval: Approval, decision: Decision, *, door: Door | None, login_at: datetime | None, at: datetime
) -> None:
    """Raise WrongDoor or FreshLoginNeeded, with where to decide; rejecting is possible through every door."""
    if decision is Decision.REJECT:
        return
    if approval.doors is not None and door not in approval.doors:
        raise WrongDoor(f"{where(approval)} {_STILL}")
    if not _is_fresh(approval, login_at, at):
        raise FreshLoginNeeded(f"{where(approval)} {_STILL}")


class Word(Protocol):
    """What a person said, and how they came in: a vote, or that a call runs again."""

    @property
    def door(self) -> Door | None: ...

    @property
    def login_at(self) -> datetime | None: ...

    @property
    def at(self) -> datetime: ...


def counts(vote: Word, terms: Terms) -> bool:
    """Return whether an approving word came the way that these terms ask for."""
    allowed = terms.doors is None or vote.door in terms.doors
    return allowed and _is_fresh(terms, vote.login_at, vote.at)


def _is_fresh(terms: Terms, login_at: datetime | None, at: datetime) -> bool:
    if terms.fresh_login_s is None:
        return True
    return login_at is not None and at - login_at <= timedelta(seconds=terms.fresh_login_s)


def offers(terms: Terms, door: Door) -> bool:
    """Return whether approving can work at all through this door."""
    return door in _usable(terms)


def _usable(terms: Terms) -> list[Door]:
    allowed = list(Door) if terms.doors is None else terms.doors
    return [door for door in allowed if terms.fresh_login_s is None or door in _WITH_PASSWORDS]


def where(terms: Terms) -> str:
    """Return the sentence that says where it may be approved."""
    places = [_PLACES[door] for door in _usable(terms)]
    if not places:
        return "The rules on this call leave no place where it may be approved: ask an admin."
    listed = " or ".join(places)
    if terms.fresh_login_s is None:
        return f"This call may be approved only {listed}."
    return (
        f"This call may be approved only {listed}, by someone who entered their username and password within the last "
        f"{_span(terms.fresh_login_s)} there (API keys and service tokens don't count)."
    )


def _span(seconds: int) -> str:
    for size, word in ((3600, "hour"), (60, "minute")):
        if seconds % size == 0:
            count = seconds // size
            return word if count == 1 else f"{count} {word}s"
    return f"{seconds} seconds"
