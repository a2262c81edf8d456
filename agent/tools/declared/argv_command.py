"""The kind `argv`: a program and its arguments, each written down or exactly one parameter; never a shell."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from agent.tools.base import CallContext, ToolResult
from agent.tools.declared import process
from agent.tools.declared.declaration import BadTool, Declaration, House
from agent.tools.declared.parameters import inert, input_schema, reference, references, values


@dataclass(frozen=True)
class Element:
    """One element: text as it stands, a parameter's value, or an option with a parameter's value."""

    literal: str | None = None
    parameter: str | None = None


@dataclass(frozen=True)
class ArgvCommand:
    """A command that is ready to run."""

    declaration: Declaration
    house: House
    program: str
    elements: tuple[Element, ...]
    env: dict[str, str] = field(repr=False)
    ok: tuple[int, ...]
    read_only: bool

    @property
    def schema(self) -> dict[str, Any]:
        return input_schema(self.declaration.parameters)

    async def run(self, args: Mapping[str, Any], context: CallContext) -> ToolResult:
        return await process.finish(self.declaration, self.house, self.command(args), self.env, ok=self.ok)

    def command(self, args: Mapping[str, Any]) -> list[str]:
        """Return the exact command of a call; an element whose parameter has no value is left out."""
        given = values(self.declaration.parameters, args)
        made = [self.program]
        for element in self.elements:
            if element.parameter is None:
                made.append(cast("str", element.literal))
            elif element.parameter in given:
                parameter = self.declaration.parameters[element.parameter]
                for value in inert(parameter, given[element.parameter]):
                    made += [value] if element.literal is None else [element.literal, value]
        return made


def build(declaration: Declaration, house: House, *, all_used: bool = True) -> ArgvCommand:
    """Return the command; raises BadTool where a value could become anything but one argument.

    `all_used`: a parameter that stands nowhere in it is a mistake.
    """
    written: list[Any] = declaration.section["command"]
    first = written[0]
    if not isinstance(first, str) or references(first):
        raise BadTool("the program must be written down: it can't be a parameter.", "argv", "command", 0)
    program = process.program_path(first, "argv", "command", 0)
    elements = _elements(declaration, written)
    if process.runs_others(program) and any(element.parameter for element in elements):
        raise BadTool(
            f"`{first}` runs what its arguments say, so it can't have parameters: name the program itself.",
            *("argv", "command", 0),
        )
    if all_used:
        _check_all_used(declaration, elements)
    ok = tuple(declaration.section.get("ok_exit_codes", (0,)))
    env = declaration.settings("argv", "env")
    return ArgvCommand(declaration, house, program, elements, env, ok, declaration.read_only is True)


def _elements(declaration: Declaration, written: list[Any]) -> tuple[Element, ...]:
    found: list[Element] = []
    apart = False  # whether `--` stands before what follows
    for index, raw in enumerate(written[1:], start=1):
        place = ("argv", "command", index)
        element = _element(declaration, raw, place)
        is_option = _is_option(declaration, element)
        if apart and is_option:
            raise BadTool("options must stand before the first plain parameter, which `--` sets apart.", *place)
        if element.literal == "--" and element.parameter is None:
            apart = True
        elif element.parameter and not is_option and not apart and declaration.section.get("separator", True):
            found.append(Element(literal="--"))
            apart = True
        found.append(element)
    return tuple(found)


def _is_option(declaration: Declaration, element: Element) -> bool:
    if element.parameter is None:
        return cast("str", element.literal).startswith("-") and element.literal not in ("-", "--")
    return element.literal is not None or declaration.parameters[element.parameter].flag


def _element(declaration: Declaration, raw: Any, place: tuple[str | int, ...]) -> Element:
    literal, text = (raw["option"], raw["value"]) if isinstance(raw, dict) else (None, cast("str", raw))
    name = reference(text)
    if name is None:
        if references(text):
            raise BadTool(f"`{text}` mixes text and a parameter: an element is either, never both.", *place)
        if any(ord(letter) < 0x20 for letter in text):
            raise BadTool("an argument may not have line breaks or control characters.", *place)
        return Element(literal=text)
    if name not in declaration.parameters:
        raise BadTool(f"`{{{name}}}` is not among the tool's `parameters`.", *place)
    if literal is not None and declaration.parameters[name].flag:
        raise BadTool("a flag can't be the value of an option.", *place)
    return Element(literal=literal, parameter=name)


def _check_all_used(declaration: Declaration, elements: tuple[Element, ...]) -> None:
    used = {element.parameter for element in elements}
    for name in declaration.parameters:
        if name not in used:
            raise BadTool(f"the parameter `{name}` is used nowhere.", "parameters", name)
