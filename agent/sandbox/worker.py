"""The program inside a tool worker: answers requests, one at a time, over the pipes that it was born with.

A frame is four bytes of length, big-endian, and that much JSON. `python -I worker.py TARGET`, where TARGET is
"module:function" or "/path/file.py:function" and gives an object with a method for each request.
"""

import contextlib
import importlib
import importlib.util
import json
import os
import shutil
import struct
import sys
import tempfile
import traceback
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, BinaryIO

FRAME_LIMIT = 16 << 20


def main(target: str) -> None:
    incoming, outgoing = _claim_channel()
    served = _resolve(target)()
    _send(outgoing, {"ready": True})
    while (request := _receive(incoming)) is not None:
        _send(outgoing, _answer(served, request))


def _claim_channel() -> tuple[BinaryIO, BinaryIO]:
    """Keep the pipes for frames alone: what tools print goes to stderr, and there is nothing for them to read."""
    incoming, outgoing = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return incoming, outgoing


def _resolve(target: str) -> Callable[[], Any]:
    place, _, name = target.rpartition(":")
    if not place.endswith(".py"):
        return getattr(importlib.import_module(place), name)
    spec = importlib.util.spec_from_file_location("opsagent_worker_target", place)
    if spec is None or spec.loader is None:
        raise ImportError(f"{place} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return getattr(module, name)


def _answer(served: Any, request: dict[str, Any]) -> dict[str, Any]:
    try:
        with _surroundings():
            result = getattr(served, request["do"])(**request["with"])
    except BaseException as error:  # noqa: BLE001 - one tool call; a SystemExit of one must not end the next
        traceback.print_exc()
        said = " ".join(str(error).split())[:500]
        return {"id": request["id"], "error": f"{type(error).__name__}: {said}" if said else type(error).__name__}
    return {"id": request["id"], "result": result}


@contextlib.contextmanager
def _surroundings() -> Generator[None]:
    """Give the request a fresh folder, and take back what it did to environment, folder and temp dir."""
    env, temp = dict(os.environ), tempfile.tempdir
    own = tempfile.mkdtemp(prefix="call-", dir=os.environ["HOME"])
    os.environ["TMPDIR"] = own
    tempfile.tempdir = None
    os.chdir(own)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(env)
        tempfile.tempdir = temp
        os.chdir(env["HOME"])
        shutil.rmtree(own, ignore_errors=True)


def _receive(incoming: BinaryIO) -> dict[str, Any] | None:
    head = incoming.read(4)
    if len(head) < 4:
        return None
    return json.loads(incoming.read(struct.unpack(">I", head)[0]))


def _send(outgoing: BinaryIO, reply: dict[str, Any]) -> None:
    try:
        body = json.dumps(reply, default=str).encode()
    except (TypeError, ValueError, RecursionError) as error:
        body = json.dumps({"id": reply.get("id"), "error": f"the answer can't be sent as JSON: {error}"}).encode()
    if len(body) > FRAME_LIMIT:
        body = json.dumps({"id": reply.get("id"), "error": f"the answer is larger than {FRAME_LIMIT} bytes"}).encode()
    outgoing.write(struct.pack(">I", len(body)) + body)
    outgoing.flush()


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parents[2]))
    main(sys.argv[1])
