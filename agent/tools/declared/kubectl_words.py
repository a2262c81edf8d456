"""The part of kubectl that tools may speak: its verbs, what each takes, and flags with the values they may have."""

from dataclasses import dataclass
from typing import Any, Literal

_WORKLOADS = frozenset({"deployments", "statefulsets", "daemonsets"})
_LOGGED = _WORKLOADS | {"pods", "jobs", "replicasets"}
CLUSTER_WIDE = frozenset(
    {"nodes", "namespaces", "persistentvolumes", "storageclasses", "ingressclasses", "customresourcedefinitions"}
)
NAME: dict[str, Any] = {
    "type": "string",
    "pattern": "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$",
    "maxLength": 253,
    "description": "The object's name.",
}
LABEL: dict[str, Any] = {"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", "maxLength": 63}


@dataclass(frozen=True)
class Verb:
    """A verb, and what a call of it may have."""

    words: str
    writes: bool = False
    flags: frozenset[str] = frozenset()
    needs: tuple[str, ...] = ()
    needs_name: bool = False
    resources: frozenset[str] = frozenset()
    """What it is for; empty: anything."""
    fixed: tuple[str, ...] = ()
    dry_run: bool = False
    """Whether it knows --dry-run=server."""
    form: Literal["TYPE NAME", "TYPE/NAME", "NAME", "verb TYPE"] = "TYPE NAME"
    """How it takes what it is for: two words, one, the name alone, or the type as a second verb."""


@dataclass(frozen=True)
class Flag:
    """A flag, and the JSON Schema of its values."""

    option: str
    schema: dict[str, Any]


FLAGS = {
    "selector": Flag(
        "--selector",
        {
            "type": "string",
            "pattern": "^[A-Za-z0-9!][A-Za-z0-9._/=!(), -]*$",
            "description": "Labels: app=web,tier!=db",
        },
    ),
    "field_selector": Flag("--field-selector", {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._=!,/-]*$"}),
    "output": Flag("--output", {"type": "string", "enum": ["wide", "name", "yaml", "json"]}),
    "sort_by": Flag("--sort-by", {"type": "string", "pattern": "^\\.[A-Za-z0-9._\\[\\]-]+$"}),
    "show_labels": Flag("--show-labels", {"type": "boolean"}),
    "all_namespaces": Flag("--all-namespaces", {"type": "boolean"}),
    "tail": Flag("--tail", {"type": "integer", "minimum": 1, "maximum": 5000, "default": 200}),
    "since": Flag("--since", {"type": "string", "pattern": "^[1-9][0-9]{0,5}[smh]$", "description": "30s, 10m, 2h"}),
    "previous": Flag("--previous", {"type": "boolean", "description": "Of the container before its last restart."}),
    "timestamps": Flag("--timestamps", {"type": "boolean"}),
    "container": Flag("--container", LABEL),
    "containers": Flag("--containers", {"type": "boolean"}),
    "replicas": Flag("--replicas", {"type": "integer", "minimum": 0, "maximum": 1000}),
    "current_replicas": Flag("--current-replicas", {"type": "integer", "minimum": 0, "maximum": 1000}),
    "to_revision": Flag("--to-revision", {"type": "integer", "minimum": 1, "maximum": 1000000}),
    "revision": Flag("--revision", {"type": "integer", "minimum": 1, "maximum": 1000000}),
    "grace_period": Flag("--grace-period", {"type": "integer", "minimum": 1, "maximum": 3600}),
}

VERBS = {
    verb.words: verb
    for verb in (
        Verb(
            "get", flags=frozenset({"selector", "field_selector", "output", "sort_by", "show_labels", "all_namespaces"})
        ),
        Verb("describe", flags=frozenset({"selector", "all_namespaces"})),
        Verb(
            "logs",
            flags=frozenset({"tail", "since", "previous", "timestamps", "container"}),
            needs_name=True,
            resources=_LOGGED,
            form="TYPE/NAME",
        ),
        Verb(
            "top",
            flags=frozenset({"selector", "all_namespaces", "containers"}),
            resources=frozenset({"pods", "nodes"}),
            form="verb TYPE",
        ),
        Verb("rollout status", needs_name=True, resources=_WORKLOADS, fixed=("--watch=false",)),
        Verb("rollout history", flags=frozenset({"revision"}), needs_name=True, resources=_WORKLOADS),
        Verb("rollout restart", writes=True, needs_name=True, resources=_WORKLOADS),
        Verb(
            "rollout undo",
            writes=True,
            flags=frozenset({"to_revision"}),
            needs_name=True,
            resources=_WORKLOADS,
            dry_run=True,
        ),
        Verb("rollout pause", writes=True, needs_name=True, resources=frozenset({"deployments"})),
        Verb("rollout resume", writes=True, needs_name=True, resources=frozenset({"deployments"})),
        Verb(
            "scale",
            writes=True,
            flags=frozenset({"replicas", "current_replicas"}),
            needs=("replicas",),
            needs_name=True,
            resources=_WORKLOADS | {"replicasets"},
            dry_run=True,
        ),
        Verb(
            "delete",
            writes=True,
            flags=frozenset({"grace_period"}),
            needs_name=True,
            fixed=("--wait=false",),
            dry_run=True,
        ),
        Verb("cordon", writes=True, needs_name=True, resources=frozenset({"nodes"}), form="NAME", dry_run=True),
        Verb("uncordon", writes=True, needs_name=True, resources=frozenset({"nodes"}), form="NAME", dry_run=True),
    )
}
"""None of these opens a shell, forwards a port, copies files, reads a file of ours or applies one."""
