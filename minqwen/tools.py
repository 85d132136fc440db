'''Tools: Python functions that the model may call.

    def weather(city: str, days: int = 1) -> str:
        """The weather forecast.

        Args:
            city: Its name in English.
            days: How many days ahead.
        """

    describe(weather)                                   # its JSON schema, which the chat template shows to the model
    text, calls = parse_tool_calls(answer, [weather])   # what the model wrote, and the calls in it
    call([weather], calls[0])                           # the result, as the text that the model reads next

The model knows a function by its name, its description and its parameters' types. It calls one in this form, which is
no JSON and no real XML either, since nothing in a value is escaped:

    <tool_call>
    <function=weather>
    <parameter=city>
    Paris
    </parameter>
    </function>
    </tool_call>

What goes wrong in a call is told to the model, as text: it may try again.
'''

import inspect
import json
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from .errors import QwenError

__all__ = ["ToolCall", "call", "describe", "describe_all", "parse_tool_calls"]


@dataclass
class ToolCall:
    """A function that the model asked for.

    Attributes:
        name: of the function.
        arguments: by name; each of the type that the function's schema says, or the text that could not become one.
        result: what came back, as the model read it; None if it was not run.
    """

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    result: str | None = None

    def official(self) -> dict:
        """As it stands in a message's `tool_calls`."""
        return {"type": "function", "function": {"name": self.name, "arguments": self.arguments}}


# ------------------------------------------------------------------------------------------- functions to schemas

TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", NoneType: "null",
         list: "array", tuple: "array", dict: "object"}  # fmt: skip


def describe(tool: "Callable | dict") -> dict:
    """The official JSON schema of a function: {"type": "function", "function": {"name": ..., ...}}.

    Descriptions come from the docstring: plain, or with parameters in the style of Google or of numpy. A parameter
    with a default need not be given; one without a type hint is a string.

    Args:
        tool: a function or method; or a schema, which is returned as it is.

    Raises:
        QwenError: it has no name that a model could call, takes *args or **kwargs, is async, or has a type hint that no
            JSON stands for.
    """
    if isinstance(tool, dict):
        if not isinstance(tool.get("function", tool).get("name"), str):
            raise QwenError("A tool given as a schema looks like {'type': 'function', 'function': {'name': ..., "
                            "'description': ..., 'parameters': ...}}; this one has no name.")
        return tool
    name = getattr(tool, "__name__", "")
    if not callable(tool) or isinstance(tool, type) or not name.isidentifier():
        raise QwenError(f"A tool is a function with a name, or a schema, but this is {tool!r}: write it with `def`.")
    if inspect.iscoroutinefunction(tool):
        raise QwenError(f"The tool {name} is async, and tools are called plainly here: wrap it in asyncio.run.")
    try:
        parameters, hints = inspect.signature(tool).parameters, get_type_hints(tool)
    except (TypeError, ValueError, NameError) as error:
        raise QwenError(f"The tool {name} does not tell its parameters ({error}): wrap it in a function of your "
                        f"own.") from None
    description, texts = _parse_docstring(inspect.getdoc(tool) or "")
    properties, required = {}, []
    for parameter in parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise QwenError(f"The tool {name} takes {parameter}, which the model cannot be told of: name every "
                            f"parameter.")
        properties[parameter.name] = _schema(hints.get(parameter.name, str), f"{name}'s parameter {parameter.name}")
        if text := texts.get(parameter.name):
            properties[parameter.name]["description"] = text
        if parameter.default is parameter.empty:
            required.append(parameter.name)
    schema = {"type": "object", "properties": properties} | ({"required": required} if required else {})
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


def describe_all(tools: "Sequence[Callable | dict] | None") -> dict[str, dict]:
    """The schemas of some tools, by the functions' names.

    Raises:
        QwenError: it is no list, two have one name, or one cannot be described.
    """
    if not isinstance(tools, list | tuple | None):
        raise QwenError(f"Tools are a list of functions or of their schemas, not {tools!r}.")
    schemas = {}
    for schema in map(describe, tools or ()):
        name = schema.get("function", schema)["name"]
        if name in schemas:
            raise QwenError(f"Two tools have the name {name}, and the model could not say which one it calls: rename "
                            f"one.")
        schemas[name] = schema
    return schemas


