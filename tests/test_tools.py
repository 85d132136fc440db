"""Tools: schemas beside those of `transformers`, the official form read back, and failures that become text."""

import functools
import json
import math
import random
from enum import Enum
from typing import Annotated, Any, Literal, Optional

import pytest
from chat_support import byte_tokenizer

from minqwen.errors import QwenError
from minqwen.speech import Speech
from minqwen.tools import ToolCall, call, describe, parse_tool_calls


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


def everything(text: str, count: int, ratio: float, sure: bool, words: list[str], table: dict[str, int], loose: dict,
               pair: tuple[int, str], unit: Literal["c", "f"], level: Literal[1, "two"], colour: Colour, free: Any,
               nested: list[list[float]], either: int | str, both: list[int] | str, maybe: int | None = None,
               old: Optional[str] = None, paint: Colour | None = None, depth: Annotated[int, "in metres"] = 3):  # noqa: UP045
    """All the types there are.

    In two paragraphs.

    Args:
        text: What it says.
        count: How often:
            once, or more.
        ratio: A part of one.
        sure: Whether it is so.
        words: Some words.
        table: By name.
        loose: Anything by name.
        pair: Two things.
        unit: Of temperature.
        level: One or two.
        colour: Of the thing.
        free: Whatever.
        nested: Numbers of numbers.
        either: One or the other.
        both: Some or one.
        maybe: If there is one.
        old: The older way to say so.
        paint: If it has any.
        depth: How deep.

    Returns:
        Nothing.
    """


def weather(city: str, days: int = 1, unit: Literal["c", "f"] = "c") -> dict:
    """The weather forecast."""
    return {"city": city, "sky": ["sonnig", "trüb"][:days], "unit": unit}


# ----------------------------------------------------------------------------------------------------------- describe


def test_schemas_are_those_of_transformers():
    utils = pytest.importorskip("transformers.utils")
    assert describe(everything) == utils.get_json_schema(everything)
    assert describe(everything)["function"]["parameters"]["required"][-1] == "both"


def parameters(function):
    return describe(function)["function"]["parameters"]["properties"]


def google(a, b: float = 1, c=None):
    """Adds.

    And more.

    Arguments:
        a (int, optional): The first: a number.
            It goes on.

        b (Callable[[int], str]): The second.

    Raises:
        ValueError: never.
    """


def numpy(a, b: float = 1, c=None):
    """Adds.

    And more.

    Parameters
    ----------
    a, c : int
        The first: a number.
        It goes on.
    b
        The second.

    Returns
    -------
    x : int
        Nothing.
    """


def plain(a, b: float = 1, c=None):
    """Adds.

    And more. For instance:
        a: not described
    """


def test_docstrings():
    """Of either style; without a hint a parameter is a string, and with a default it need not be given."""
    for function in (google, numpy, plain):
        described = describe(function)["function"]
        assert described["name"] == function.__name__ and described["description"].startswith("Adds.\n\nAnd more.")
        assert described["parameters"]["required"] == ["a"]
        assert [p["type"] for p in parameters(function).values()] == ["string", "number", "string"]
    first, second = "The first: a number. It goes on.", "The second."
    assert [p.get("description") for p in parameters(google).values()] == [first, second, None]
    assert [p.get("description") for p in parameters(numpy).values()] == [first, second, first]
    assert [p.get("description") for p in parameters(plain).values()] == [None] * 3
    assert describe(numpy)["function"]["description"] == describe(google)["function"]["description"]
    assert describe(plain)["function"]["description"].endswith("For instance:\n    a: not described")


def test_what_can_be_a_tool():
    class Shop:
        def price(self, thing: str) -> float:
            return 2.5

    assert list(parameters(Shop().price)) == ["thing"]
    assert call([Shop().price], ToolCall("price", {"thing": "x"})) == "2.5"
    assert describe(lru := functools.lru_cache(weather)) == describe(weather)
    assert call([lru], ToolCall("weather", {"city": "Bern"})).startswith('{"city": "Bern"')
    assert list(parameters(math.floor)) == ["x"]
    schema = describe(weather)
    assert describe(schema) is schema and describe(schema["function"]) is schema["function"]

    def nothing():
        pass

    assert describe(nothing) == {"type": "function", "function": {
        "name": "nothing", "description": "", "parameters": {"type": "object", "properties": {}}}}


