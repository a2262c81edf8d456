"""Block Kit's rules as Slack applies them: what it refuses, and the words it refuses it with."""

import re
from collections.abc import Callable, Iterable
from typing import Any

from tests.fakes.block_reading import letters

Block = dict[str, Any]

_DAY, _DECIMAL = re.compile(r"\d{4}-\d{2}-\d{2}"), re.compile(r"-?\d+(\.\d+)?")
MESSAGE_BLOCKS, VIEW_BLOCKS = 50, 100
PLAIN, ANY_TEXT = ("plain_text",), ("plain_text", "mrkdwn")
TEXT_KEYS = {"type", "text", "emoji", "verbatim"}
RICH_TEXT_PARTS = {"rich_text_section", "rich_text_list", "rich_text_preformatted", "rich_text_quote"}
SECTION_ACCESSORIES = {"image", "button", "overflow", "checkboxes", "radio_buttons", "workflow_button"}
SELECTS = {
    f"{many}{kind}_select"
    for many in ("", "multi_")
    for kind in ("static", "external", "users", "conversations", "channels")
}
PICKERS = {"datepicker", "timepicker", "datetimepicker"}
INPUTS = {"plain_text_input", "email_text_input", "url_text_input", "number_input", "rich_text_input", "file_input"}
IN_ACTIONS = (
    {"button", "overflow", "checkboxes", "radio_buttons", "workflow_button", "rich_text_input"} | SELECTS | PICKERS
)
IN_INPUT = {"checkboxes", "radio_buttons"} | INPUTS | SELECTS | PICKERS
TASK_STATUSES = {"pending", "in_progress", "complete", "error"}


def check_blocks(blocks: Any, surface: str = "message") -> list[str]:
    """Return everything Slack would refuse in these blocks, on a message, modal or home."""
    check = _Check(surface)
    check.blocks(blocks, "/blocks", VIEW_BLOCKS if surface in ("modal", "home") else MESSAGE_BLOCKS)
    check.whole_payload()
    return check.problems


def check_view(view: Any) -> list[str]:
    """Return everything Slack would refuse in this modal or home tab."""
    if not isinstance(view, dict) or view.get("type") not in ("modal", "home"):
        return ["unsupported type: a view is a modal or a home [json-pointer:/view/type]"]
    check = _Check(view["type"])
    check.blocks(view.get("blocks"), "/view/blocks", VIEW_BLOCKS)
    check.whole_payload()
    check.length(view, "private_metadata", "/view", 3000)
    check.length(view, "callback_id", "/view", 255)
    if view["type"] == "modal":
        check.text(view.get("title"), "/view/title", 24, PLAIN)
        for key in ("submit", "close"):
            check.text(view.get(key), f"/view/{key}", 24, PLAIN, required=False)
        if any(b.get("type") == "input" for b in view.get("blocks") or []) and not view.get("submit"):
            check.refuse("/view/submit", "missing required field: submit")
    return check.problems