def _schema(hint, where: str) -> dict:
    """The JSON schema of a type hint, in the form that `transformers` writes."""
    origin, args = get_origin(hint) or hint, get_args(hint)
    if origin is Any:
        return {}
    if isinstance(origin, type) and issubclass(origin, Enum):
        origin, args = Literal, tuple(member.value for member in origin)
    if origin is Literal:
        kinds = _unique(TYPES.get(type(value)) for value in args)
        if None not in kinds:
            return {"type": kinds[0] if len(kinds) == 1 else kinds, "enum": list(args)}
    if origin in (Union, UnionType):
        choices = [_schema(arg, where) for arg in args if arg is not NoneType]
        if len(choices) > 1 and all(choice.keys() == {"type"} for choice in choices):
            choices = [{"type": sorted(_unique(choice["type"] for choice in choices))}]
        schema = choices[0] if len(choices) == 1 else {"anyOf": choices}
        return schema | ({"nullable": True} if NoneType in args else {})
    if isinstance(origin, type) and origin in TYPES:
        schema = {"type": TYPES[origin]}
        if origin is list and args:
            schema["items"] = _schema(args[0], where)
        elif origin is tuple and args and args[-1] is not Ellipsis:
            schema["prefixItems"] = [_schema(arg, where) for arg in args]
        elif origin is tuple and args:
            schema["items"] = _schema(args[0], where)
        elif origin is dict and args:
            schema["additionalProperties"] = _schema(args[1], where)
        return schema
    raise QwenError(f"{where} is of the type {getattr(hint, '__name__', hint)}, which no JSON stands for: use str, "
                    f"int, float, bool, list, dict, Literal or an Enum, or give the tool's schema instead.")


def _unique(things) -> list:
    return list(dict.fromkeys(things))


# a line such as "Args:", or one that is underlined; what comes before the first is the description
HEADING = re.compile(r"^(?:(?P<google>Args|Arguments|Parameters|Returns?|Yields?|Raises|Examples?|Notes?|Warnings?):"
                     r"|(?P<numpy>\w[\w ]*)\n---+)[ \t]*$", flags=re.MULTILINE)
GOOGLE_ENTRY = re.compile(r"(\w+)(?: *\(.*?\))?:[ \t]*(.*)")            # "city: its name", "city (str): its name"
NUMPY_ENTRY = re.compile(r"(\w+(?:, *\w+)*)(?: *:.*)?()$")               # "city : str", "x, y : float", "city"


def _parse_docstring(doc: str) -> tuple[str, dict[str, str]]:
    """A docstring's description, and the text on each parameter."""
    description, *sections = HEADING.split(doc)
    texts, names = {}, []
    for google, numpy, body in zip(*(iter(sections),) * 3):
        if (google or numpy) not in ("Args", "Arguments", "Parameters"):
            continue
        for line in textwrap.dedent(body).splitlines():
            entry = (GOOGLE_ENTRY if google else NUMPY_ENTRY).match(line)
            if entry:                                   # at the margin; what belongs to it is indented
                names = re.split(", *", entry[1])
            for name in names:
                texts[name] = f"{texts.get(name, '')} {entry[2] if entry else line.strip()}".strip()
    return description.strip(), texts


# ------------------------------------------------------------------------------------------------- text to calls

FUNCTION = re.compile(r"\s*<function=([^<>\n]+)>")
PARAMETER = re.compile(r"\s*<parameter=([^<>\n]+)>\n?")
# A closing tag may be missing where what comes next can only come after it.
END_OF_VALUE = r"\n?</parameter>|\n?(?=</function>\s*(?:</?tool_call>|<function=|\Z))|\n?(?=</tool_call>)"
END_OF_FUNCTION = re.compile(r"\s*</function>|(?=\s*(?:</?tool_call>|<function=))")
END_OF_CALL = re.compile(r"\s*</tool_call>|(?=\s*<tool_call>)|\s*\Z")


def parse_tool_calls(text: str, tools: "Sequence[Callable | dict]" = ()) -> tuple[str, list[ToolCall]]:
    """Reads the calls in what the model wrote -> the text without them, and the calls in order.

    A value is the text between its tags without the line break on either side, kept to the letter. If the function is
    known it is read as the type that the schema says: a number, true or false, JSON for an array or an object; text
    that is none of that type stays text.

    A call that was cut short is no call, and stays in the text. Models sometimes call before they close their thinking:
    that counts if nothing comes after it, and else was a draft.

    Args:
        text: an answer, with its thinking if you like.
        tools: functions, or schemas, for the types.
    """
    functions = {name: schema.get("function", schema) for name, schema in describe_all(tools).items()}
    properties = {name: (schema.get("parameters") or {}).get("properties") or {} for name, schema in functions.items()}
    found = list(_find_calls(text, properties))
    thought = [tag.end() for tag in re.finditer("</think>", text) if not any(a < tag.start() < b for a, b, _ in found)]
    if thought and text[thought[-1] :].strip():
        found = [(start, end, calls) for start, end, calls in found if start >= thought[-1]]
    if not found:
        return text, []
    ends = [0, *(end for _, end, _ in found)]
    starts = [*(start for start, _, _ in found), len(text)]
    rest = "".join(text[end:start] for end, start in zip(ends, starts))
    return rest.strip(), [one for _, _, calls in found for one in calls]


def _find_calls(text: str, properties: dict[str, dict]) -> Iterator[tuple[int, int, list[ToolCall]]]:
    """Where each call starts and ends, and what it is."""
    end = 0
    while (start := text.find("<tool_call>", end)) >= 0:
        calls, end = _read_call(text, start + len("<tool_call>"), properties)
        if calls:
            yield start, end, calls


