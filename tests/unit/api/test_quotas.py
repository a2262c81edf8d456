"""Token buckets: bursts pass, floods wait, and nobody waits for somebody else."""

from uuid import UUID, uuid4

import pytest

from agent.throttle import TooMany
from api.quotas import Quota, Quotas

TEN = Quota(10, "things")
ALICE, BOB = UUID(int=1), UUID(int=2)


def test_a_burst_passes_and_what_is_more_is_told_how_long_to_wait() -> None:
    now = [0.0]
    quotas = Quotas(now=lambda: now[0])
    for _ in range(10):
        quotas.take(TEN, ALICE)
    with pytest.raises(TooMany, match="10 a minute") as refused:
        quotas.take(TEN, ALICE)
    assert refused.value.retry_after_s == 6
    now[0] += refused.value.retry_after_s
    quotas.take(TEN, ALICE)
    with pytest.raises(TooMany):
        quotas.take(TEN, ALICE)


def test_a_bucket_never_holds_more_than_a_minutes_share() -> None:
    now = [0.0]
    quotas = Quotas(now=lambda: now[0])
    quotas.take(TEN, ALICE)
    now[0] += 3_600
    for _ in range(10):
        quotas.take(TEN, ALICE)
    with pytest.raises(TooMany):
        quotas.take(TEN, ALICE)


def test_callers_and_quotas_are_apart_and_factors_widen_them() -> None:
    quotas = Quotas(now=lambda: 0.0)
    for _ in range(10):
        quotas.take(TEN, ALICE)
    quotas.take(TEN, BOB)
    quotas.take(Quota(10, "other things"), ALICE)
    for _ in range(20):
        quotas.take(TEN, "the operator", factor=2)
    with pytest.raises(TooMany, match="20 a minute"):
        quotas.take(TEN, "the operator", factor=2)


def test_many_callers_do_not_fill_the_memory_and_a_flooder_is_not_forgotten() -> None:
    now = [0.0]
    quotas = Quotas(now=lambda: now[0])
    for _ in range(30_000):
        quotas.take(TEN, uuid4())
    for _ in range(10):
        quotas.take(TEN, ALICE)
    assert len(quotas._left) <= 10_000
    for _ in range(1_000):
        quotas.take(TEN, uuid4())
    with pytest.raises(TooMany):
        quotas.take(TEN, ALICE)