def with_args(*args):
    pass


def with_kwargs(a, **options):
    pass


async def later(a):
    pass


def strange(when: bytes):
    pass


def deep(when: list[complex]):
    pass


def unknown(a: "Nowhere"):  # noqa: F821
    pass


@pytest.mark.parametrize("tool, problem", [
    (lambda a: a, "a function with a name.*<lambda>"),
    (functools.partial(weather, days=2), "a function with a name"),
    (int, "a function with a name"),
    ("weather", "a function with a name.*'weather'"),
    (None, "a function with a name"),
    ({"type": "function"}, "as a schema looks like.*no name"),
    ({"function": {"name": 3}}, "no name"),
    (with_args, r"with_args takes \*args.*name every parameter"),
    (with_kwargs, r"with_kwargs takes \*\*options"),
    (later, "later is async"),
    (strange, "strange's parameter when is of the type bytes"),
    (deep, "deep's parameter when is of the type complex"),
    (unknown, "unknown does not tell its parameters.*Nowhere"),
])
def test_what_cannot_be_a_tool(tool, problem):
    with pytest.raises(QwenError, match=problem) as error:
        describe(tool)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


# -------------------------------------------------------------------------------------------------------------- parse


def written(name, **values):
    """A call as the template writes it."""
    text = "".join(f"<parameter={key}>\n{value if isinstance(value, str) else json.dumps(value)}\n</parameter>\n"
                   for key, value in values.items())
    return f"<tool_call>\n<function={name}>\n{text}</function>\n</tool_call>"


def test_calls_are_read_as_they_are_written():
    arguments = {
        "text": " two\nlines\n\n", "count": -12, "ratio": 0.5, "sure": True, "words": ["a", "ü"], "table": {"a": 1},
        "loose": {}, "pair": [1, "b"], "unit": "c", "level": 1, "colour": "red", "free": "12", "nested": [[1.5]],
        "either": 7, "both": [1], "maybe": None, "old": None, "depth": 10 ** 30}
    text = f"Let me see.\n\n{written('everything', **arguments)}\n{written('weather', city='Bern', days=2)}"
    said, calls = parse_tool_calls(text, [everything, weather])
    assert said == "Let me see."
    assert calls == [ToolCall("everything", arguments), ToolCall("weather", {"city": "Bern", "days": 2})]
    assert type(calls[0].arguments["sure"]) is bool and type(calls[0].arguments["ratio"]) is float
    assert parse_tool_calls(text, [describe(everything)])[1][1].arguments["days"] == "2"     # not known: a text
    assert parse_tool_calls(text)[1][0].arguments["sure"] == "true"


@pytest.mark.parametrize("value", [
    "", "\n", "a\n", "\na", "  spaces  ", "<b>\n</b>", "def f():\n    return 1\n", "</function>", "x </function>\ny",
    "<parameter=text>", "<parameter=other>\n1", '{"name": "f"}', "12", "null", "true", "<|im_end|>", "</think>\n\nOk",
])
def test_a_text_is_kept_to_the_letter(value):
    def note(text: str):
        pass

    for tools in ([note], [describe(note)]):
        assert parse_tool_calls(written("note", text=value), tools) == ("", [ToolCall("note", {"text": value})])


