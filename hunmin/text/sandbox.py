"""The Jinja environment that runs chat templates: sandboxed, with bounded loops and strings, and with ``{% generation %}`` blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment


class Generation(Extension):
    """``{% generation %} ... {% endgeneration %}``: text that the assistant wrote."""

    tags = {"generation"}  # noqa: RUF012  (Jinja declares it so)

    def parse(self, parser: Parser) -> nodes.Node:
        """One block as a call that notes where its text lies."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("note"), [], [], body).set_lineno(line)

    def note(self, caller: Macro) -> str:
        """Called by the template with the body of the block."""
        text = caller()
        environment = self.environment
        start = sum(map(len, environment.blocks))  # type: ignore[attr-defined]
        environment.spans.append((start, start + len(text)))  # type: ignore[attr-defined]
        return text


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's immutable sandbox with a budget.

    Every round of a loop counts one step (:meth:`step` is called from the loop's body), and ``+``, ``~``, ``*`` and ``**`` are checked, since
    ``range`` alone is limited in the original and nested loops or doubled strings could otherwise run for ever.
    """

    intercepted_binops = frozenset({"+", "*", "**"})

    def __init__(self, max_steps: int, max_text: int, *, tojson: Callable[..., str], **functions: Callable[..., Any]) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"])
        self.max_steps, self.max_text = max_steps, max_text
        self.filters["tojson"] = tojson
        self.globals.update(functions)
        self.begin()

    def begin(self) -> None:
        """Start counting for a new rendering."""
        self.steps = 0
        self.blocks: list[str] = []
        self.spans: list[tuple[int, int]] = []

    def step(self) -> str:
        """One round of a loop."""
        self.steps += 1
        if self.steps > self.max_steps:
            raise SecurityError(f"more than {self.max_steps} loop rounds")
        return ""

    def joined(self, *parts: Any) -> str:
        """``a ~ b ~ c``."""
        text = "".join(map(str, parts))
        if len(text) > self.max_text:
            raise SecurityError(f"a string of more than {self.max_text} characters")
        return text

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """``+``, ``*`` and ``**`` with bounded results."""
        if operator == "**" and (abs(left) > 2**32 or abs(right) > 64):
            raise SecurityError("a power that is too large")
        sizes = [len(value) for value in (left, right) if isinstance(value, (str, list, tuple))]
        times = [value for value in (left, right) if isinstance(value, int)] if operator == "*" else []
        if sizes and sum(sizes) * max([1, *times]) > self.max_text:
            raise SecurityError(f"a value of more than {self.max_text} elements")
        return super().call_binop(context, operator, left, right)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in list(tree.find_all(nodes.For)):
            loop.body.insert(0, nodes.ExprStmt(_call("step", [])))
        _replace_concat(tree)
        return tree


def _call(name: str, arguments: list[nodes.Expr]) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(name), arguments, [], None, None)


def _replace_concat(node: nodes.Node) -> None:
    """Turn every ``a ~ b`` below ``node`` into ``environment.joined(a, b)``."""
    for field, value in node.iter_fields():
        children = value if isinstance(value, list) else [value]
        for index, child in enumerate(children):
            if isinstance(child, nodes.Node):
                _replace_concat(child)
                if isinstance(child, nodes.Concat):
                    children[index] = _call("joined", child.nodes).set_lineno(child.lineno or 1)
        if not isinstance(value, list) and children[0] is not value:
            setattr(node, field, children[0])
