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
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from enum import Enum
from itertools import count
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from .errors import QwenError

__all__ = ["ToolCall", "call", "describe", "describe_all", "find_tool_calls", "parse_tool_calls"]


@dataclass
class ToolCall:
    """A function that the model asked for.

    Attributes:
        name: of the function.
        arguments: by name; each of the type that the function's schema says, or the text that could not become one.
        result: what came back, as the model read it; None if it was not run.
        problem: why it is not to be run, in a sentence, if what the model wrote can be read in two ways; else None.
    """

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    result: str | None = None
    problem: str | None = field(default=None, repr=False, compare=False)

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
        function = tool.get("function", tool)
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
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

# As the template writes a call. Names end with their line; a call may have lost its opening tag.
CALL, END_OF_CALL = re.compile(r"(?:<tool_call>\s*)?<function=([^\n]+)>\n"), "</function>\n</tool_call>"
PARAMETER, END_OF_PARAMETER = re.compile(r"<parameter=([^\n]+)>\n"), "\n</parameter>\n"
TAG = re.compile(r"</?tool_call>|</?function\b|</?parameter\b")
CLOSING = re.compile(r"</tool_call>|</function>|</parameter>")
MANY = 5_000                                            # steps in search of a reading; then there is none

# As models write it who are in a hurry. A closing tag may be missing where what comes next can only come after it.
LOOSE_CALL = re.compile(r"<tool_call>(?=\s*<function=)")
LOOSE_FUNCTION = re.compile(r"\s*<function=([^<>\n]+)>")
LOOSE_PARAMETER = re.compile(r"\s*<parameter=([^<>\n]+)>\n?")
LOOSE_END_OF_PARAMETER = r"\n?</parameter>|\n?(?=</function>\s*(?:</?tool_call>|<function=|\Z))|\n?(?=</tool_call>)"
LOOSE_END_OF_FUNCTION = re.compile(r"\s*</function>|(?=\s*(?:</?tool_call>|<function=))")
LOOSE_END_OF_CALL = re.compile(r"\s*</tool_call>|(?=\s*<tool_call>)|\s*\Z")


@dataclass(frozen=True)
class Written:
    """Some functions with the texts of their values, as they stand in text[start:end]; mostly one."""

    start: int
    end: int
    functions: tuple[tuple[str, dict[str, str]], ...]


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
    found = find_tool_calls(text, tools)
    thought = [tag.end() for tag in re.finditer("</think>", text) if not any(a < tag.start() < b for a, b, _ in found)]
    if thought and text[thought[-1] :].strip():
        found = [(start, end, calls) for start, end, calls in found if start >= thought[-1]]
    if not found:
        return text, []
    rest = _around(text, [Written(start, end, ()) for start, end, _ in found])
    return rest.strip(), [one for _, _, calls in found for one in calls]


def find_tool_calls(text: str, tools: "Sequence[Callable | dict]" = ()) -> list[tuple[int, int, list[ToolCall]]]:
    """Where in a text calls start and end, and what they are.

    Nothing in a value is escaped, so a value may hold tags, or whole calls. What the template writes is read back all
    the same: the first reading is taken, with values as short as can be, that fits the tools' schemas and leaves no
    closing tag over. If there is none, closing tags may be missing where that is clear. A call that speaks of tags
    and could also be a plain one with a mistake in it has a `problem`, and is not run.
    """
    functions = {name: schema.get("function", schema) for name, schema in describe_all(tools).items()}
    loose = _read_loosely(text, functions)
    plain = bool(loose) and not CLOSING.search(_around(text, loose)) and not any(map(_speaks_of_tags, loose))
    readings = (_read_exactly(text, functions, whole, after_all)
                for after_all in (False, True) for whole in (True, False))
    written = next(filter(None, readings), [])
    if plain and len(written) < len(loose):             # if a value closes its call and opens the next, it is two calls
        written = loose
    doubtful = plain if written else True
    written = written or _read_exactly(text, {}, after_all=True) or loose
    return [(one.start, one.end, [_tool_call(name, values, functions.get(name), doubtful and _speaks_of_tags(one))
                                  for name, values in one.functions]) for one in written]


