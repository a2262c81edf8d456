"""Chooses the model: Qwen with a key, the demo without one."""

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import HumanMessage
from pydantic import SecretStr

from agent.models.demo import DemoModel
from agent.models.tongyi import TongyiChat


def build_model(
    *, api_key: SecretStr | None, model_name: str, base_url: str | None, timeout_s: float = 120
) -> TongyiChat | DemoModel:
    """Return the model of these settings; without a key it is the demo, which says so in every answer."""
    key = api_key.get_secret_value().strip() if api_key else ""
    if not key:
        return DemoModel()
    return TongyiChat(
        model_name=model_name.strip(),
        api_key=SecretStr(key),
        base_url=(base_url or "").strip() or None,
        timeout=timeout_s,
    )


async def probe(model: BaseChatModel) -> None:
    """Ask the model for one token, or raise the ModelError that says why it can't answer."""
    await model.ainvoke([HumanMessage("ping")], max_tokens=1)