@pytest.mark.parametrize("name, text, value", [
    ("count", "12", 12), ("count", " 12\n", 12), ("count", "12.5", "12.5"), ("count", "twelve", "twelve"),
    ("count", "9" * 5000, "9" * 5000), ("ratio", "3", 3), ("ratio", "1e-3", 0.001), ("ratio", "a half", "a half"),
    ("sure", "True", True), ("sure", "false", False), ("sure", "1", "1"), ("words", '["a"]', ["a"]),
    ("words", "a, b", "a, b"), ("words", '{"a": 1}', '{"a": 1}'), ("words", "[" * 100_000, "[" * 100_000),
    ("table", '{"a": [1]}', {"a": [1]}), ("table", "[1]", "[1]"), ("text", "null", "null"), ("maybe", "null", None),
    ("maybe", "3", 3), ("old", "None", None), ("old", "3", "3"), ("either", "3", 3), ("either", "three", "three"),
    ("both", "[3]", [3]), ("both", "3", "3"), ("level", "1", 1), ("level", "two", "two"), ("free", "[1]", "[1]"),
    ("unheard", "1", "1"),
])
def test_values_become_what_the_schema_says_or_stay_text(name, text, value):
    (found,) = parse_tool_calls(written("everything", **{name: text}), [everything])[1]
    assert found.arguments == {name: value} and type(found.arguments[name]) is type(value)


F = "<tool_call>\n<function=weather>\n"


@pytest.mark.parametrize("text", [
    F + "<parameter=city>\nBern\n</parameter>\n<parameter=days>\n2\n</parameter>\n</function>\n</tool_call>",
    F + "<parameter=city>\nBern\n</parameter>\n<parameter=days>\n2\n</function>\n</tool_call>",
    F + "<parameter=city>\nBern\n</parameter>\n<parameter=days>\n2\n</parameter>\n</tool_call>",
    F + "<parameter=city>\nBern\n<parameter=days>\n2\n</tool_call>",
    F + "<parameter=city>\nBern\n</parameter>\n<parameter=days>\n2\n</parameter>\n</function>\n",
    "<tool_call><function=weather><parameter=city>Bern</parameter><parameter=days>2</parameter></function></tool_call>",
    "  <tool_call>  <function= weather >\n\n<parameter=city>\nBern\n</parameter> <parameter=days>\n2</parameter>"
    "</function></tool_call>\n\n",
])
def test_closings_may_be_missing_where_it_is_clear(text):
    for behind, more in (("", 0), ("\n" + written("weather", city="Rom"), 1)):
        said, calls = parse_tool_calls(text + behind, [weather])
        assert said == "" and len(calls) == 1 + more
        assert calls[0] == ToolCall("weather", {"city": "Bern", "days": 2})


def test_a_parameter_begins_in_an_open_value_only_if_there_is_one():
    text = F + "<parameter=city>\nBern\n<parameter=of>\nParis\n</function>\n</tool_call>"
    assert parse_tool_calls(text, [weather])[1] == [ToolCall("weather", {"city": "Bern\n<parameter=of>\nParis"})]
    assert parse_tool_calls(text)[1] == [ToolCall("weather", {"city": "Bern", "of": "Paris"})]


def test_a_call_cut_short_is_none():
    whole = written("weather", city="Bern", days=2)
    complete = whole.index("</function>") + len("</function>")
    for end in range(complete):
        assert parse_tool_calls("Hm. " + whole[:end], [weather]) == ("Hm. " + whole[:end], [])
        said, calls = parse_tool_calls(f"{whole}\n{whole[:end]}", [weather])
        assert said == whole[:end].strip() and len(calls) == 1
    assert len(parse_tool_calls(whole[:complete], [weather])[1]) == 1


# ---- what the template writes is read back

SEAMS = ["</parameter>", "<parameter=text>", "<parameter=none>", "</function>", "<function=note>", "</tool_call>",
         "<tool_call>", "\n", "\n", " ", "x", "12", "ü", "👍", "</think>", "<|im_end|>", '"']


def note(text: str, count: int = 1, ratio: float = 0.5, sure: bool = True, words: list[str] = (), table: dict = {},  # noqa: B006
         maybe: int | None = None):
    """With arguments of all types."""


def random_call(rng):
    whole = [written("weather", city="Bern"), written("note", text="hi", count=3)]

    def text():
        return "".join(rng.choices(SEAMS + whole, k=rng.randint(0, 6)))

    values = {"text": text(), "count": rng.choice([0, -7, 10**20]), "ratio": rng.choice([1.5, 1e100, 3, -0.0]),
              "sure": rng.random() < 0.5, "words": [text(), text()], "table": {text(): [text(), None, {"a": 1.5}]},
              "maybe": rng.choice([None, 3])}
    names = ["text", *rng.sample(list(values)[1:], rng.randint(0, 3))]
    rng.shuffle(names)
    return ToolCall("note", {name: values[name] for name in names})