class _Check:
    """One walk over a payload, collecting what is wrong with it."""

    def __init__(self, surface: str) -> None:
        self.surface = surface
        self.problems: list[str] = []
        self._block_ids: list[str] = []
        self._markdown = 0
        self._tables = 0

    def refuse(self, at: str, why: str) -> None:
        self.problems.append(f"{why} [json-pointer:{at}]")

    def whole_payload(self) -> None:
        if len(set(self._block_ids)) < len(self._block_ids):
            self.refuse("/blocks", "block_id already exists")
        if self._markdown > 12_000:
            self.refuse("/blocks", "markdown blocks must be less than 12001 characters together")
        if self._tables > 1:
            self.refuse("/blocks", "only_one_table_allowed")

    def length(self, thing: Block, key: str, at: str, limit: int) -> None:
        value = thing.get(key)
        if value is None:
            return
        if not isinstance(value, str):
            self.refuse(f"{at}/{key}", "must be a string")
        elif len(value) > limit:
            self.refuse(f"{at}/{key}", f"must be less than {limit + 1} characters")

    def keys(self, thing: Block, at: str, allowed: Iterable[str]) -> None:
        for extra in sorted(set(thing) - set(allowed)):
            self.refuse(at, f"invalid additional property: {extra}")

    def items(self, value: Any, at: str, least: int, most: int) -> list[Any]:
        if not isinstance(value, list):
            self.refuse(at, "must be an array")
            return []
        if len(value) < least:
            self.refuse(at, f"no fewer than {least} items required")
        if len(value) > most:
            self.refuse(at, f"no more than {most} items allowed")
        return value

    def text(
        self, value: Any, at: str, limit: int, kinds: tuple[str, ...] = ANY_TEXT, *, required: bool = True
    ) -> None:
        if value is None:
            if required:
                self.refuse(at, "missing required field")
            return
        if not isinstance(value, dict) or value.get("type") not in kinds:
            self.refuse(at, f"unsupported type: must be {' or '.join(kinds)}")
            return
        self.keys(value, at, TEXT_KEYS)
        text = value.get("text")
        if not isinstance(text, str) or not text:
            self.refuse(f"{at}/text", "must be more than 0 characters")
        elif len(text) > limit:
            self.refuse(f"{at}/text", f"must be less than {limit + 1} characters")

    def blocks(self, value: Any, at: str, most: int) -> None:
        for i, block in enumerate(self.items(value, at, 0, most)):
            here = f"{at}/{i}"
            rule = _BLOCKS.get(block.get("type")) if isinstance(block, dict) else None
            if rule is None:
                self.refuse(
                    f"{here}/type", f"unsupported type: {block.get('type') if isinstance(block, dict) else block}"
                )
                continue
            self.length(block, "block_id", here, 255)
            if block.get("block_id"):
                self._block_ids.append(block["block_id"])
            rule(self, block, here)

    def elements(self, value: Any, at: str, most: int, allowed: set[str]) -> None:
        ids: list[str] = []
        for i, element in enumerate(self.items(value, at, 1, most)):
            self.element(element, f"{at}/{i}", allowed)
            if isinstance(element, dict) and element.get("action_id"):
                ids.append(element["action_id"])
        for double in sorted({one for one in ids if ids.count(one) > 1}):
            self.refuse(at, f"action_id `{double}` already exists")

    def element(self, element: Any, at: str, allowed: set[str]) -> None:
        kind = element.get("type") if isinstance(element, dict) else None
        if kind not in allowed:
            self.refuse(at, f"unsupported type: {kind}")
            return
        self.length(element, "action_id", at, 255)
        self.text(element.get("placeholder"), f"{at}/placeholder", 150, PLAIN, required=False)
        if element.get("confirm") is not None:
            self.confirm(element["confirm"], f"{at}/confirm")
        if kind in ("button", "workflow_button"):
            self.button(element, at)
        elif kind == "image":
            self.image(element, at)
        elif kind in ("static_select", "multi_static_select", "overflow", "checkboxes", "radio_buttons"):
            self.options(element, at)
        elif kind == "plain_text_input":
            self.length(element, "initial_value", at, 3000)
            if element.get("initial_value") == "":
                self.refuse(f"{at}/initial_value", "must be more than 0 characters")
            if not 0 <= int(element.get("min_length", 0)) <= int(element.get("max_length", 3000)) <= 3000:
                self.refuse(at, "min_length and max_length must lie between 0 and 3000")
        elif kind == "number_input":
            self.number(element, at)
        elif kind == "multi_users_select":
            self.keys(
                element, at, {"type", "action_id", "initial_users", "max_selected_items", "placeholder", "confirm"}
            )
            if int(element.get("max_selected_items", 1)) < 1:
                self.refuse(f"{at}/max_selected_items", "must be at least 1")
        elif kind == "datepicker" and not _DAY.fullmatch(element.get("initial_date", "2026-01-01")):
            self.refuse(f"{at}/initial_date", "must be a date such as 1990-04-28")

    def number(self, element: Block, at: str) -> None:
        if not isinstance(element.get("is_decimal_allowed"), bool):
            self.refuse(at, "missing required field: is_decimal_allowed")
        for key in ("initial_value", "min_value", "max_value"):
            if not isinstance(element.get(key, "0"), str) or not _DECIMAL.fullmatch(element.get(key, "0")):
                self.refuse(f"{at}/{key}", "must be a number as a string")

    def button(self, button: Block, at: str) -> None:
        self.text(button.get("text"), f"{at}/text", 75, PLAIN)
        self.length(button, "value", at, 2000)
        self.length(button, "url", at, 3000)
        self.length(button, "accessibility_label", at, 75)
        if button.get("style") not in (None, "primary", "danger"):
            self.refuse(f"{at}/style", "failed to match all allowed schemas")
        known = {"type", "text", "action_id", "url", "value", "style", "confirm", "accessibility_label"}
        self.keys(button, at, known | {"visible_to_user_ids", "agent_prompt", "agent_prompt_display", "workflow"})

    def confirm(self, confirm: Any, at: str) -> None:
        if not isinstance(confirm, dict):
            self.refuse(at, "must be an object")
            return
        self.keys(confirm, at, {"title", "text", "confirm", "deny", "style"})
        self.text(confirm.get("title"), f"{at}/title", 100, PLAIN)
        self.text(confirm.get("text"), f"{at}/text", 300)
        self.text(confirm.get("confirm"), f"{at}/confirm", 30, PLAIN)
        self.text(confirm.get("deny"), f"{at}/deny", 30, PLAIN)

    def options(self, select: Block, at: str) -> None:
        least = 2 if select["type"] == "overflow" else 1
        most = {"overflow": 5, "checkboxes": 10, "radio_buttons": 10}.get(select["type"], 100)
        groups = select.get("option_groups")
        if groups is not None:
            options = [o for g in self.items(groups, f"{at}/option_groups", 1, 100) for o in g.get("options", [])]
        else:
            options = self.items(select.get("options"), f"{at}/options", least, most)
        for i, option in enumerate(options):
            self.text(option.get("text"), f"{at}/options/{i}/text", 75)
            self.length(option, "value", f"{at}/options/{i}", 150)
            self.text(option.get("description"), f"{at}/options/{i}/description", 75, required=False)
        if select["type"] == "overflow":
            self.keys(select, at, {"type", "action_id", "options", "confirm"})
            for i, option in enumerate(options):
                self.text(option.get("text"), f"{at}/options/{i}/text", 75, PLAIN)
        for key in ("initial_option", "initial_options"):
            chosen = select.get(key)
            for one in chosen if isinstance(chosen, list) else [chosen] if chosen else []:
                if one not in options:
                    self.refuse(f"{at}/{key}", "must be one of the options")

    def image(self, image: Block, at: str) -> None:
        if not image.get("image_url") and not image.get("slack_file"):
            self.refuse(at, "missing required field: image_url")
        self.length(image, "image_url", at, 3000)
        self.length(image, "alt_text", at, 2000)
        if not image.get("alt_text"):
            self.refuse(at, "missing required field: alt_text")

    def section(self, block: Block, at: str) -> None:
        self.keys(block, at, {"type", "block_id", "text", "fields", "accessory", "expand"})
        self.text(block.get("text"), f"{at}/text", 3000, required="fields" not in block)
        if "fields" in block:
            for i, field in enumerate(self.items(block["fields"], f"{at}/fields", 1, 10)):
                self.text(field, f"{at}/fields/{i}", 2000)
        if block.get("accessory") is not None:
            self.element(block["accessory"], f"{at}/accessory", SECTION_ACCESSORIES | SELECTS | PICKERS)

    def header(self, block: Block, at: str) -> None:
        self.keys(block, at, {"type", "block_id", "text", "level"})
        self.text(block.get("text"), f"{at}/text", 150, PLAIN)

    def markdown(self, block: Block, at: str) -> None:
        if self.surface != "message":
            self.refuse(f"{at}/type", "unsupported type: markdown")
        self.keys(block, at, {"type", "block_id", "text"})
        text = block.get("text")
        if not isinstance(text, str) or not text:
            self.refuse(f"{at}/text", "must be more than 0 characters")
            return
        self.length(block, "text", at, 12_000)
        self._markdown += len(text)

    def actions(self, block: Block, at: str) -> None:
        self.keys(block, at, {"type", "block_id", "elements"})
        self.elements(block.get("elements"), f"{at}/elements", 25, IN_ACTIONS)

    def context(self, block: Block, at: str) -> None:
        self.keys(block, at, {"type", "block_id", "elements"})
        for i, element in enumerate(self.items(block.get("elements"), f"{at}/elements", 1, 10)):
            if isinstance(element, dict) and element.get("type") == "image":
                self.image(element, f"{at}/elements/{i}")
            else:
                self.text(element, f"{at}/elements/{i}", 2000)

    def context_actions(self, block: Block, at: str) -> None:
        self.elements(block.get("elements"), f"{at}/elements", 5, {"feedback_buttons", "icon_button"})

    def input(self, block: Block, at: str) -> None:
        self.keys(block, at, {"type", "block_id", "label", "element", "hint", "optional", "dispatch_action"})
        self.text(block.get("label"), f"{at}/label", 2000, PLAIN)
        self.text(block.get("hint"), f"{at}/hint", 2000, PLAIN, required=False)
        self.element(block.get("element"), f"{at}/element", IN_INPUT)

    def image_block(self, block: Block, at: str) -> None:
        self.image(block, at)
        self.text(block.get("title"), f"{at}/title", 2000, PLAIN, required=False)

    def rich_text(self, block: Block, at: str) -> None:
        for i, part in enumerate(self.items(block.get("elements"), f"{at}/elements", 0, 1000)):
            if not isinstance(part, dict) or part.get("type") not in RICH_TEXT_PARTS:
                self.refuse(f"{at}/elements/{i}", "unsupported type")

    def table(self, block: Block, at: str) -> None:
        self._only_in_messages(block, at)
        self._tables += 1
        self._rows(block, at, 1, 100, {"raw_text", "rich_text"})
        if letters(block.get("rows")) > 10_000:
            self.refuse(f"{at}/rows", "must be less than 10001 characters together")

    def data_table(self, block: Block, at: str) -> None:
        self._only_in_messages(block, at)
        rows = self._rows(block, at, 2, 101, {"raw_text", "raw_number", "rich_text"})
        if any(c.get("type") == "rich_text" for c in rows[0] if isinstance(c, dict)) if rows else False:
            self.refuse(f"{at}/rows/0", "header cells can't be rich_text")
        if not 1 <= int(block.get("page_size", 5)) <= 100:
            self.refuse(f"{at}/page_size", "must be between 1 and 100")

    def _rows(self, block: Block, at: str, least: int, most: int, kinds: set[str]) -> list[Any]:
        rows = self.items(block.get("rows"), f"{at}/rows", least, most)
        for r, row in enumerate(rows):
            for c, cell in enumerate(self.items(row, f"{at}/rows/{r}", 1, 20)):
                if not isinstance(cell, dict) or cell.get("type") not in kinds:
                    self.refuse(f"{at}/rows/{r}/{c}", "unsupported type")
                elif cell["type"] == "raw_text" and not cell.get("text"):
                    self.refuse(f"{at}/rows/{r}/{c}/text", "must be more than 0 characters")
        if len({len(row) for row in rows if isinstance(row, list)}) > 1:
            self.refuse(f"{at}/rows", "every row must have the same number of cells")
        return rows

    def _only_in_messages(self, block: Block, at: str) -> None:
        if self.surface != "message":
            self.refuse(f"{at}/type", f"unsupported type: {block['type']}")

    def card(self, block: Block, at: str) -> None:
        self._only_in_messages(block, at)
        for key, limit in (("title", 150), ("subtitle", 150), ("body", 200)):
            self.text(block.get(key), f"{at}/{key}", limit, required=False)
        if "actions" in block:
            self.elements(block["actions"], f"{at}/actions", 5, {"button"})

    def container(self, block: Block, at: str) -> None:
        self._only_in_messages(block, at)
        self.text(block.get("title"), f"{at}/title", 150, required=False)
        self.text(block.get("subtitle"), f"{at}/subtitle", 150, required=False)
        self.blocks(block.get("child_blocks"), f"{at}/child_blocks", 10)

    def carousel(self, block: Block, at: str) -> None:
        self._only_in_messages(block, at)
        self.blocks(block.get("elements"), f"{at}/elements", 10)

    def alert(self, block: Block, at: str) -> None:
        self.text(block.get("text"), f"{at}/text", 3000)

    def task_card(self, block: Block, at: str) -> None:
        self._only_in_messages(block, at)
        if block.get("status") not in TASK_STATUSES:
            self.refuse(f"{at}/status", f"must be one of {', '.join(sorted(TASK_STATUSES))}")
        if not block.get("task_id") or not block.get("title"):
            self.refuse(at, "missing required field: task_id and title")

    def plan(self, block: Block, at: str) -> None:
        self._only_in_messages(block, at)
        if not block.get("title"):
            self.refuse(f"{at}/title", "missing required field")
        self.blocks(block.get("tasks", []), f"{at}/tasks", 50)

    def divider(self, block: Block, at: str) -> None:
        self.keys(block, at, {"type", "block_id"})


_BLOCKS: dict[Any, Callable[[_Check, Block, str], None]] = {
    "actions": _Check.actions,
    "alert": _Check.alert,
    "card": _Check.card,
    "carousel": _Check.carousel,
    "container": _Check.container,
    "context": _Check.context,
    "context_actions": _Check.context_actions,
    "data_table": _Check.data_table,
    "divider": _Check.divider,
    "header": _Check.header,
    "image": _Check.image_block,
    "input": _Check.input,
    "markdown": _Check.markdown,
    "plan": _Check.plan,
    "rich_text": _Check.rich_text,
    "section": _Check.section,
    "table": _Check.table,
    "task_card": _Check.task_card,
}
