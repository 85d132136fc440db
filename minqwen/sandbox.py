"""Where a chat template runs: it came with a download, so it is a stranger's program.

jinja's own sandbox keeps such a program from the insides of Python. But three loops in one another never end in it, and
doubling a text forty times takes a terabyte. Here each turn of a loop, each call, and each value that is made costs
something, and a rendering may spend only so much: seconds, and some hundreds of megabytes at the worst.
"""

import re
from collections.abc import Iterable, Iterator
from functools import wraps

from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

LARGEST = 2**24                                         # characters or entries of a value: of ten long contexts
EFFORT, FOR_A_MESSAGE = 2**27, 2**16                    # characters and entries in all; and more for long chats
TURN, CALL = 2**8, 2**11                                # what a turn of a loop, and a call, cost of this
GROWING = {"center", "ljust", "rjust", "zfill", "expandtabs", "indent", "tojson", "batch", "slice"}    # by a number
WIDTH = re.compile(r"(?:%|\{[^{}]*:)\D?[-+ #0<>=^]*(\d*)\.?(\d*)")  # and precision: %10.3f, {:>10.3}
NESTED = re.compile(r"\{[^}]*\{")                       # {:{}}


class Sandbox(ImmutableSandboxedEnvironment):
    """An environment whose templates can neither get at Python nor run or grow without end: they raise instead."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self, **options):
        super().__init__(optimized=False, **options)     # nothing runs while it is compiled
        self.globals.pop("lipsum")                       # text without end
        self.concat, self.left, self.sizes = self._measuring(self.concat), EFFORT, {}

    # --------------------------------------------------------------------------------------------- what it may cost

    def spend(self, effort: int) -> None:
        self.left -= effort
        if self.left < 0:
            raise SecurityError("it does not come to an end")

    def allow(self, size: int) -> None:
        """Raises if something would have so many characters or entries."""
        if size > LARGEST:
            raise SecurityError("it makes a text or a list that is too long")

    def size(self, value) -> int:
        """The characters and entries of a value, with all that is in it: as many times as it is in it."""
        if isinstance(value, str | range):
            return len(value)
        if not isinstance(value, list | tuple | dict | set | frozenset):
            return value.bit_length() // 4 if isinstance(value, int) else 1
        if id(value) not in self.sizes:
            inside = [*value, *value.values()] if isinstance(value, dict) else value
            if any(isinstance(x, Namespace) for x in inside):
                raise SecurityError("it puts a namespace into a list, where it could grow unseen")
            self.sizes[id(value)] = value, 1 + sum(map(self.size, inside))  # kept, so that its id stays its own
        return self.sizes[id(value)][1]

    def measured(self, value):
        """A value that was made, once it is found to be small enough."""
        self.allow(self.size(value))
        self.spend(len(value) if isinstance(value, str | list | tuple | dict) else 1)
        return value

    def counted(self, values: Iterable):
        """What a loop runs over."""
        for value in values:
            self.spend(TURN)
            yield value

    def foresee(self, name: str, value, given: list) -> None:
        """Raises if a method or filter would make something too long, before it does."""
        number = max([abs(x) for x in given if isinstance(x, int)], default=0)
        others = sum(self.size(x) for x in given)
        if name == "replace" and len(given) > 1 and isinstance(value, str):
            old, new = map(str, given[:2])
            self.allow(len(value) + value.count(old) * len(new))
        elif name == "join":
            self.allow(self.size(value) * others)
        elif name in ("format", "format_map"):
            text = str(value)
            widths = [int(digits[:9]) for found in WIDTH.findall(text) for digits in found if digits]
            if "*" in text or NESTED.search(text):       # a width that is given apart
                widths.append(number)
            self.allow((text.count("{") + text.count("%")) * (others + max(widths, default=0)))
        elif name in GROWING:
            self.allow(number * (1 + self.size(value)))

    # --------------------------------------------------------------------------------------------- where it is asked

    def call(self, context, function, /, *args, **kwargs):
        self.spend(CALL)
        method = getattr(function, "__wrapped__", function)             # the sandbox wraps `str.format`
        if getattr(function, "__name__", "") == "join":
            args = list(map(whole, args))
        self.foresee(getattr(function, "__name__", ""), getattr(method, "__self__", None), [*args, *kwargs.values()])
        if function is Namespace:
            self.size(kwargs)
        return self.measured(super().call(context, function, *args, **kwargs))

    def call_binop(self, context, operator, left, right):
        sizes = self.size(left), self.size(right)
        if operator == "%" and isinstance(left, str):
            self.foresee("format", left, list(right) if isinstance(right, tuple) else [right])
        elif operator in "**" and isinstance(left, int) and isinstance(right, int):
            self.allow(sizes[0] + sizes[1] if operator == "*" else (1 + sizes[0]) * abs(right))
        elif operator == "*":
            number = next((abs(x) for x in (left, right) if isinstance(x, int)), 0)
            self.allow(number * max(sizes))
        return self.measured(super().call_binop(context, operator, left, right))

    def _measuring(self, function):
        """A filter, or what joins texts, whose results are measured."""

        @wraps(function)
        def measuring(*args, **kwargs):
            name = getattr(function, "__name__", "").removeprefix("do_").removeprefix("sync_do_").lstrip("_")
            args = list(map(whole, args)) if name == "join" else args
            value, *given = args[1:] if hasattr(function, "jinja_pass_arg") else args
            self.foresee(name, value, [*given, *kwargs.values()])
            return self.measured(function(*args, **kwargs))

        measuring.measures = True
        return measuring

    def _generate(self, source, *args, **kwargs):
        for name, function in list(self.filters.items()):
            if not hasattr(function, "measures"):
                self.filters[name] = self._measuring(function)
        self.filters |= {"counted": self.counted, "measured": self.measured}
        return super()._generate(Counter().visit(source).set_environment(self), *args, **kwargs)


class Counter(NodeTransformer):
    """Has each loop counted and each list that is written out measured, and `a ~ b` joined by a filter."""

    def visit_For(self, node):
        node = self.generic_visit(node)
        node.iter = filtered(node.iter, "counted")
        return node

    def visit_List(self, node):
        return filtered(self.generic_visit(node), "measured")

    visit_Dict = visit_List

    def visit_Tuple(self, node):
        node = self.generic_visit(node)
        return filtered(node, "measured") if node.ctx == "load" else node

    def visit_Concat(self, node):
        node = self.generic_visit(node)
        return filtered(nodes.List(node.nodes, lineno=node.lineno), "join")


def whole(values):
    """What comes one by one as a list, whose size can be told."""
    return list(values) if isinstance(values, Iterator) else values


def filtered(node, name):
    """What stands in a template, passed through a filter."""
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


class Template(Sandbox.template_class):
    """A template that may spend the whole effort each time that it is rendered."""

    def render(self, *args, **kwargs):
        messages = dict(*args, **kwargs).get("messages", ())
        self.environment.left, self.environment.sizes = EFFORT + FOR_A_MESSAGE * len(messages), {}
        return super().render(*args, **kwargs)


Sandbox.template_class = Template