@pytest.mark.parametrize("first", range(0, 100, 20))
def test_trap_35_what_the_template_writes_is_read_back(first):
    """In one go and token by token, in any order, with text before; unless a value closes the very call it is in."""
    tokenizer = byte_tokenizer()
    for seed in range(first, first + 20):
        rng = random.Random(seed)
        calls = [random_call(rng) for _ in range(rng.randint(1, 3))]
        said = rng.choice(["", "I see.", "a </tool_call> b"])
        answer = {"role": "assistant", "content": said, "reasoning_content": "",
                  "tool_calls": [one.official() for one in calls]}
        text = tokenizer.render([{"role": "user", "content": "?"}, answer], add_generation_prompt=False)
        text = text.split("</think>\n\n", 1)[1].removesuffix("<|im_end|>\n")
        assert parse_tool_calls(text, [weather, note]) == (said, calls), seed
        speech = Speech(tokenizer, "", tools=[weather, note])
        pieces = list(speech.follow(id for id in tokenizer.encode(text) if id not in tokenizer.stop_ids))
        assert list(map(str, speech.reply().tool_calls)) == [str(one).replace("<|im_end|>", "") for one in calls], seed
        assert speech.reply() == said and sum(piece.tool == "call" for piece in pieces) == len(calls)


@pytest.mark.parametrize("value", [
    "a </tool_call> b", "a </parameter> b", "</parameter>", "\n</parameter>\n", "</function>\n</tool_call>",
    "<tool_call>",
    written("weather", city="Bern", days=2), f"first {written('note', text='hi')} then", written("note", text="hi") * 2,
    "a\n</parameter>\n<parameter=text>\nb", "a\n</parameter>\n<parameter=count>\nnone",
])
def test_a_tool_is_run_with_what_it_was_given_and_nothing_else(value):
    """Those that speak of tags, too; where it cannot be told, the model is."""
    given = []

    def note(text: str, count: int = 1):
        given.append((text, count))

    (found,) = parse_tool_calls(written("note", text=value), [weather, note])[1]
    assert found == ToolCall("note", {"text": value})
    result = call([weather, note], found)
    assert given == [(value, 1)] or not given and "cannot be told for sure" in result and "\n" not in result
    assert bool(given) != ("<parameter=" in value and not value.startswith(("<tool_call>", "first")))


def test_a_mistake_is_told_and_no_tool_is_run_with_it():
    """It might be part of the value before it, as the template would write that; but mostly it is a mistake."""
    for wrong in ({"hour": 3}, {"days": "two"}):
        (found,) = parse_tool_calls(written("weather", city="Bern", **wrong), [weather])[1]
        assert call([weather], found).startswith("SyntaxError: it cannot be told for sure")
    text = F + "<parameter=city>\nBern\n<parameter=days>\n2\n</parameter>\n</function>\n</tool_call>"
    (found,) = parse_tool_calls(text, [weather])[1]
    assert found.arguments == {"city": "Bern\n<parameter=days>\n2"} and found.problem


@pytest.mark.parametrize("behind", ["", "\n", "\n" + written("weather", city="Rom")])
def test_a_call_may_have_lost_its_opening_tag(behind):
    lost = written("weather", city="Bern").removeprefix("<tool_call>\n")
    for before in ("", "Let me see.\n\n", "a <b> <function> "):
        said, calls = parse_tool_calls(before + lost + behind, [weather])
        assert said == before.strip() and calls[0] == ToolCall("weather", {"city": "Bern"})
        assert len(calls) == 1 + ("Rom" in behind)


def test_text_between_and_behind_calls():
    bern, rom = written("weather", city="Bern"), written("weather", city="Rom")
    said, calls = parse_tool_calls(f"First {bern} and then {rom} so.", [weather])
    assert said == "First  and then  so." and [one.arguments["city"] for one in calls] == ["Bern", "Rom"]


