"""`opsagent policy explain`: what the rules say of a call, for people and for programs."""

import json
from typing import Any

from agent.policies import Simulated
from opsagent import scripts
from opsagent.config import Settings
from opsagent.terminal import visible


async def explain(settings: Settings, tool: str, args: dict[str, Any], *, user: str | None, as_json: bool) -> int:
    """Print the decision and its reasons; fail where the call would be refused before policy is asked."""
    async with scripts.service_of(settings) as service:
        found = await service.simulate_policy(args, by=service.api_key_principal(), tool_name=tool, username=user)
    if as_json:
        print(json.dumps(_fields(found)))
    else:
        print(f"{found.ruling.verdict}: {visible(found.tool_name)}, called by {visible(found.username)}")
        for number, reason in enumerate(found.reasons, start=1):
            print(f"{number}. {visible(reason)}")
    return 0


def _fields(found: Simulated) -> dict[str, Any]:
    ruling, look = found.ruling, found.decided_by
    index = look.deciding
    return {
        "tool_id": str(found.tool_id),
        "tool_name": found.tool_name,
        "user_id": str(found.user_id),
        "username": found.username,
        "decision": ruling.verdict,
        "decided_by": {
            "scope": look.scope,
            "when": index,
            "condition": None if index is None else look.rule.when[index].args,
        },
        "approvers": ruling.approvers,
        "quorum": ruling.quorum,
        "four_eyes": ruling.four_eyes,
        "expires_in_s": ruling.expires_in_s,
        "doors": ruling.doors,
        "fresh_login_s": ruling.fresh_login_s,
        "refused": found.refused,
        "reasons": found.reasons,
    }
