"""What can go wrong with a model call, each as one sentence for people."""

import re
from dataclasses import dataclass

RETRYABLE_STATUS = frozenset({408, 409, 429})
_SECRET = re.compile(r"\bsk-[\w-]+|(?<=bearer )\S+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Trouble:
    """What the service said of a failed call; for logs, never for people."""

    code: str = ""
    status: int | None = None
    message: str = ""
    request_id: str | None = None
    retry_after: float | None = None


NO_TROUBLE = Trouble()


class ModelError(Exception):
    """A model call that failed; `sentence` says why and what to do, without secrets or addresses."""

    def __init__(self, sentence: str, trouble: Trouble = NO_TROUBLE, *, retryable: bool = False) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.trouble = trouble
        self.retryable = retryable

    @property
    def detail(self) -> str:
        """What the service said, short and without keys: for logs."""
        return _SECRET.sub("[secret]", self.trouble.message)[:300]


class ModelRefusedContent(ModelError):
    """The content filter stopped the question or the answer."""


class ModelKeyRejected(ModelError):
    """The API key is wrong, or may not use this model."""


class ModelQuota(ModelError):
    """Too many requests, or nothing left to pay with."""


class ModelUnavailable(ModelError):
    """The service can't be reached, is broken, too slow, or broke off."""


class ModelMisused(ModelError):
    """The service says that the request is wrong."""


@dataclass(frozen=True, slots=True)
class _Rule:
    codes: re.Pattern[str]
    kind: type[ModelError]
    sentence: str
    retryable: bool = False


def _rule(codes: str, kind: type[ModelError], sentence: str, *, retryable: bool = False) -> _Rule:
    return _Rule(re.compile(codes, re.IGNORECASE), kind, sentence, retryable)


FILTERED = "The model service's content filter refused this conversation: rephrase the message, or start a new thread."
KEY = "The model service rejected the API key: check TONGYI_API_KEY."
NOT_ALLOWED = (
    "The model service doesn't let this API key use the model {model}: "
    "allow it in the service's console, or set another TONGYI_MODEL_NAME."
)
UNPAID = "The model service's account has no quota or money left: top it up, then ask again."
LIMITED = "The model service is limiting our requests: wait a minute, then ask again."
NO_MODEL = "The model service doesn't know the model {model}: check TONGYI_MODEL_NAME."
TOO_LONG = "This conversation is too long for the model {model}: start a new thread."
BROKEN = "The model service has an internal error: ask again in a minute."
SLOW = "The model service did not answer in time: ask again in a minute."
WRONG_ADDRESS = (
    "The model service doesn't serve {model} at this address: check TONGYI_MODEL_NAME, and that TONGYI_BASE_URL "
    "ends in /api/v1."
)
REFUSED = "The model service refused the request as invalid ({code}): start a new thread, and tell an administrator."
UNREADABLE = (
    "What answers at the model service's address isn't the model service: check that TONGYI_BASE_URL ends in /api/v1."
)
GARBLED = "The model service sent an answer that can't be read: ask again."
UNREACHABLE = "The model service can't be reached: check the network and TONGYI_BASE_URL, then ask again."
BROKE_OFF = "The model service broke off its answer: ask again."
SILENT = "There is no message to answer: send one with some text."

_BY_CODE = (
    _rule(r"data_?inspection|content_?(policy|filter)", ModelRefusedContent, FILTERED),
    _rule(r"api_?key", ModelKeyRejected, KEY),
    _rule(r"arrearage|billoverdue|insufficient_?quota|freetieronly", ModelQuota, UNPAID),
    _rule(r"throttling|limit_?requests|rate_?limit", ModelQuota, LIMITED, retryable=True),
    _rule(r"access_?denied|unpurchased|notpurchased|permission", ModelKeyRejected, NOT_ALLOWED),
    _rule(r"model[._]?not[._]?(exist|found)|model_not_supported", ModelMisused, NO_MODEL),
    _rule(r"timeout", ModelUnavailable, SLOW, retryable=True),
    _rule(r"internal|unavailable|system_?error|modelserv", ModelUnavailable, BROKEN, retryable=True),
)


def from_trouble(trouble: Trouble, *, model_name: str) -> ModelError:
    """Return the error that the service meant: by its code, which is exact, else by the HTTP status."""
    for rule in _BY_CODE:
        if rule.codes.search(trouble.code):
            return rule.kind(rule.sentence.format(model=model_name), trouble, retryable=rule.retryable)
    kind, sentence, retryable = _by_status(trouble)
    code = re.sub(r"[^\w.-]", "", trouble.code)[:60] or str(trouble.status or "no code")
    return kind(sentence.format(model=model_name, code=code), trouble, retryable=retryable)


def _by_status(trouble: Trouble) -> tuple[type[ModelError], str, bool]:
    message = trouble.message.lower()
    if "url error" in message:
        return ModelMisused, WRONG_ADDRESS, False
    if "input length" in message or "context length" in message:
        return ModelMisused, TOO_LONG, False
    match trouble.status or 0:
        case 401:
            return ModelKeyRejected, KEY, False
        case 403:
            return ModelKeyRejected, NOT_ALLOWED, False
        case 404:
            return ModelMisused, WRONG_ADDRESS, False
        case 429:
            return ModelQuota, LIMITED, True
        case 408 | 504:
            return ModelUnavailable, SLOW, True
        case status if status >= 500 or status in RETRYABLE_STATUS:
            return ModelUnavailable, BROKEN, True
        case status if status >= 400 or "invalid" in trouble.code.lower():
            return ModelMisused, REFUSED, False
        case _:
            return ModelUnavailable, BROKEN, True
