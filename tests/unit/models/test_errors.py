"""Failures in words for people."""

import pytest

from agent.models.errors import ModelMisused, ModelQuota, Trouble, from_trouble

SECRET = "sk-fakefakefakefakefakefake"


@pytest.mark.parametrize("code", ["InvalidParameter", "Throttling", "InvalidApiKey", "Odd", ""])
@pytest.mark.parametrize("status", [None, 200, 400, 429, 500])
def test_sentence_shows_nothing_of_what_the_service_wrote(code: str, status: int | None):
    message = f"Authorization: Bearer {SECRET} at http://host/?key={SECRET}"

    error = from_trouble(Trouble(code=code, status=status, message=message), model_name="qwen-plus")

    assert SECRET not in error.sentence
    assert "http" not in error.sentence
    assert SECRET not in error.detail
    assert ": " in error.sentence


def test_code_of_a_request_error_is_shown_without_markup():
    error = from_trouble(Trouble(code="<!channel> Bad*Thing*", status=400), model_name="qwen-plus")

    assert "(channelBadThing)" in error.sentence


def test_too_long_a_conversation_is_told_as_such():
    message = "Range of input length should be [1, 129024]"

    error = from_trouble(Trouble("InvalidParameter", 400, message), model_name="qwen-plus")

    assert isinstance(error, ModelMisused)
    assert "new thread" in error.sentence


def test_empty_account_is_not_asked_again_even_under_a_throttling_status():
    error = from_trouble(Trouble("insufficient_quota", 429), model_name="qwen-plus")

    assert isinstance(error, ModelQuota)
    assert not error.retryable
