"""How declared commands run: programs by fixed paths, in the sandbox, their ends told in a sentence."""

import os
import shutil
from collections.abc import Mapping, Sequence

from agent.sandbox import capability
from agent.sandbox.policy import Finished, Mode, SandboxSpec, SandboxUnavailable, protections
from agent.sandbox.run import run
from agent.tools.base import Outcome, ToolResult
from agent.tools.declared.declaration import BadTool, Declaration, House

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
OUTPUT_LIMIT = 256 * 1024
RUNS_OTHERS = frozenset(
    (
        *("sh", "bash", "dash", "ash", "zsh", "ksh", "mksh", "fish", "csh", "tcsh", "busybox", "toybox", "pwsh"),
        *("env", "xargs", "sudo", "su", "doas", "runuser", "script", "watch", "parallel", "nsenter", "chroot"),
        *("unshare", "setpriv", "eval", "command", "nohup", "setsid", "timeout", "nice", "ionice", "stdbuf", "time"),
    )
)
"""Programs to which an argument is a program: never with parameters."""


def program_path(name: str, *place: str | int) -> str:
    """Return where the program is, found through a fixed PATH and never through ours."""
    if "/" in name and not name.startswith("/"):
        raise BadTool(f"`{name}` must be a plain name or an absolute path.", *place)
    found = shutil.which(name, path=PATH)
    if found is None:
        raise BadTool(f"the program `{name}` is not here: install it, or write its absolute path.", *place)
    return found


def runs_others(path: str) -> bool:
    """Whether the program takes other programs as arguments, under this name or the one that it links to."""
    names = {os.path.basename(path), os.path.basename(os.path.realpath(path))}
    return bool(names & RUNS_OTHERS)


def missing(declaration: Declaration, house: House) -> tuple[str, ...]:
    """Return what of a whole sandbox its program runs without here; in strict mode it has all or does not run."""
    if house.mode is Mode.STRICT:
        return ()
    spec = SandboxSpec(network=bool(declaration.ports), ports=declaration.ports, host_view=declaration.host_view)
    return protections(capability.current(), spec, house.mode).missing


async def finish(
    declaration: Declaration,
    house: House,
    command: Sequence[str],
    env: Mapping[str, str],
    *,
    read_paths: Sequence[str] = (),
    ok: Sequence[int] = (0,),
) -> ToolResult:
    """Run the command as the declaration lets it and return what it said."""
    spec = SandboxSpec(
        read_paths=(*declaration.read_paths, *read_paths),
        write_paths=declaration.write_paths,
        network=bool(declaration.ports),
        ports=declaration.ports,
        env={"PATH": PATH, "LC_ALL": "C.UTF-8", **env},
        memory_mb=declaration.memory_mb,
        wall_s=declaration.timeout_s,
        host_view=declaration.host_view,
    )
    try:
        ended = await run(command, spec, output_limit=OUTPUT_LIMIT, mode=house.mode)
    except (SandboxUnavailable, FileNotFoundError) as error:
        return ToolResult(str(error), Outcome.FAILED)
    return _told(declaration, ended, ok)


def _told(declaration: Declaration, ended: Finished, ok: Sequence[int]) -> ToolResult:
    out, err = (data.decode("utf-8", "replace").strip() for data in (ended.stdout, ended.stderr))
    said = "\n".join(part for part in (out, err) if part)
    if ended.timed_out:
        sure = declaration.read_only or declaration.idempotent
        problem = f"`{declaration.name}` did not end within {declaration.timeout_s:g} s and was stopped."
        text = f"{problem}\n{said}" if said else problem
        return ToolResult(declaration.finish.apply(text), Outcome.FAILED if sure else Outcome.UNKNOWN)
    cut = "\n[the output was longer and is cut here]" if ended.truncated else ""
    if ended.returncode in ok:
        return declaration.finish.result((said or "It ended well and said nothing.") + cut)
    how = f"exit code {ended.returncode}" if ended.returncode >= 0 else f"signal {-ended.returncode}"
    return ToolResult(declaration.finish.apply(f"It failed ({how}).\n{said}{cut}".strip()), Outcome.FAILED)
