"""From an expression's text to its typed tree: a subset of Python, read with `ast` and never run.

Owns: which syntax there is, which types go together, and what to write instead of anything else.
Refuses: evaluating, knowing streams or views (it is given names with types).
"""

from __future__ import annotations

import ast
import re
import zoneinfo
from collections.abc import Callable, Mapping
from functools import lru_cache

from lookback.definition.expression_read import ExpressionError, read_python, suggestion
from lookback.definition.expression_tree import (
    BOOL,
    FLOAT,
    INT,
    NULL,
    NUMBER,
    STRING,
    TIMESTAMP,
    Node,
    ValueType,
)

TIME_PARTS = ("year", "month", "day", "hour", "minute", "second", "day_of_week")
FUNCTIONS = ("abs", "min", "max", "log", "sqrt", "coalesce", *TIME_PARTS)

_ARITHMETIC: dict[type[ast.operator], str] = {
    ast.Add: "add",
    ast.Sub: "sub",
    ast.Mult: "mul",
    ast.Div: "div",
    ast.FloorDiv: "floordiv",
    ast.Mod: "mod",
}
_SIGNS = {"add": "+", "sub": "-", "mul": "*", "div": "/", "floordiv": "//", "mod": "%"}
_COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Eq: "eq",
    ast.NotEq: "ne",
    ast.Lt: "lt",
    ast.LtE: "le",
    ast.Gt: "gt",
    ast.GtE: "ge",
}
_POINT_LITERAL = re.compile(r"[0-9_]*\.[0-9_]*", re.ASCII)


def parse_expression(text: str, names: Mapping[str, ValueType]) -> Node:
    """Return the typed tree of an expression over `names` (fields, or `view.feature_window`).

    Raises ExpressionError for the first thing that is wrong, with what to write instead.
    """
    tree = _Parser(text, names).parse()
    return _settle_number(tree)


def parse_condition(text: str, names: Mapping[str, ValueType]) -> Node:
    """Return the typed tree of a `where`: as `parse_expression`, and it must be a bool."""
    tree = parse_expression(text, names)
    if tree.type != BOOL:
        raise ExpressionError(0, f"`where` must be true or false, this is {tree.type}; compare it: `… > 0`")
    return tree


@lru_cache(maxsize=256)
def _zone_exists(name: str) -> bool:
    if name in ("localtime", "posixrules"):  # whatever this machine is set to
        return False
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True


def _settle_number(node: Node) -> Node:
    """Return a literal with a point as float64, any other node as it is."""
    if node.type == NUMBER:
        return Node("literal", FLOAT, value=float(node.value))
    return node


def _as_type(node: Node, wanted: ValueType) -> Node:
    """Return a point literal as the type its neighbour asks for; None takes its neighbour's type."""
    if node.type == NULL and wanted.kind not in ("null", "number"):
        return Node("literal", wanted, value=None)
    if node.type != NUMBER:
        return node
    if wanted.kind == "decimal":
        whole, _, decimals = str(node.value).partition(".")
        if len((whole.lstrip("-") + decimals).lstrip("0")) <= 18 and len(decimals) <= 18:
            return Node("literal", ValueType("decimal", len(decimals)), value=int(whole + decimals))
    return _settle_number(node)


