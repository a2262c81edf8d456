"""A YAML file with its line numbers: plain data, nothing that YAML could be made to do besides."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import yaml

SIZE_LIMIT = 128 * 1024
DEPTH_LIMIT = 30
_NO_ALIASES = "anchors and aliases (& and *) aren't read here: write it out"
Place = tuple[str | int, ...]


class BadFile(Exception):
    """What is wrong with a file, as one sentence that starts with file and line."""


@dataclass(frozen=True)
class Source:
    """What a file says, and on which line each part of it stands."""

    name: str
    data: Any
    lines: dict[Place, int] = field(repr=False)

    def line(self, place: Place) -> int:
        """Return the line of a part, or of the nearest part around it that has one."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, 1)

    def at(self, place: Place, problem: str) -> str:
        return f"{self.name} line {self.line(place)}: {problem}"


class _Refused(yaml.MarkedYAMLError):
    """What plain data has no need of."""


class _Loader(yaml.SafeLoader):
    """YAML's plain types as 1.2 has them; depth and aliases end it before anything is built of them."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        # Nine lines of aliases make a billion values.
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise _Refused(problem=_NO_ALIASES, problem_mark=event.start_mark)
        if self.depth > DEPTH_LIMIT:
            raise _Refused(problem="this is nested too deep", problem_mark=event.start_mark)
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] in ("null", "merge", "value")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
# yes, on, 010 and 22:22 are text.
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"(?:true|false)\Z"), list("tf"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?(?:0|[1-9][0-9]*)\Z"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"(?:[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan)\Z"),
    list("-+.0123456789"),
)
_PLAIN = frozenset(f"tag:yaml.org,2002:{name}" for name in ("map", "seq", "str", "int", "float", "bool", "null"))


def read(path: Path) -> Source:
    """Return what the file says; raises BadFile."""
    try:
        if path.stat().st_size > SIZE_LIMIT:
            raise BadFile(f"{path.name} line 1: the file is larger than {SIZE_LIMIT // 1024} KB: split it.")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadFile(f"{path.name} line 1: the file can't be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise BadFile(f"{path.name} line 1: the file is not UTF-8: save it as UTF-8.") from error
    return parsed(path.name, text)


def parsed(name: str, text: str) -> Source:
    """Return what the text of the file `name` says; raises BadFile."""
    loader = _Loader(text) if text.isprintable() or _is_readable(text) else None
    if loader is None:
        raise BadFile(f"{name} line 1: the file has control characters in it: save it as plain text.")
    try:
        node = loader.get_single_node()
        lines: dict[Place, int] = {}
        data = None if node is None else _value(loader, name, node, (), lines)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = error.problem or "it is not YAML"
        raise BadFile(f"{name} line {mark.line + 1 if mark else 1}: {said}.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise BadFile(f"{name} line 1: the file is not usable YAML.") from error
    finally:
        loader.dispose()
    return Source(name, data, lines)


def _is_readable(text: str) -> bool:
    return not any((ord(letter) < 0x20 and letter not in "\t\n\r") or ord(letter) == 0x7F for letter in text)


def _value(loader: _Loader, name: str, node: yaml.Node, place: Place, lines: dict[Place, int]) -> Any:
    line = node.start_mark.line + 1
    lines.setdefault(place, line)
    if node.tag not in _PLAIN:
        raise BadFile(
            f"{name} line {line}: the tag {node.tag.rpartition(':')[2]} isn't read here: write a plain value."
        )
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = cast("Any", loader.construct_object(key_node)) if isinstance(key_node, yaml.ScalarNode) else None
            at = key_node.start_mark.line + 1
            if not isinstance(key, str):
                raise BadFile(f"{name} line {at}: a key must be text: put it in quotes.")
            if key in found:
                raise BadFile(f"{name} line {at}: `{key}` is here twice: remove one.")
            lines[(*place, key)] = at
            found[key] = _value(loader, name, value_node, (*place, key), lines)
        return found
    if isinstance(node, yaml.SequenceNode):
        return [_value(loader, name, item, (*place, index), lines) for index, item in enumerate(node.value)]
    return cast("Any", loader.construct_object(node))
