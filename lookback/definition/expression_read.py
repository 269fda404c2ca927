"""An expression's text as Python's own tree: syntax, limits, and hints for other languages' habits.

Owns: the size and depth limits, and errors that know their place. Refuses: types (see `expression_parse`).
"""

from __future__ import annotations

import ast
import difflib
import re
import warnings
from collections.abc import Iterable

MAX_TEXT = 4_000
MAX_TREE = 500
MAX_WORD, MAX_WORDS = 200, 5_000  # beyond, looking for what was meant would take long
MAX_TREE_DEPTH = 40


class ExpressionError(Exception):
    """One thing wrong in an expression; `offset` is the 0-based character it is at."""

    def __init__(self, offset: int, message: str) -> None:
        self.offset = offset
        self.message = message
        super().__init__(message)


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean `x`?" for the nearest known word, else an empty text."""
    words = list(known)
    if len(word) > MAX_WORD or len(words) > MAX_WORDS:
        return ""
    near = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    return f"; did you mean `{near[0]}`?" if near else ""


def names_in(text: str) -> set[str]:
    """Return the names and dotted names that an expression reads; empty where it cannot be read."""
    try:
        root = read_python(text)[0]
    except ExpressionError:
        return set()
    found: set[str] = set()
    parts: set[int] = set()  # nodes that are part of a dotted name or of a call
    for node in ast.walk(root):  # from the outside in, so a part is known before it comes
        if isinstance(node, ast.Call):
            parts.add(id(node.func))
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            parts.add(id(node.value))
            found.add(f"{node.value.id}.{node.attr}")
        elif isinstance(node, ast.Name) and id(node) not in parts:
            found.add(node.id)
    return found


def read_python(text: str) -> tuple[ast.expr, str]:
    """Return Python's own tree and the text it is of (line ends made spaces, offsets kept)."""
    if len(text) > MAX_TEXT:
        raise ExpressionError(0, f"the expression has {len(text):,} characters; keep it under {MAX_TEXT:,}")
    flat = re.sub(r"\s", " ", text)
    lead = len(flat) - len(flat.lstrip())
    if not flat.strip():
        raise ExpressionError(0, "the expression is empty; write one, or leave the key out")
    source = flat[lead:]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            root = ast.parse(source, mode="eval").body
    except SyntaxError as error:
        offset = lead + (error.offset - 1 if error.offset else len(source))  # none: it ends too early
        raise ExpressionError(min(offset, len(text) - 1), _syntax_hint(source, error)) from None
    except (ValueError, RecursionError, MemoryError):
        raise ExpressionError(0, "the expression is nested too deep or holds a bad character") from None
    _check_size(root)
    end = len(source.encode()[: root.end_col_offset or 0].decode())
    rest = source[end:].lstrip(" ),")
    if rest:
        raise ExpressionError(lead + len(source) - len(rest), "an expression holds no comment; use YAML's #")
    return root, source


def _syntax_hint(source: str, error: SyntaxError) -> str:
    hints = [
        (r"&&", "write `and` for &&"),
        (r"\|\|", "write `or` for ||"),
        (r"![^=]", "write `not` for !"),
        (r"[^=!<>]=[^=]", "write `==` to compare"),
        (r"<>", "write `!=` for <>"),
        (r"(?i)\bis\s+(not\s+)?null\b", "write `is None` or `is not None`"),
        (r"(?i)\bcase\b", "write `a if condition else b`"),
    ]
    for pattern, hint in hints:
        if re.search(pattern, source):
            return f"not an expression: {hint}"
    return f"not an expression ({error.msg})"


def _check_size(root: ast.expr) -> None:
    level: list[ast.AST] = [root]
    count = depth = 0
    while level:
        count, depth = count + len(level), depth + 1
        if count > 2 * MAX_TREE or depth > MAX_TREE_DEPTH:
            raise ExpressionError(0, f"too large: at most {MAX_TREE} parts, nested {MAX_TREE_DEPTH} deep")
        level = [child for node in level for child in ast.iter_child_nodes(node)]
