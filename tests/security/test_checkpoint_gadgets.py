"""Row 37: whoever can write a checkpoint's row gets no code run by it."""

from pathlib import Path
from typing import Any

import ormsgpack
import pytest
from langgraph.checkpoint.serde import jsonplus
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from db.checkpoints import LeanSaver, make_pool
from tests.integration.conftest import ADMIN, running


def gadget(code: int, ran: Path) -> bytes:
    """A value that is made by calling `os.system`, in one of the forms that LangGraph's own serializer writes."""
    command = f"touch {ran}"
    payload: dict[int, Any] = {
        jsonplus.EXT_CONSTRUCTOR_SINGLE_ARG: ("os", "system", command),
        jsonplus.EXT_CONSTRUCTOR_POS_ARGS: ("os", "system", (command,)),
        jsonplus.EXT_CONSTRUCTOR_KW_ARGS: ("os", "system", {"command": command}),
    }
    return ormsgpack.packb(ormsgpack.Ext(code, ormsgpack.packb(payload[code])))


FORMS = [
    jsonplus.EXT_CONSTRUCTOR_SINGLE_ARG,
    jsonplus.EXT_CONSTRUCTOR_POS_ARGS,
    jsonplus.EXT_CONSTRUCTOR_KW_ARGS,
]


@pytest.mark.parametrize("form", FORMS)
async def test_a_call_planted_in_a_waiting_turns_checkpoint_is_not_made(dsn: str, tmp_path: Path, form: int) -> None:
    ran = tmp_path / "ran"
    planted = gadget(form, ran)
    JsonPlusSerializer(allowed_msgpack_modules=True).loads_typed(("msgpack", planted))
    assert ran.exists(), "the gadget is none, and would prove nothing"
    ran.unlink()

    async with running(dsn, work=False) as floor:
        session_id = await floor.session()
        sent = await floor.service.submit_message(session_id, '{{tool restart {"service": "web"}}}', by=ADMIN)
        await floor.core.turns.advance(session_id)
        view = await floor.parked(sent.turn.turn_id, 1)
        for table in ("checkpoint_blobs", "checkpoint_writes"):
            plant = f"UPDATE {table} SET type = 'msgpack', blob = $2 WHERE thread_id = $1 RETURNING 1"
            assert await floor.sql(plant, str(session_id), planted)
        await floor.decide(view.pending_approvals[0])
        await floor.core.turns.advance(session_id)
        assert floor.tools.ran("restart") == []
        async with make_pool(dsn) as pool:
            config: Any = {"configurable": {"thread_id": str(session_id), "checkpoint_ns": ""}}
            assert await LeanSaver(pool).aget_tuple(config)
    assert not ran.exists()
