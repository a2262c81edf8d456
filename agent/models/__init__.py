"""The model: a chat model on DashScope, a demo without one, and what goes wrong with either."""

from agent.models.errors import (
    ModelError,
    ModelKeyRejected,
    ModelMisused,
    ModelQuota,
    ModelRefusedContent,
    ModelUnavailable,
)
from agent.models.factory import build_model, probe
from agent.models.history import repair

__all__ = [
    "ModelError",
    "ModelKeyRejected",
    "ModelMisused",
    "ModelQuota",
    "ModelRefusedContent",
    "ModelUnavailable",
    "build_model",
    "probe",
    "repair",
]
