"""A checkpoint's chat template: a chat becomes one text, and of each of its characters we know who wrote it.

Control tokens such as `<|im_start|>` are the template's to write. In the text that it renders they cannot be told from
those that a user typed - so every text that stands in the template itself is an `Own` text here, and stays one through
all that templates do with texts. They do see the messages as they are: a mark in these would change what is rendered.
"""

import json
from collections.abc import Iterable
from datetime import datetime

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.visitor import NodeTransformer

from .sandbox import Sandbox, filtered

NOBODY = "\0"                                           # stands for a character that makes no control token


class Own(str):
    """A text, and which of its characters may make control tokens.

    What a template does with texts keeps that: it joins, cuts, strips and splits them. What any other method makes of
    an `Own` text is a plain text, and makes no control token at all.

    Attributes:
        marks: a text as long as this one: the same, but `NOBODY` for each character that may not.
    """

    def __new__(cls, text: str, marks: str | None = None):
        self = super().__new__(cls, text)
        self.marks = NOBODY * len(text) if marks is None else marks
        return self

    def __str__(self):
        return self                                     # jinja calls `str` on all that it writes

    def __add__(self, other):
        return Own(super().__add__(other), self.marks + marks_of(other))

    def __radd__(self, other):
        return Own(other.__add__(self), marks_of(other) + self.marks)

    def __getitem__(self, place):
        return Own(super().__getitem__(place), self.marks[place])

    def lstrip(self, chars=None):
        return self[len(self) - len(super().lstrip(chars)) :]

    def rstrip(self, chars=None):
        return self[: len(super().rstrip(chars))]

    def strip(self, chars=None):
        return self.lstrip(chars).rstrip(chars)

    def split(self, sep=None, maxsplit=-1):
        parts, at = [], 0
        for part in super().split(sep, maxsplit):
            at = self.index(part, at)
            parts.append(self[at : at + len(part)])
            at += len(part) + len(sep or "")
        return parts


def marks_of(text: str) -> str:
    """Which characters of a text may make control tokens: of one that is not `Own`, none."""
    return text.marks if isinstance(text, Own) else NOBODY * len(text)


def joined(texts: Iterable) -> str:
    """Texts joined to one. It is `Own` if one of them is."""
    texts = [str(text) for text in texts]
    whole = "".join(texts)
    return Own(whole, "".join(map(marks_of, texts))) if any(isinstance(text, Own) for text in texts) else whole


def unused(text: str) -> str:
    """A character that is not in the text: one of those that Unicode keeps free for use inside of a program, mostly."""
    return next(sign for sign in map(chr, range(0xFDD0, 0x110000)) if sign not in text)


class Owner(NodeTransformer):
    """Lets each text in a template be `Own`, and `a ~ b` keep it so."""

    def visit_Const(self, node):
        return filtered(node, "own") if isinstance(node.value, str) else node

    def visit_TemplateData(self, node):
        return filtered(nodes.Const(node.data, lineno=node.lineno), "own")

    def visit_Concat(self, node):
        texts = nodes.List(self.generic_visit(node).nodes, lineno=node.lineno)
        return filtered(texts, "joined")


class Generation(Extension):
    """`{% generation %} ... {% endgeneration %}`, around what training is to learn, changes nothing of the text."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class Environment(Sandbox):
    """What a template runs in, as `transformers` has it. The sandbox matters: it is code that came with a download."""

    concat = staticmethod(joined)

    def __init__(self):
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"])
        self.filters |= {"tojson": _tojson, "own": _own, "joined": joined}
        self.globals |= {"raise_exception": _raise_exception, "strftime_now": datetime.now().strftime}


def compiled(source: str) -> jinja2.Template:
    """A template that renders `Own` texts.

    Raises:
        jinja2.TemplateError: it is not valid jinja.
    """
    environment = Environment()
    tree = Owner().visit(environment.parse(source))
    return environment.from_string(tree.set_environment(environment))


def plain_data(value, text=str.__str__):
    """A copy of what a template may see: texts, numbers, lists and dicts. Of all else, such as pictures, only the type.

    text: what becomes of each text.
    """
    if isinstance(value, str):
        return text(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, dict):
        return {plain_data(key, text): plain_data(item, text) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_data(item, text) for item in value]
    return f"<{type(value).__name__}>"


@jinja2.pass_context                                    # or jinja applies it while it compiles, and keeps a plain text
def _own(context, text):
    return Own(text, text)


def _tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    """jinja's own filter escapes for HTML; a model reads plain JSON."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message):
    raise jinja2.TemplateError(message)
