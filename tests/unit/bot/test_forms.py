"""A form gives every argument back as it was, and reads what was filled in exactly or not at all."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.approvals import store
from agent.tools.arguments import Problem, problems, validate
from agent.tools.base import Source, ToolSpec
from bot import forms
from bot.forms import BadFields
from bot.inputs import Kind, NotThisForm
from bot.payloads import parsed
from bot.views.forms import edit_modal
from tests.fakes.block_kit import check_view
from tests.fakes.service import approval
from tests.fakes.slack_people import _state


def object_of(required=(), **properties):
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def opened(schema, args):
    """The form, and the modal as Slack takes it."""
    form = forms.form(schema, args)
    view = edit_modal(approval(args=args), form)
    assert check_view(view) == []
    return form, view


def submitted(view, values):
    """What the door reads of the modal, filled in by a person."""
    shown = {**view, "state": {"values": _state(view, values)}}
    return parsed({"type": "view_submission", "user": {"id": "U0BOB"}, "view": shown}).filled


def sent(form, view, **typed):
    """What comes of the form where a person typed something into some fields, named by their paths."""
    ids = {".".join(field.path): field.field_id for field in form.fields}
    values = {ids[name.replace("__", ".")]: value for name, value in typed.items()}
    return forms.read(form, submitted(view, values))


def kinds(schema, args):
    return {".".join(field.path): field.kind for field in forms.form(schema, args).fields}


STRING, INTEGER, NUMBER, BOOLEAN = {"type": "string"}, {"type": "integer"}, {"type": "number"}, {"type": "boolean"}
DAY, MOMENT = {"type": "string", "format": "date"}, {"type": "string", "format": "date-time"}
LEVEL = {"type": "string", "enum": ["low", "high"]}
OR_NULL = {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None}

# Floats from 2^53 to 1e21 are written as integers too large to be read back: nobody is ever asked about them.
FLOAT = st.floats(allow_nan=False, allow_infinity=False).filter(lambda number: not 2**53 <= abs(number) < 1e21)
SMALL = st.integers(-(2**53) + 1, 2**53 - 1)
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none() | st.booleans() | SMALL | FLOAT | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=6,
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60) | st.sampled_from(["", " ", "a\nb", "12", "null"])
PARTS = [
    (STRING, TEXT),
    (INTEGER, SMALL),
    (NUMBER, SMALL | FLOAT),
    (BOOLEAN, st.booleans()),
    (DAY, st.dates().map(str) | TEXT),
    (MOMENT, st.datetimes().map(lambda d: d.isoformat() + "+02:00") | TEXT),
    ({"enum": ["a", 1, True, None, "1"]}, st.sampled_from(["a", 1, True, None, "1"])),
    (LEVEL, st.sampled_from(["low", "high"])),
    (OR_NULL, st.none() | TEXT),
    ({"type": ["integer", "null"]}, st.none() | SMALL),
]
LISTS = [({"type": "array", "items": schema}, st.lists(values, max_size=4)) for schema, values in PARTS]
SETS = [
    (
        {"type": "array", "items": LEVEL, "uniqueItems": True},
        st.lists(st.sampled_from(["low", "high"]), unique=True),
    )
]
ODD = [({}, JSON), ({"type": "object"}, st.dictionaries(TEXT, JSON, max_size=2)), ({"oneOf": [STRING, INTEGER]}, TEXT)]


@st.composite
def objects(draw, parts, depth=0):
    """A schema that lists arguments, and arguments that fit it."""
    names = draw(
        st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), min_size=1, max_size=5, unique=True)
    )
    properties, args, required = {}, {}, []
    for name in names:
        if depth == 0 and draw(st.integers(0, 4)) == 0:
            schema, value = draw(objects(parts, depth=1))
        else:
            schema, values = draw(st.sampled_from(parts))
            value = draw(values)
        properties[name] = schema
        if draw(st.booleans()):
            args[name] = value
            if draw(st.booleans()):
                required.append(name)
    return object_of(required, **properties), args


@settings(deadline=None, max_examples=300)
@given(objects(PARTS + LISTS + SETS + ODD))
def test_a_form_left_alone_gives_the_arguments_back(made):
    schema, args = made
    args = json.loads(store.canonical(args))
    form = forms.form(schema, args)
    if form is None:
        assert len(json.dumps(args)) > 3000
        return
    view = edit_modal(approval(args=args), form)
    assert check_view(view) == []
    back = forms.read(form, submitted(view, {}))
    assert json.dumps(back, sort_keys=True) == json.dumps(args, sort_keys=True)


def test_each_type_has_its_own_input():
    schema = object_of(
        service=STRING, count=INTEGER, ratio=NUMBER, force=BOOLEAN, level=LEVEL, day=DAY, at=MOMENT,
        hosts={"type": "array", "items": STRING}, levels={"type": "array", "items": LEVEL, "uniqueItems": True},
        options={"type": "object"}, why=OR_NULL,
    )  # fmt: skip
    assert kinds(schema, {}) == {
        "service": Kind.TEXT, "count": Kind.NUMBER, "ratio": Kind.NUMBER, "force": Kind.CHOICE, "level": Kind.CHOICE,
        "day": Kind.DATE, "at": Kind.MOMENT, "hosts": Kind.LINES, "levels": Kind.CHOICES, "options": Kind.JSON,
        "why": Kind.TEXT,
    }  # fmt: skip


def test_what_is_typed_becomes_an_argument_of_its_type():
    schema = object_of(
        ["service"], service=STRING, count=INTEGER, ratio=NUMBER, force=BOOLEAN, level=LEVEL, day=DAY, at=MOMENT,
        hosts={"type": "array", "items": STRING}, ports={"type": "array", "items": INTEGER},
        levels={"type": "array", "items": LEVEL, "uniqueItems": True}, options={"type": "object"},
        at_most=object_of(cpu=INTEGER),
    )  # fmt: skip
    form, view = opened(schema, {"service": "web"})
    typed = {
        "service": "db", "count": "3", "ratio": "0.5", "force": "0", "level": "1", "day": "2026-11-23",
        "at": "2026-11-23T08:00:00+02:00", "hosts": "a\n\n b \n", "ports": "80\n443", "levels": ["1"],
        "options": '{"a": [1, null]}', "at_most__cpu": "2",
    }  # fmt: skip
    assert sent(form, view, **typed) == {
        "service": "db", "count": 3, "ratio": 0.5, "force": True, "level": "high", "day": "2026-11-23",
        "at": "2026-11-23T08:00:00+02:00", "hosts": ["a", "b"], "ports": [80, 443], "levels": ["high"],
        "options": {"a": [1, None]}, "at_most": {"cpu": 2},
    }  # fmt: skip


def test_whole_numbers_stay_whole():
    form, view = opened(object_of(ratio=NUMBER), {"ratio": 3})
    back = sent(form, view)
    assert isinstance(back["ratio"], int)
    assert json.dumps(sent(form, view, ratio="4")) == '{"ratio": 4}'


@pytest.mark.parametrize(
    ("schema", "typed", "why"),
    [
        (INTEGER, "9007199254740993", "too large to be kept exactly"),
        (NUMBER, "0.1234567890123456789", "more digits"),
        (NUMBER, "1e400", "not a number"),
        (INTEGER, "2.5", "not a whole number"),
        (INTEGER, "٣", "not a whole number"),
        (DAY, "2026-13-01", "not a date"),
        (MOMENT, "2026-11-23 08:00", "not a time"),
        (STRING, "pay\u202eload", "can't be seen"),
        ({"type": "array", "items": INTEGER}, "1\ntwo", "not a whole number"),
        ({"type": "array", "items": BOOLEAN}, "yes", "neither true nor false"),
        ({"type": "object"}, '{"a": 1, "a": 2}', "twice"),
        ({"type": "object"}, '{"a": NaN}', "NaN"),
        ({"type": "object"}, "[" * 3000, "not JSON"),
        ({"type": "object"}, "{", "not JSON"),
    ],
)
def test_what_cannot_be_read_exactly_is_refused_at_its_field(schema, typed, why):
    form, view = opened(object_of(fine=STRING, odd=schema), {})
    with pytest.raises(BadFields) as refused:
        sent(form, view, odd=typed)
    assert set(refused.value.errors) == {"field:1"}
    assert why in refused.value.errors["field:1"]


def test_an_optional_argument_that_is_absent_stays_absent_and_one_that_is_empty_stays_empty():
    schema = object_of(a=STRING, b=STRING, c=OR_NULL, d=OR_NULL, e={"type": "array", "items": STRING}, f=BOOLEAN)
    args = {"b": "", "d": None, "e": []}
    form, view = opened(schema, args)
    assert sent(form, view) == args


def test_emptying_an_optional_argument_leaves_it_out():
    schema = object_of(["must", "list"], a=STRING, force=BOOLEAN, must=OR_NULL, list={"type": "array", "items": STRING})
    form, view = opened(schema, {"a": "x", "force": True, "must": "y", "list": ["z"]})
    assert sent(form, view, a="", force="out", must="", list="") == {"must": None, "list": []}


def test_a_required_text_cannot_be_emptied():
    form, view = opened(object_of(["a"], a=STRING), {"a": "x"})
    assert view["blocks"][-1]["optional"] is False
    with pytest.raises(BadFields, match="needed"):
        forms.read(form, {"field:0": None})


def test_an_object_whose_arguments_are_all_left_out_is_left_out():
    schema = object_of(limits=object_of(["cpu"], cpu=INTEGER, memory=INTEGER))
    form, view = opened(schema, {})
    assert sent(form, view) == {}
    assert sent(form, view, limits__memory="5") == {"limits": {"memory": 5}}


@pytest.mark.parametrize(
    "value",
    ["pay\u202eload", "a\u200bb", " padded ", "tab\there", "line\r\nend", "\u3164", "x" * 2900 + "\u200b", "a &amp; b"],
    ids=["rtl", "zero-width", "padded", "tab", "crlf", "filler", "long", "entity"],
)
def test_text_that_an_input_would_hide_is_edited_as_json_that_shows_it(value):
    form, view = opened(object_of(a=STRING), {"a": value})
    element = view["blocks"][-1]["element"]
    assert form.fields[0].kind is Kind.JSON
    assert not set(element["initial_value"]) & set("\u202e\u200b\t\r\u3164")
    assert "&" not in element["initial_value"]
    assert sent(form, view) == {"a": value}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {"anyOf": [object_of(a=STRING), object_of(b=STRING)]},
        {**object_of(a=STRING), "patternProperties": {"^x": STRING}},
        {"type": "object", "properties": {"other": STRING}},
    ],
    ids=["nothing", "either", "patterns", "unnamed"],
)
def test_a_schema_that_is_no_plain_list_is_edited_as_json(schema):
    form, view = opened(schema, {"a": "x"})
    assert [field.kind for field in form.fields] == [Kind.JSON]
    assert sent(form, view, **{"": '{"a": "y", "b": 1}'}) == {"a": "y", "b": 1}
    with pytest.raises(BadFields, match="one JSON object"):
        sent(form, view, **{"": "[1]"})


def test_a_reference_and_or_null_are_followed():
    schema = {
        **object_of(size={"$ref": "#/$defs/Size"}, why=OR_NULL),
        "$defs": {"Size": {"enum": ["s", "m"], "title": "Size"}},
    }
    form, view = opened(schema, {"size": "m"})
    assert kinds(schema, {}) == {"size": Kind.CHOICE, "why": Kind.TEXT}
    assert sent(form, view, why="because") == {"size": "m", "why": "because"}


def test_a_schema_that_refers_to_itself_is_edited_as_json():
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}}}
    schema = {
        **object_of(node={"$ref": "#/$defs/Node"}, loop={"$ref": "#/$defs/Loop"}),
        "$defs": {"Node": node, "Loop": {"$ref": "#/$defs/Loop"}},
    }
    form, view = opened(schema, {"node": {"next": {"next": {}}}})
    assert sent(form, view) == {"node": {"next": {"next": {}}}}


def test_many_arguments_are_edited_as_one_json_and_too_much_not_at_all():
    many = {f"argument_{i}": "x" for i in range(100)}
    assert [f.kind for f in forms.form(object_of(**dict.fromkeys(many, STRING)), many).fields] == [Kind.JSON]
    assert forms.form(object_of(a=STRING), {"a": "x" * 3001}) is None
    assert forms.form(object_of(**dict.fromkeys(many, STRING)), dict.fromkeys(many, "x" * 40)) is None


def test_only_what_the_form_holds_is_read():
    form, _ = opened(object_of(a=STRING, level=LEVEL), {"a": "x"})
    for filled in ({}, {"field:0": "x"}, {"field:0": "x", "field:1": "0", "field:2": "approved"}):
        with pytest.raises(NotThisForm):
            forms.read(form, filled)
    for chosen in ("2", "-1", "", "low", ("0",), "０"):
        with pytest.raises((NotThisForm, BadFields)):
            forms.read(form, {"field:0": "x", "field:1": chosen})


def test_words_of_the_schema_are_plain_text_within_slacks_limits():
    hostile = "<!channel> *bold* \u202e" + "x" * 5000
    schema = object_of(["a"], a={"type": "string", "title": hostile, "description": hostile, "examples": [hostile]})
    _, view = opened(schema, {"a": "x"})
    block = view["blocks"][-1]
    assert {block[key]["type"] for key in ("label", "hint")} == {"plain_text"}
    assert block["element"]["placeholder"]["type"] == "plain_text"
    assert "\u202e" not in json.dumps(view, ensure_ascii=False)


def test_a_problem_is_told_at_the_field_where_it_can_be_put_right():
    schema = object_of(
        ["a"],
        a=STRING,
        limits=object_of(["cpu"], cpu={**INTEGER, "minimum": 1}),
        ports={"type": "array", "items": INTEGER},
    )
    args = {"a": "x", "limits": {"cpu": 1}, "ports": [1]}
    form = forms.form(schema, args)
    at = lambda *path: ".".join(form.field_at(path).path)  # noqa: E731
    assert [at("a"), at("limits", "cpu"), at("ports", 0), at("limits")] == ["a", "limits.cpu", "ports", "limits.cpu"]
    spec = ToolSpec(approval().tool_id, "t", "t", "", Source.DEMO, None, schema, "f" * 64)
    wrong = {"limits": {"cpu": 0}, "ports": ["x"]}
    assert {problem.path for problem in problems(spec, wrong)} == {("a",), ("limits", "cpu"), ("ports", 0)}
    assert validate(spec, wrong) is not None
    assert problems(spec, args) == []
    assert isinstance(problems(spec, wrong)[0], Problem)