def test_reading_ends_soon_whatever_the_text():
    many = "\n</parameter>\n<parameter=%d>\n" * 40 % tuple(range(40))
    for text in (F + "<parameter=city>\n" + many * 20, (F + "<parameter=city>\n") * 300, many * 50):
        assert parse_tool_calls(text, [weather]) == parse_tool_calls(text) == (text, [])


@pytest.mark.parametrize("text", [
    '<tool_call>\n{"name": "weather", "arguments": {"city": "Bern"}}\n</tool_call>', "<tool_call></tool_call>", "plain",
    "", "<tool_call>", "<function=weather>\n</function>", "</tool_call>", " a <tool_call>\nb</tool_call> ",
    F + "</function>\nand then\n</tool_call>", "<tool_call>\n<function=>\n</function>\n</tool_call>",
])
def test_what_is_no_call_stays_as_it_is(text):
    """JSON above all."""
    assert parse_tool_calls(text, [weather]) == (text, [])


def test_trap_26_a_call_in_an_open_think_block_counts_if_nothing_follows():
    bern, rom = written("weather", city="Bern"), written("weather", city="Rom")
    one = [ToolCall("weather", {"city": "Bern"})]
    assert parse_tool_calls(f"<think>\nhm\n{bern}\n</think>\n\n", [weather]) == ("<think>\nhm\n\n</think>", one)
    assert parse_tool_calls(f"hm\n{bern}", [weather]) == ("hm", one)
    # a draft is none:
    assert parse_tool_calls(f"{rom}\n</think>\n\nNow: {bern}", [weather]) == (f"{rom}\n</think>\n\nNow:", one)
    text = f"perhaps {bern}\n</think>\n\nIt is fine."
    assert parse_tool_calls(text, [weather]) == (text, [])


SCHEMA = {"type": "object", "$defs": {
    "Unit": {"enum": ["c", "f"], "type": "string"}, "Count": {"$ref": "#/$defs/Whole"}, "Whole": {"type": "integer"},
    "Loop": {"$ref": "#/$defs/Loop"}, "a/b": {"type": "object"}}, "properties": {
    "unit": {"$ref": "#/$defs/Unit"}, "count": {"$ref": "#/$defs/Count", "description": "d"},
    "one": {"oneOf": [{"type": "integer"}, {"type": "array"}]}, "lost": {"$ref": "#/$defs/Nowhere"},
    "all": {"allOf": [{"$ref": "#/$defs/Whole"}, {"minimum": 1}]}, "loop": {"$ref": "#/$defs/Loop"},
    "any": {"anyOf": [{"$ref": "#/$defs/Whole"}, {"type": "null"}]}, "list": {"type": ["number", "null"]},
    "const": {"const": 3}, "enum": {"enum": [1, True, None]}, "mixed": {"enum": ["1", "b", 2]},
    "slash": {"$ref": "#/$defs/a~1b"}, "open": {"anyOf": [{}, {"type": "integer"}]}, "true": True,
    "both": {"type": ["string", "integer", "boolean"]}}}  # fmt: skip


@pytest.mark.parametrize("name, value", [
    ("unit", "c"), ("count", 3), ("one", 3), ("one", [3]), ("all", 3), ("any", 3), ("any", None), ("list", 1.5),
    ("list", None), ("const", 3), ("enum", 1), ("enum", True), ("enum", None), ("mixed", "b"), ("mixed", 2),
    ("loop", "3"), ("slash", {"a": 1}), ("lost", "3"), ("open", "3"), ("true", "3"), ("both", "x"), ("both", 3),
    ("both", True), ("both", "True"), ("both", " 3 "), ("both", "1_000"), ("both", "03"),
])  # fmt: skip
def test_types_wherever_a_schema_says_them(name, value):
    """Behind references and in compositions; where a string is allowed it is one, unless written as JSON writes it."""
    tool = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}
    text = value if isinstance(value, str) else json.dumps(value)
    (found,) = parse_tool_calls(written("f", **{name: text}), [tool])[1]
    assert found.arguments == {name: value} and type(found.arguments[name]) is type(value)