def _read_call(text: str, start: int, properties: dict[str, dict]) -> tuple[list[ToolCall], int]:
    """The function behind a <tool_call> (some models put in several), and where it ends; none if it is cut short."""
    calls, at = [], start
    while function := FUNCTION.match(text, at):
        name, arguments, at = function[1].strip(), {}, function.end()
        known = properties.get(name)
        # another parameter may begin within a value that is not closed; if it is one, and not just a text like it
        names = "[^<>\n]+" if known is None else "|".join(map(re.escape, known)) or "(?!)"
        end_of_value = re.compile(rf"{END_OF_VALUE}|\n(?=<parameter=(?:{names})>)")
        while parameter := PARAMETER.match(text, at):
            end = end_of_value.search(text, parameter.end())
            if end is None:
                return [], start
            value, key = text[parameter.end() : end.start()], parameter[1].strip()
            arguments[key], at = _convert(value, (known or {}).get(key, {})), end.end()
        end = END_OF_FUNCTION.match(text, at)
        if end is None:
            return [], start
        calls.append(ToolCall(name, arguments))
        at = end.end()
    end = END_OF_CALL.match(text, at)
    return (calls, end.end()) if calls and end else ([], start)


def _convert(text: str, schema: dict):
    """A value from its text, by the schema; text that is none of the schema's types stays text."""
    kinds = _kinds(schema)
    for kind, read in READERS.items():                  # from the narrowest: anything is a string
        if kind in kinds:
            try:
                return read(text)
            except (ValueError, RecursionError):        # the latter from JSON that is nested without end
                continue
    return text


def _kinds(schema: dict) -> set[str]:
    """The names of the types that a schema allows; empty if it leaves them open."""
    kind = schema.get("type") or ()
    kinds = {kind} if isinstance(kind, str) else set(kind)
    for choice in schema.get("anyOf") or ():
        kinds |= _kinds(choice)
    return kinds | ({"null"} if schema.get("nullable") else set())


def _json(*kinds: type):
    def read(text):
        value = json.loads(text)
        if not isinstance(value, kinds):
            raise ValueError
        return value

    return read


def _read_null(text):
    if text.strip().lower() not in ("null", "none"):
        raise ValueError
    return None


def _read_boolean(text):
    if text.strip().lower() not in ("true", "false"):
        raise ValueError
    return text.strip().lower() == "true"


def _read_number(text):
    try:
        return int(text)
    except ValueError:
        return float(text)


READERS = {"null": _read_null, "boolean": _read_boolean, "integer": int, "number": _read_number,
           "array": _json(list), "object": _json(dict), "string": str}  # fmt: skip


# ---------------------------------------------------------------------------------------------------- running them


def call(tools: "Sequence[Callable | dict]", tool_call: ToolCall) -> str:
    """Run a call -> its result as text. What is not text becomes JSON if it can, and else what `str` makes of it.

    Whatever is wrong - no such function, arguments that do not fit, an exception - is the result: the model reads it.

    Args:
        tools: functions, among them the one called.
        tool_call: from `parse_tool_calls`.
    """
    functions = {describe(tool)["function"]["name"]: tool for tool in tools if not isinstance(tool, dict)}
    function = functions.get(tool_call.name)
    if function is None:
        there_are = f"there are {', '.join(functions)}" if functions else "there is none"
        return f"NameError: there is no function {tool_call.name}; {there_are}."
    try:
        args, kwargs = _arguments(function, deepcopy(tool_call.arguments))
        result = function(*args, **kwargs)
        return result if isinstance(result, str) else _as_text(result)
    except (Exception, SystemExit) as error:
        return f"{type(error).__name__}: {error}".removesuffix(": ")


def _arguments(function: Callable, given: dict) -> tuple[list, dict]:
    """What to call a function with, by place and by name; raises what Python would, or says which type is wrong."""
    properties, hints = describe(function)["function"]["parameters"]["properties"], get_type_hints(function)
    for name, value in given.items():
        schema, hint = properties.get(name, {}), hints.get(name)
        kinds = _kinds(schema)
        if isinstance(value, str) and kinds and "string" not in kinds:
            raise TypeError(f"{name} must be of the type {' or '.join(sorted(kinds))}, not {value!r}")
        if "enum" in schema and value not in schema["enum"] and not (value is None and "null" in kinds):
            raise ValueError(f"{name} must be one of {', '.join(map(repr, schema['enum']))}, not {value!r}")
        for choice in get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,):
            if isinstance(choice, type) and issubclass(choice, Enum) and value is not None:
                given[name] = choice(value)             # the model knows its members by their values
    signature = inspect.signature(function)
    by_place = [p.name for p in signature.parameters.values() if p.kind is p.POSITIONAL_ONLY and p.name in given]
    args = [given.pop(name) for name in by_place]
    signature.bind(*args, **given)
    return args, given


def _as_text(result) -> str:
    try:
        return json.dumps(result, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return str(result)