def _read_exactly(text: str, functions: dict[str, dict], whole: bool = False, after_all: bool = False) -> list[Written]:
    """The calls in a text that is written as the template does, and as the functions' schemas allow; none if it is not.

    A search, depth first: we know where a value may end, and try one end after the other.

    Args:
        whole: calls within a value are whole. There may be text between calls then, which the template never writes.
        after_all: closing tags may stand before the first call. They are none, but mostly belong to one with a mistake.
    """

    def outside(at, found):
        """From behind the last call: what may come next."""
        for call in CALL.finditer(text, at):
            gap = text[at : call.start()]
            if CLOSING.search(gap) and (found or not after_all) or found and not whole and gap != "\n":
                return
            yield call.end(), (call.start(), call[1], ()), found
        if found and not (CLOSING.search(text, at) if whole else text[at:].strip()):
            yield None, None, found

    def inside(at, call, found):
        """From behind a parameter, or the function's name."""
        start, name, values = call
        function = functions.get(name)
        if text.startswith(END_OF_CALL, at) and _is_whole(dict(values), function):
            end = at + len(END_OF_CALL)
            yield end, None, (*found, Written(start, end, ((name, dict(values)),)))
        parameter = PARAMETER.match(text, at)
        if parameter is None or parameter[1] in dict(values) or not _is_parameter(parameter[1], function):
            return
        end = parameter.end()
        while next(steps) < MANY and (end := text.find(END_OF_PARAMETER, end)) >= 0:
            value = text[parameter.end() : end]
            end += len(END_OF_PARAMETER)
            if _is_of_type(parameter[1], value, function) and (_holds_whole_calls(value) or not whole):
                yield end, (start, name, (*values, (parameter[1], value))), found
            end -= 1                                    # its line break may be that before the next one

    steps, ways, tried = count(), [outside(0, ())], set()
    while ways and next(steps) < MANY:
        at, call, found = next(ways[-1], (-1, None, ()))
        if at is None:
            return list(found)
        state = at, call and (call[1], frozenset(dict(call[2]))), bool(found)
        if at == -1:
            ways.pop()
        elif state not in tried:
            tried.add(state)
            ways.append(inside(at, call, found) if call else outside(at, found))
    return []


def _is_parameter(name: str, function: dict | None) -> bool:
    """Whether a function has such a parameter; yes if we do not know."""
    parameters = (function or {}).get("parameters") or {}
    properties = parameters.get("properties")
    return not properties or name in properties or bool(parameters.get("additionalProperties"))


def _is_of_type(name: str, text: str, function: dict | None) -> bool:
    """Whether a text can be the value of a parameter."""
    parameters = (function or {}).get("parameters") or {}
    schema = (parameters.get("properties") or {}).get(name, {})
    return not _could_not_be(_convert(text, schema, parameters), schema, parameters)


def _holds_whole_calls(value: str) -> bool:
    """Whether each call that begins in a value ends in it, and the other way round."""
    depth = 0
    for tag in re.finditer("<tool_call>\n<function=|</function>\n</tool_call>", value):
        depth += -1 if tag[0].startswith("</") else 1
        if depth < 0:
            return False
    return depth == 0


def _is_whole(values: dict, function: dict | None) -> bool:
    return {*((function or {}).get("parameters") or {}).get("required", ())} <= values.keys()


def _read_loosely(text: str, functions: dict[str, dict]) -> list[Written]:
    """The calls in a text where closing tags may be missing."""
    found, end = [], 0
    while call := LOOSE_CALL.search(text, end):
        one = _read_one_loosely(text, call, functions)
        found += [one] if one else []
        end = one.end if one else call.end()
    return found


def _read_one_loosely(text: str, call: re.Match, functions: dict[str, dict]) -> Written | None:
    """The functions behind a <tool_call> (some models put in several); None if it is cut short."""
    read, at = [], call.end()
    while function := LOOSE_FUNCTION.match(text, at):
        name, values, at = function[1].strip(), {}, function.end()
        known = functions.get(name)
        # another parameter may begin within a value that is not closed; if it is one, and not just a text like it
        known = None if known is None else (known.get("parameters") or {}).get("properties") or {}
        names = "[^<>\n]+" if known is None else "|".join(map(re.escape, known)) or "(?!)"
        end_of_value = re.compile(rf"{LOOSE_END_OF_PARAMETER}|\n(?=<parameter=(?:{names})>)")
        while parameter := LOOSE_PARAMETER.match(text, at):
            end = end_of_value.search(text, parameter.end())
            if end is None:
                return None
            values[parameter[1].strip()], at = text[parameter.end() : end.start()], end.end()
        end = LOOSE_END_OF_FUNCTION.match(text, at)
        if end is None:
            return None
        read.append((name, values))
        at = end.end()
    end = LOOSE_END_OF_CALL.match(text, at)
    return Written(call.start(), end.end(), tuple(read)) if end else None


def _speaks_of_tags(one: Written) -> bool:
    return any(TAG.search(value) for _, values in one.functions for value in values.values())


def _around(text: str, found: list[Written]) -> str:
    """What of a text is in no call."""
    ends, starts = [0, *(one.end for one in found)], [*(one.start for one in found), len(text)]
    return "".join(text[end:start] for end, start in zip(ends, starts))