# --------------------------------------------------------------------------------------------------------------- call


def test_results_hold_no_half_characters():
    """As in texts that were not UTF-8: no tokenizer could encode them."""
    def read(what: str):
        if what == "error":
            raise ValueError("\udcff")
        return {"text": "a\udcffb", "pair": "\ud83d\ude00", "list": ["\ud83d"]}[what]

    results = {what: call([read], ToolCall("read", {"what": what})) for what in ("text", "pair", "list", "error")}
    assert results == {"text": "a\ufffdb", "pair": "😀", "list": '["\ufffd"]', "error": "ValueError: \ufffd"}
    (found,) = parse_tool_calls(written("everything", words='["\\ud83d"]'), [everything])[1]
    assert found.arguments == {"words": '["\\ud83d"]'}



def test_results_become_text():
    def give(key: str):
        return {"text": " ü\n", "none": None, "list": [1, "ü"], "set": {1}, "number": 2, "truth": True,
                "loop": loop, "keys": {1: "a"}}[key]

    loop = []
    loop.append(loop)
    expected = {"text": " ü\n", "none": "null", "list": '[1, "ü"]', "set": "{1}", "number": "2", "truth": "true",
                "loop": "[[...]]", "keys": '{"1": "a"}'}
    assert {key: call([give], ToolCall("give", {"key": key})) for key in expected} == expected
    assert call([weather, give], ToolCall("weather", {"city": "Bern"})) == \
        '{"city": "Bern", "sky": ["sonnig"], "unit": "c"}'


def test_whatever_is_wrong_is_told_to_the_model():
    def fail(how: str = ""):
        if how == "exit":
            raise SystemExit(3)
        if how == "silent":
            raise RuntimeError
        if how == "strange":
            class Strange:
                def __repr__(self):
                    raise ValueError("no words")
            return Strange()
        raise KeyError(how)

    def says(tools, name, **arguments):
        return call(tools, ToolCall(name, arguments))

    assert says([fail], "fail", how="x") == "KeyError: 'x'"
    assert says([fail], "fail", how="silent") == "RuntimeError"
    assert says([fail], "fail", how="exit") == "SystemExit: 3"
    assert says([fail], "fail", how="strange") == "ValueError: no words"
    assert says([fail, weather], "forecast") == "NameError: there is no function forecast; there are fail, weather."
    assert says([], "forecast") == "NameError: there is no function forecast; there is none."
    assert says([weather], "weather") == "TypeError: missing a required argument: 'city'"
    assert says([weather], "weather", city="x", hour=3) == "TypeError: got an unexpected keyword argument 'hour'"
    assert says([weather], "weather", city="x", days="two") == "TypeError: days must be of the type integer, not 'two'"
    assert says([weather], "weather", city="x", unit="k") == "ValueError: unit must be one of 'c', 'f', not 'k'"


def test_ctrl_c_is_no_failure_of_the_tool():
    def slow():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call([slow], ToolCall("slow"))


def test_enums_and_parameters_by_place():
    def paint(colour: Colour, /, second: Colour | None = Colour.RED):
        return f"{colour} {second}"

    assert call([paint], ToolCall("paint", {"colour": "blue"})) == "Colour.BLUE Colour.RED"
    assert call([paint], ToolCall("paint", {"second": "blue", "colour": "red"})) == "Colour.RED Colour.BLUE"
    assert call([paint], ToolCall("paint", {"colour": "red", "second": None})) == "Colour.RED None"
    assert call([paint], ToolCall("paint", {"colour": "pink"})).startswith("ValueError: colour must be one of")
    assert call([math.floor], ToolCall("floor", {"x": 2.5})) == "2"


def test_calling_leaves_the_call_as_it_was():
    def take(words: list[str], colour: Colour):
        words.append("more")
        return len(words)

    asked = ToolCall("take", {"words": ["a"], "colour": "red"})
    assert call([take], asked) == "2" and asked == ToolCall("take", {"words": ["a"], "colour": "red"})
