"""Who may import whom, read from the sources with `ast`. The rules are those of ARCHITECTURE.md."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("lookback", "state", "connectors", "dataflows")
# Shapes that everything speaks in: they import nothing of ours, so anyone but the kernel may import them.
SHARED = ("lookback.errors", "lookback.events")
# The longest matching prefix counts; what a package may import of ours beside itself.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "lookback.errors": (),
    "lookback.events": (),
    "lookback.windows": (),
    "lookback.definition": (*SHARED, "lookback.windows"),
    "lookback.stores": (*SHARED, "lookback.windows", "lookback.definition"),
    "lookback": ("lookback",),
    "state": (*SHARED, "lookback.windows"),
    "connectors": ("lookback",),
    "dataflows": ("lookback", "state", "connectors"),
}
# What a model service may have to install only for what it uses: never at the top of a module.
ON_USE = {"pandas", "polars", "redis", "boto3", "botocore"}
IMPORT_NAME = {"pyyaml": "yaml"}
COMES_WITH = {"llvmlite", "pydantic_core"}  # the other halves of numba and pydantic, pinned by them


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def imports(tree: ast.Module, module: str, is_package: bool) -> Iterator[tuple[str, int, bool]]:
    """Yield (imported module, line, whether at import time) of every import in a module."""
    late = {id(node) for scope in ast.walk(tree) if runs_later(scope) for node in ast.walk(scope)}
    for node in ast.walk(tree):
        at_import = id(node) not in late
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno, at_import
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                parts = parts[: len(parts) - node.level + (1 if is_package else 0)]
                base = ".".join([*parts, base] if base else parts)
            # `from lookback import windows` names a module, `from lookback.errors import X` does not: both
            # spellings are given, the rules look at prefixes only.
            for alias in node.names:
                yield f"{base}.{alias.name}", node.lineno, at_import


def runs_later(node: ast.AST) -> bool:
    if isinstance(node, ast.If):
        return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def core_dependencies() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[^a-z0-9_-]", line.lower())[0] for line in project["dependencies"]}
    return COMES_WITH | {IMPORT_NAME.get(name, name.replace("-", "_")) for name in names}


def problem(module: str, target: str, at_import: bool, core: set[str]) -> str | None:
    """Return why `module` may not import `target`, or None."""
    top = target.split(".")[0]
    if top in PACKAGES:
        rule = max((p for p in MAY_IMPORT if within(module, p)), key=len)
        if not any(within(target, allowed) for allowed in (rule, *MAY_IMPORT[rule])):
            return f"{rule} may import {', '.join(MAY_IMPORT[rule]) or 'nothing of ours'}"
        return None
    if top == "bytewax" and not (within(module, "connectors") or within(module, "dataflows")):
        return "bytewax belongs to connectors and dataflows"
    if top == "rocksdict" and module != "state.rocksdb":
        return "rocksdict belongs to state/rocksdb.py"
    if within(module, "lookback") and top not in sys.stdlib_module_names and top not in core:
        if top in ON_USE and not at_import:
            return None
        return "a model service installs the core dependencies only"
    return None


def violations(root: Path) -> list[str]:
    """Return one line for every forbidden import below `root`."""
    core = core_dependencies()
    found = []
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            is_package = parts[-1] == "__init__"
            module = ".".join(parts[:-1] if is_package else parts)
            for target, line, at_import in imports(ast.parse(path.read_text()), module, is_package):
                reason = problem(module, target, at_import, core)
                if reason:
                    found.append(f"{path.relative_to(root)}:{line}: imports {target}: {reason}")
    return found


def test_every_import_is_allowed() -> None:
    for package in PACKAGES:
        assert list((ROOT / package).rglob("*.py")), f"{package}/ holds no module to judge"
    assert violations(ROOT) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("lookback/windows/log.py", "from lookback.errors import UsageError"),
        ("lookback/windows/log.py", "from .. import events"),
        ("lookback/definition/load.py", "def f():\n    from lookback.stores import base"),
        ("lookback/stores/base.py", "import lookback.client"),
        ("lookback/client.py", "import state.shard"),
        ("lookback/client.py", "import orjson"),
        ("lookback/client.py", "import pandas"),
        ("lookback/stores/redis.py", "import redis"),
        ("state/shard.py", "from lookback.definition import load"),
        ("state/shard.py", "import rocksdict"),
        ("state/shard.py", "import bytewax.operators"),
        ("connectors/archive.py", "from state import shard"),
        ("connectors/archive.py", "import dataflows.graph"),
        ("state/rocksdb.py", "from dataflows import cli"),
    ],
)
def test_a_planted_import_is_found(tmp_path: Path, path: str, source: str) -> None:
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    file.write_text(source)
    assert len(violations(tmp_path)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("lookback/windows/log.py", "from .plan import ViewPlan\nimport numba"),
        ("lookback/definition/load.py", "import yaml\nfrom ..errors import DefinitionError"),
        ("lookback/training.py", "def f():\n    import pandas"),
        ("lookback/training.py", "if TYPE_CHECKING:\n    import polars"),
        ("state/rocksdb.py", "import rocksdict\nfrom lookback.windows.log import ViewLog"),
        ("connectors/archive.py", "import bytewax.inputs\nimport orjson\nfrom lookback import definition"),
        ("dataflows/cli.py", "import typer\nimport state.shard\nfrom connectors import archive"),
    ],
)
def test_an_allowed_import_passes(tmp_path: Path, path: str, source: str) -> None:
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    file.write_text(source)
    assert violations(tmp_path) == []