class _Parser:
    """Walks Python's tree once, typing as it goes."""

    def __init__(self, text: str, names: Mapping[str, ValueType]) -> None:
        self.text = text
        self.names = names
        self.lead = len(text) - len(text.lstrip())

    def parse(self) -> Node:
        root, self.source = read_python(self.text)
        node = self.visit(root)
        if node.type == NULL:
            raise ExpressionError(self.lead, "this is always null; write a value")
        return node

    def fail(self, node: ast.AST, message: str) -> ExpressionError:
        start = len(self.source.encode()[: getattr(node, "col_offset", 0)].decode())
        return ExpressionError(self.lead + start, message)

    def said(self, node: ast.expr) -> str:
        text = ast.get_source_segment(self.source, node) or "this"
        return text if len(text) <= 40 else text[:37] + "…"

    def visit(self, node: ast.expr) -> Node:
        method: Callable[[ast.expr], Node] | None = getattr(self, f"visit_{type(node).__name__}", None)
        if method is None:
            raise self.fail(node, f"`{self.said(node)}` is not part of the language; see docs/expressions.md")
        return method(node)

    def visit_Name(self, node: ast.Name) -> Node:
        return self.name(node, node.id)

    def visit_Attribute(self, node: ast.Attribute) -> Node:
        if not isinstance(node.value, ast.Name):
            raise self.fail(node, f"`{self.said(node)}` is not a name; a feature is view.feature_window")
        return self.name(node, f"{node.value.id}.{node.attr}")

    def name(self, node: ast.expr, name: str) -> Node:
        if name in self.names:
            return Node("name", self.names[name], value=name)
        if name in FUNCTIONS:
            raise self.fail(node, f"`{name}` is a function; write `{name}(…)`")
        if name.lower() in ("null", "none", "nil"):
            raise self.fail(node, f"`{name}` is not a name; a null test is `x is None`")
        if name.lower() in ("true", "false"):
            raise self.fail(node, f"write `{name.capitalize()}` for `{name}`")
        raise self.fail(node, f"`{name}` is not known here{suggestion(name, self.names)}")

    def visit_Constant(self, node: ast.Constant) -> Node:
        value = node.value
        if value is None:
            return Node("literal", NULL)
        if isinstance(value, bool):
            return Node("literal", BOOL, value=value)
        if isinstance(value, int):
            if value > 2**63 - 1:
                raise self.fail(node, f"{self.said(node)} does not fit int64")
            return Node("literal", INT, value=value)
        if isinstance(value, str):
            return Node("literal", STRING, value=value)
        if isinstance(value, float):
            text = (ast.get_source_segment(self.source, node) or "").replace("_", "")
            if value in (float("inf"), float("-inf")):
                raise self.fail(node, f"{text} does not fit float64")
            if _POINT_LITERAL.fullmatch(text):
                whole, _, decimals = text.partition(".")
                return Node("literal", NUMBER, value=f"{whole or '0'}.{decimals or '0'}")
            return Node("literal", FLOAT, value=value)
        raise self.fail(node, f"`{self.said(node)}` is not a number, text, True, False or None")

    def numeric(self, written: ast.expr, node: Node, what: str) -> Node:
        if not node.type.is_numeric:
            raise self.fail(written, f"{what} takes numbers; `{self.said(written)}` is {node.type}")
        return node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> Node:
        operand = self.visit(node.operand)
        if isinstance(node.op, ast.Not):
            return Node("not", BOOL, (self.truth(node.operand, operand, "not"),))
        if isinstance(node.op, ast.Invert):
            raise self.fail(node, "write `not` for ~")
        self.numeric(node.operand, operand, "a sign")
        if isinstance(node.op, ast.UAdd):
            return operand
        if operand.op == "literal" and operand.type == NUMBER:
            text = str(operand.value)
            return Node("literal", NUMBER, value=text[1:] if text.startswith("-") else f"-{text}")
        if operand.op == "literal" and operand.value is not None:
            return Node("literal", operand.type, value=-operand.value)
        return Node("neg", operand.type, (operand,))

    def truth(self, written: ast.expr, node: Node, what: str) -> Node:
        if node.type == NULL:
            return _as_type(node, BOOL)
        if node.type != BOOL:
            raise self.fail(written, f"`{what}` takes true or false; `{self.said(written)}` is {node.type}")
        return node

    def visit_BoolOp(self, node: ast.BoolOp) -> Node:
        op = "and" if isinstance(node.op, ast.And) else "or"
        return Node(op, BOOL, tuple(self.truth(value, self.visit(value), op) for value in node.values))

    def visit_BinOp(self, node: ast.BinOp) -> Node:
        op = _ARITHMETIC.get(type(node.op))
        if op is None:
            hints: dict[type[ast.operator], str] = {
                ast.Pow: "write `x * x` for a power",
                ast.BitAnd: "write `and` for &",
                ast.BitOr: "write `or` for |",
            }
            hint = hints.get(type(node.op), "there are + - * / // %")
            raise self.fail(node, f"`{self.said(node)}`: this operator is not part of the language; {hint}")
        left, right = self.visit(node.left), self.visit(node.right)
        times = self.time_arithmetic(op, left, right)
        if times is not None:
            return times
        for written, side in ((node.left, left), (node.right, right)):
            if side.type == NULL:
                raise self.fail(written, "None is not a number; use coalesce(x, 0) to replace a null")
            self.numeric(written, side, f"`{_SIGNS[op]}`")
        left, right = _as_type(left, right.type), _as_type(right, left.type)
        if op in ("floordiv", "mod"):
            if left.type != INT or right.type != INT:
                raise self.fail(node, f"`{_SIGNS[op]}` takes whole numbers (int64); use `/`")
            return Node(op, INT, (left, right))
        return Node(op, _arithmetic_type(op, left.type, right.type), (left, right))

    def time_arithmetic(self, op: str, left: Node, right: Node) -> Node | None:
        """Return `time - time` in ms and `time ± ms`, None for what is no time arithmetic."""
        kinds = (left.type.kind, right.type.kind)
        if op == "sub" and kinds == ("timestamp", "timestamp"):
            return Node(op, INT, (left, right))
        if (op in ("add", "sub") and kinds == ("timestamp", "int64")) or (
            op == "add" and kinds == ("int64", "timestamp")
        ):
            return Node(op, TIMESTAMP, (left, right))
        return None

    def visit_Compare(self, node: ast.Compare) -> Node:
        parts: list[Node] = []
        written = [node.left, *node.comparators]
        for position, op in enumerate(node.ops):
            parts.append(self.comparison(node, written[position], op, written[position + 1]))
        return parts[0] if len(parts) == 1 else Node("and", BOOL, tuple(parts))

    def comparison(self, node: ast.Compare, left: ast.expr, op: ast.cmpop, right: ast.expr) -> Node:
        if isinstance(op, ast.In | ast.NotIn):
            return self.membership(left, op, right)
        if isinstance(op, ast.Is | ast.IsNot):
            if not (isinstance(right, ast.Constant) and right.value is None):
                raise self.fail(right, "`is` is for null tests only: `x is None`; compare values with ==")
            test = Node("isnull", BOOL, (_settle_number(self.visit(left)),))
            return test if isinstance(op, ast.Is) else Node("not", BOOL, (test,))
        one, two = self.visit(left), self.visit(right)
        if NULL in (one.type, two.type):
            sign = "is not" if isinstance(op, ast.NotEq) else "is"
            shown = self.said(left if two.type == NULL else right)
            raise self.fail(node, f"a comparison with None is always null; write `{shown} {sign} None`")
        one, two = _as_type(one, two.type), _as_type(two, one.type)
        self.comparable(node, one, two)
        if one.type == BOOL and not isinstance(op, ast.Eq | ast.NotEq):
            raise self.fail(node, "true and false have no order; write == or !=")
        return Node(_COMPARISONS[type(op)], BOOL, (_settle_number(one), _settle_number(two)))

    def comparable(self, written: ast.expr, one: Node, two: Node) -> None:
        if one.type.kind == two.type.kind or (one.type.is_numeric and two.type.is_numeric):
            return
        hint = ""
        if {one.type.kind, two.type.kind} == {"bool", "int64"}:
            hint = "; write `x` or `not x` for a bool"
        elif "string" in (one.type.kind, two.type.kind) and (one.type.is_numeric or two.type.is_numeric):
            hint = "; leave the quotes off a number, put them on a text"
        raise self.fail(written, f"{one.type} and {two.type} do not compare{hint}")

    def membership(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> Node:
        if not isinstance(right, ast.Tuple | ast.List | ast.Set) or not right.elts:
            raise self.fail(right, "`in` takes a list of values: `country in ('FR', 'DE')`")
        value = self.visit(left)
        if value.type == NULL:
            raise self.fail(left, "None is never in a list; write `x is None`")
        choices: list[Node] = []
        for element in right.elts:
            choice = self.visit(element)
            if choice.op != "literal" or choice.type == NULL:
                raise self.fail(element, f"`in` takes values, not `{self.said(element)}`")
            choice = _settle_number(_as_type(choice, value.type))
            self.comparable(element, value, choice)
            choices.append(choice)
        test = Node("in", BOOL, (_settle_number(value), *choices))
        return test if isinstance(op, ast.In) else Node("not", BOOL, (test,))

    def visit_IfExp(self, node: ast.IfExp) -> Node:
        condition = self.truth(node.test, self.visit(node.test), "if")
        kind, (yes, no) = self.unify(node, [self.visit(node.body), self.visit(node.orelse)])
        return Node("if", kind, (condition, yes, no))

    def unify(self, written: ast.expr, nodes: list[Node]) -> tuple[ValueType, list[Node]]:
        """Return the one type of several alternatives, and them with literals settled to it."""
        kinds = {node.type.kind for node in nodes} - {"null"}
        if not kinds:
            return NULL, nodes
        if kinds <= {"int64", "float64", "decimal", "number"}:
            typed = [n.type for n in nodes if n.type.kind in ("int64", "float64", "decimal")]
            wanted = typed[0] if typed else FLOAT
            for kind in typed[1:]:
                wanted = _arithmetic_type("add", wanted, kind)
            nodes = [_as_type(node, wanted) for node in nodes]
            for node in nodes:
                if node.type != NULL:
                    wanted = _arithmetic_type("add", wanted, node.type)
        elif len(kinds) == 1:
            wanted = next(node.type for node in nodes if node.type != NULL)
        else:
            raise self.fail(written, f"these must be of one type, not {' and '.join(sorted(kinds))}")
        return wanted, [_as_type(node, wanted) for node in nodes]

    def visit_Call(self, node: ast.Call) -> Node:
        name = node.func.id if isinstance(node.func, ast.Name) else self.said(node.func)
        if name not in FUNCTIONS:
            near = suggestion(name, FUNCTIONS) or f"; there are {', '.join(FUNCTIONS)}"
            raise self.fail(node, f"`{name}` is not a function here{near}")
        if node.keywords or any(isinstance(arg, ast.Starred) for arg in node.args):
            raise self.fail(node, f"`{name}` takes plain arguments: `{name}(a, b)`")
        if name in TIME_PARTS:
            return self.time_part(node, name)
        args = [self.visit(arg) for arg in node.args]
        if name in ("min", "max", "coalesce"):
            if len(args) < 2:
                raise self.fail(node, f"`{name}` takes two values or more")
            kind, args = self.unify(node, args)
            if name != "coalesce" and kind.kind in ("bool", "string", "null"):
                raise self.fail(node, f"`{name}` takes numbers or times, not {kind}")
            return Node(name, kind, tuple(args))
        if len(args) != 1:
            raise self.fail(node, f"`{name}` takes one number")
        operand = _settle_number(self.numeric(node.args[0], args[0], f"`{name}`"))
        return Node(name, operand.type if name == "abs" else FLOAT, (operand,))

    def time_part(self, node: ast.Call, name: str) -> Node:
        if len(node.args) not in (1, 2):
            raise self.fail(node, f"write `{name}(event_time, 'Europe/Paris')`; without a zone it is UTC")
        time = self.visit(node.args[0])
        if time.type != TIMESTAMP:
            raise self.fail(node.args[0], f"`{name}` takes a timestamp such as event_time, not {time.type}")
        zone = "UTC"
        if len(node.args) == 2:
            written = node.args[1]
            if not (isinstance(written, ast.Constant) and isinstance(written.value, str)):
                raise self.fail(written, f"write the zone as a text: `{name}(event_time, 'Europe/Paris')`")
            zone = written.value
            if not _zone_exists(zone):
                near = suggestion(zone, zoneinfo.available_timezones())
                raise self.fail(written, f"`{zone}` is not a time zone{near}")
        return Node(name, INT, (time,), value=zone)


def _arithmetic_type(op: str, left: ValueType, right: ValueType) -> ValueType:
    """Return what two numbers make: exact where + and - meet int64 and decimal, else float64."""
    kinds = {left.kind, right.kind}
    if op == "div" or "float64" in kinds or "number" in kinds:
        return FLOAT
    if kinds == {"int64"}:
        return INT
    if left == right and op in ("add", "sub"):
        return left
    return FLOAT if op == "mul" else ValueType("decimal", max(left.scale, right.scale))
