"""The command line. Exit codes: 0 done, 1 failed, 2 wrong use."""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Callable, Coroutine
from importlib.metadata import version
from typing import Any, NoReturn, cast

from opsagent.config import Settings, SettingsError, load_settings
from opsagent.failures import CannotStart

OVER_DATABASE = "needs DATABASE_URL and SECRET_KEY: several processes share both, so neither can be made up here."


def main(argv: list[str] | None = None) -> NoReturn:
    """Run one command and exit."""
    parsed = _parser().parse_args(argv)
    os.environ.setdefault("LANGGRAPH_STRICT_MSGPACK", "true")
    try:
        code = parsed.run(parsed)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has enough; what is still buffered must not fail at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except (SettingsError, CannotStart) as error:
        print(f"opsagent: {error}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        code = 130
    sys.exit(code or 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="opsagent", description="A ChatOps agent that asks a human before anything that matters."
    )
    parser.add_argument("--version", action="version", version=f"opsagent {version('opsagent')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add(commands, "up", "everything in one process", _up)
    _add(commands, "serve", "the doors: Slack, REST and the console (work runs the turns)", _serve)
    _add(commands, "work", "the turns, for any number of `serve` processes", _work)
    migrating = _add(commands, "migrate", "bring the database to this release's schema", _migrate)
    rights = "then give this database role what the service needs, and no right to change the audit log"
    migrating.add_argument("--grant-to", metavar="ROLE", help=rights)
    _add(commands, "doctor", "check settings, database, model, tools and Slack, and say how to mend them", _doctor)
    _add(commands, "chat", "talk to the agent in this terminal", _chat)
    tools = _group(commands, "tools", "what the agent may call")
    _add(tools, "list", "the tools and what policy says of them", _tools_list)
    _add(tools, "check", "load TOOLS_DIR and MCP_CONFIG and report what is wrong with them", _tools_check)
    approvals = _group(commands, "approvals", "what waits for a human")
    listing = _add(approvals, "list", "approvals, newest first", _approvals_list)
    statuses = ("pending", "approved", "rejected", "expired", "cancelled")
    listing.add_argument("--status", default="pending", choices=statuses, help="pending unless given")
    for word in ("approve", "reject"):
        deciding = _add(approvals, word, f"{word} one", _approvals_decide)
        deciding.add_argument("approval_id")
        deciding.add_argument("--reason", help="shown to the people and the model")
        deciding.add_argument("--digest", help="what the list showed last: refuse if the arguments are others by now")
        deciding.set_defaults(word=word, instead=None)
        if word == "reject":
            deciding.add_argument("--instead", help="what to do instead: the next message of its session, from you")
    _more_of_approvals(approvals)
    rules = _group(commands, "policy", "the rules that say which calls a human must see")
    explaining = _add(rules, "explain", "what policy would say of a call, and why; nothing is called", _policy_explain)
    explaining.add_argument("tool", help="the tool's name, as `opsagent tools list` shows it")
    explaining.add_argument("--args", type=_json_object, default={}, help="its arguments, as a JSON object")
    explaining.add_argument("--user", help="a username; without it: the API key's own user")
    explaining.add_argument("--json", action="store_true", help="print one JSON object, for programs")
    tokens = _group(commands, "tokens", "tokens for programs")
    _add(tokens, "list", "service tokens, newest first", _tokens_list)
    creating = _add(tokens, "create", "make one; it is shown once", _tokens_create)
    creating.add_argument("name")
    creating.add_argument("--scopes", default="read,chat", help="a comma list of read, chat, approve, admin")
    creating.add_argument("--role", default="member", choices=["member", "approver", "admin"])
    creating.add_argument("--days", type=int, default=90, help="how long it lives (default 90)")
    revoking = _add(tokens, "revoke", "end one at once", _tokens_revoke)
    revoking.add_argument("token_id")
    trail = _group(commands, "audit", "the audit log")
    _add(trail, "verify", "compute the whole hash chain again", _audit_verify)
    _add(trail, "export", "print every entry, oldest first, as JSON Lines", _audit_export)
    keys = _group(commands, "keys", "the keys under OPSAGENT_HOME")
    what = "make a new SECRET_KEY, and seal what is stored with it; what the old ones signed stays valid"
    _add(keys, "rotate", what, _keys_rotate)
    return parser


def _more_of_approvals(approvals: Any) -> None:
    resolving = _add(approvals, "resolve", "say what became of a call whose outcome is unknown", _approvals_resolve)
    resolving.add_argument("--action", required=True, choices=("run_again", "done", "failed"))
    resolving.add_argument("--result", help="what came of it, as far as you found out")
    cancelling = _add(approvals, "cancel", "end a request before anybody decides it", _approvals_cancel)
    withdrawing = _add(approvals, "withdraw", "take your vote back, while nothing is settled", _approvals_withdraw)
    extending = _add(approvals, "extend", "give people more time to decide one", _approvals_extend)
    extending.add_argument("--seconds", type=int, required=True, help="from now on")
    reassigning = _add(approvals, "reassign", "have others decide one", _approvals_reassign)
    for command in (resolving, cancelling, withdrawing, extending, reassigning):
        command.add_argument("approval_id")
    reassigning.add_argument("approvers", nargs="+", help="users, Slack ids of users and groups, role:approver")
    for command in (resolving, cancelling, reassigning):
        command.add_argument("--reason", help="shown to the people and kept in the record")


def _add(commands: Any, name: str, what: str, run: Callable[[argparse.Namespace], int | None]) -> Any:
    command = commands.add_parser(name, help=what, description=what[:1].upper() + what[1:] + ".")
    command.set_defaults(run=run)
    return command


def _group(commands: Any, name: str, what: str) -> Any:
    group = commands.add_parser(name, help=what, description=what[:1].upper() + what[1:] + ".")
    return group.add_subparsers(title="commands", metavar="COMMAND", required=True)


def _settings(*, shared: str | None = None, quiet: bool = False) -> Settings:
    """Read the settings, make up missing keys, and start the logs."""
    from opsagent import logs
    from opsagent.secrets import with_keys

    settings = load_settings()
    if shared and (settings.database_url is None or settings.secret_key is None):
        raise CannotStart(f"`opsagent {shared}` {OVER_DATABASE}")
    settings, kept = with_keys(settings)
    logs.set_up("ERROR" if quiet else settings.log_level, settings.secret_values)
    if not quiet:
        for key in kept:
            print(f"{key.variable} is not set; using the one in {key.path}", flush=True)
        if settings.tongyi_api_key is None:
            print("TONGYI_API_KEY is not set: a demo model answers (rules, not AI).", flush=True)
    return settings


def _up(_args: argparse.Namespace) -> None:
    settings = _settings()
    from opsagent import processes

    processes.up(settings)


def _serve(_args: argparse.Namespace) -> None:
    settings = _settings(shared="serve")
    from opsagent import processes

    processes.serve(settings)


def _work(_args: argparse.Namespace) -> None:
    settings = _settings(shared="work")
    from opsagent import processes

    processes.work(settings)


def _migrate(args: argparse.Namespace) -> None:
    from opsagent import parts

    async def run(settings: Settings) -> None:
        if settings.database_url is None and args.grant_to:
            raise CannotStart("--grant-to needs DATABASE_URL: the embedded database has one role, which owns it.")
        if settings.database_url is None:
            async with parts.open_database(settings):
                print("The embedded database is at this release's schema.")
            return
        dsn = settings.database_url.get_secret_value()
        did = await parts.migrated(dsn)
        print("The database was migrated." if did else "The database is at this release's schema already.")
        if args.grant_to:
            await parts.granted(dsn, args.grant_to)
            print(f"The role {args.grant_to} has the rights of the service; the audit log it can only add to.")

    asyncio.run(run(_settings(quiet=True)))


def _doctor(_args: argparse.Namespace) -> int:
    from opsagent import doctor

    return asyncio.run(doctor.examine(_settings(quiet=True)))


def _chat(_args: argparse.Namespace) -> int:
    from opsagent import terminal

    return asyncio.run(terminal.chat(_settings(quiet=True)))


def _script(work: Callable[[Settings], Coroutine[Any, Any, int]]) -> int:
    return asyncio.run(work(_settings(quiet=True)))


def _tools_list(_args: argparse.Namespace) -> int:
    from opsagent import scripts

    return _script(scripts.list_tools)


def _tools_check(_args: argparse.Namespace) -> int:
    from opsagent import scripts

    return _script(scripts.check_tools)


def _approvals_list(args: argparse.Namespace) -> int:
    from opsagent import scripts

    return _script(lambda settings: scripts.list_approvals(settings, status=args.status))


def _approvals_decide(args: argparse.Namespace) -> int:
    from opsagent import scripts

    return _script(
        lambda settings: scripts.decide(
            settings,
            args.approval_id,
            word=args.word,
            reason=args.reason,
            digest=args.digest,
            instead=args.instead,
        )
    )


def _policy_explain(args: argparse.Namespace) -> int:
    from opsagent import explaining

    return _script(
        lambda settings: explaining.explain(settings, args.tool, args.args, user=args.user, as_json=args.json)
    )


def _json_object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"this is not JSON ({error}): {text!r}") from error
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError(f'arguments are a JSON object, such as {{"service": "web"}}, not {text!r}')
    return cast("dict[str, Any]", found)


def _approvals_resolve(args: argparse.Namespace) -> int:
    from opsagent import scripts

    return _script(
        lambda settings: scripts.resolve(
            settings, args.approval_id, action=args.action, reason=args.reason, result=args.result
        )
    )


def _approvals_cancel(args: argparse.Namespace) -> int:
    from opsagent import scripts

    return _script(lambda settings: scripts.cancel(settings, args.approval_id, reason=args.reason))


def _approvals_withdraw(args: argparse.Namespace) -> int:
    from opsagent import scripts

    return _script(lambda settings: scripts.withdraw(settings, args.approval_id))


def _approvals_extend(args: argparse.Namespace) -> int:
    from opsagent import scripts

    return _script(lambda settings: scripts.extend(settings, args.approval_id, seconds=args.seconds))


def _approvals_reassign(args: argparse.Namespace) -> int:
    from opsagent import scripts

    return _script(
        lambda settings: scripts.reassign(settings, args.approval_id, approvers=args.approvers, reason=args.reason)
    )


def _tokens_list(_args: argparse.Namespace) -> int:
    from opsagent import scripts

    return _script(scripts.list_tokens)


def _tokens_create(args: argparse.Namespace) -> int:
    from opsagent import scripts

    scopes = tuple(scope.strip() for scope in args.scopes.split(",") if scope.strip())
    return _script(
        lambda settings: scripts.create_token(settings, args.name, scopes=scopes, role=args.role, days=args.days)
    )


def _tokens_revoke(args: argparse.Namespace) -> int:
    from opsagent import scripts

    return _script(lambda settings: scripts.revoke_token(settings, args.token_id))


def _audit_verify(_args: argparse.Namespace) -> int:
    from opsagent import scripts

    return _script(scripts.verify_audit)


def _audit_export(_args: argparse.Namespace) -> int:
    from opsagent import scripts

    return _script(scripts.export_audit)


def _keys_rotate(_args: argparse.Namespace) -> int:
    from opsagent import scripts
    from opsagent.secrets import rotate_secret_key

    settings = load_settings()
    if settings.secret_key is not None and len(settings.secret_keys) < 2:
        raise CannotStart(
            "SECRET_KEY is set by hand: put a new key before it, separated by a comma, start opsagent again, and run "
            "this again to seal what is stored with it."
        )
    if settings.secret_key is None:
        print(f"A new key stands first in {rotate_secret_key(settings.home)}; start opsagent again to use it.")
    if settings.database_url is None and not (settings.home / "postgres" / "data").is_dir():
        return 0
    return _script(scripts.reseal)
