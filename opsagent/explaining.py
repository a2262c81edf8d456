"""`opsagent policy explain`: what the rules say of a call, for people and for programs."""

from typing import Any

from opsagent import scripts
from opsagent.config import Settings
from opsagent.terminal import visible


async def explain(settings: Settings, tool: str, args: dict[str, Any], *, user: str | None, as_json: bool) -> int:
    """Print the decision and its reasons; fail where the call would be refused before policy is asked."""
    async with scripts.service_of(settings) as service:
        found = await service.simulate_policy(args, by=service.api_key_principal(), tool_name=tool, username=user)
    if as_json:
        from api.policywire import SimulatedOut  # only here: it brings all of REST with it

        print(SimulatedOut.of(found).model_dump_json())
    else:
        print(f"{found.ruling.verdict}: {visible(found.tool_name)}, called by {visible(found.username)}")
        for number, reason in enumerate(found.reasons, start=1):
            print(f"{number}. {visible(reason)}")
    return 0