def _tool_call(name: str, values: dict[str, str], function: dict | None, doubtful: bool) -> ToolCall:
    parameters = (function or {}).get("parameters") or {}
    properties = parameters.get("properties") or {}
    arguments = {key: _convert(value, properties.get(key, {}), parameters) for key, value in values.items()}
    problem = (f"it cannot be told for sure what the values in this call of {name} are, since tags stand in them: call "
               f"again with every tag in its place, and no other.")
    return ToolCall(name, arguments, problem=problem if doubtful else None)


def _convert(text: str, schema: dict, root: dict):
    """A value from its text, by the schema; text that is none of the schema's types stays text."""
    kinds = _kinds(schema, root)
    for kind, read in READERS.items():                  # from the narrowest: anything is a string
        if kind in kinds:
            try:
                value = read(text)
            except (ValueError, RecursionError):        # the latter from JSON that is nested without end
                continue
            if kind not in EXACT or "string" not in kinds or json.dumps(value) == text:
                return value
    return text


def _could_not_be(value, schema: dict, root: dict) -> bool:
    """Whether a value stayed text that should have become something else."""
    kinds = _kinds(schema, root)
    return isinstance(value, str) and bool(kinds) and "string" not in kinds


def _kinds(schema: "dict | bool", root: dict, within: tuple[str, ...] = ()) -> set[str]:
    """The names of the types that a schema allows; empty if it leaves them open.

    Args:
        root: where a reference such as "#/$defs/Unit" begins.
        within: the references that led here; one that leads back to itself says nothing.
    """
    if not isinstance(schema, dict):
        return set()
    kind, reference = schema.get("type") or (), schema.get("$ref")
    demands = [{kind} if isinstance(kind, str) else {*kind}]
    demands.append({TYPES.get(type(value)) for value in [*schema.get("enum", ()), *_single(schema, "const")]})
    if isinstance(reference, str) and reference not in within:
        demands.append(_kinds(_resolved(reference, root), root, (*within, reference)))
    for choices in (schema.get("anyOf"), schema.get("oneOf")):
        kinds = [_kinds(choice, root, within) for choice in choices or ()]
        demands.append(set().union(*kinds) if all(kinds) else set())
    demands += [_kinds(part, root, within) for part in schema.get("allOf") or ()]
    demands = [kinds for kinds in demands if kinds]
    if not demands:
        return set()
    kinds = set.intersection(*demands) or set.union(*demands)
    return kinds | ({"null"} if schema.get("nullable") else set())


def _single(schema: dict, key: str) -> list:
    return [schema[key]] if key in schema else []


def _resolved(reference: str, root: dict) -> "dict | bool":
    """What a reference such as "#/$defs/Unit" leads to; all is allowed where it leads nowhere."""
    place = root
    for name in reference.removeprefix("#").split("/")[1:]:
        name = name.replace("~1", "/").replace("~0", "~")
        place = place.get(name, {}) if isinstance(place, dict) else {}
    return place


def _json(*kinds: type):
    def read(text):
        value = json.loads(text)
        if not isinstance(value, kinds):
            raise ValueError
        json.dumps(value, ensure_ascii=False).encode()  # half a character, as in "\\ud83d", is none of JSON's
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


EXACT = ("boolean", "integer", "number")                # where it may be a string as well, only JSON's own form counts
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
    if tool_call.problem:
        return f"SyntaxError: {tool_call.problem}"
    functions = {describe(tool)["function"]["name"]: tool for tool in tools if not isinstance(tool, dict)}
    function = functions.get(tool_call.name)
    if function is None:
        there_are = f"there are {', '.join(functions)}" if functions else "there is none"
        return f"NameError: there is no function {tool_call.name}; {there_are}."
    try:
        args, kwargs = _arguments(function, deepcopy(tool_call.arguments))
        result = function(*args, **kwargs)
        return _readable(result if isinstance(result, str) else _as_text(result))
    except (Exception, SystemExit) as error:
        return _readable(f"{type(error).__name__}: {error}".removesuffix(": "))


def _arguments(function: Callable, given: dict) -> tuple[list, dict]:
    """What to call a function with, by place and by name; raises what Python would, or says which type is wrong."""
    properties, hints = describe(function)["function"]["parameters"]["properties"], get_type_hints(function)
    for name, value in given.items():
        schema, hint = properties.get(name, {}), hints.get(name)
        kinds = _kinds(schema, properties)
        if _could_not_be(value, schema, properties):
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


def _readable(text: str) -> str:
    """The text with U+FFFD for each half of a character, as texts have it that were not UTF-8."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
