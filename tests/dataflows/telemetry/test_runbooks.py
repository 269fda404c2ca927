"""The runbooks know every refusal (exit code 3) and every alert, and nothing that there is not."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[3]
OPERATIONS = ROOT / "docs" / "operations"
RULES = ROOT / "examples" / "prometheus" / "alerts.yaml"
REFUSALS = {"RefusedError", "StateRefused"}
PARTS = ("**Means.**", "**Protected.**", "**Do.**")


def template(node: ast.expr) -> str | None:
    """Return a message with … for what is filled in; None where it is not written there."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        texts = [one.value if isinstance(one, ast.Constant) else "…" for one in node.values]
        return "".join(map(str, texts))
    return None


def refusals(root: Path) -> Iterator[str]:
    for package in ("lookback", "state", "connectors", "dataflows"):
        for path in sorted((root / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Name)
                    and node.func.id in REFUSALS
                ):
                    said = template(node.args[0])
                    if said is not None:
                        yield said


def entries(page: str) -> dict[str, str]:
    """Return the text under each third-level heading of a page."""
    text = (OPERATIONS / page).read_text()
    return dict(re.findall(r"^### ([^\n]+)\n(.*?)(?=^##|\Z)", text, re.DOTALL | re.MULTILINE))


def test_every_refusal_has_an_entry_with_its_words() -> None:
    documented = [
        said
        for text in entries("refusals.md").values()
        for said in re.findall(r"^- `(.+)`$", text, re.MULTILINE)
    ]
    assert len(set(documented)) == len(documented)
    assert sorted(documented) == sorted(set(refusals(ROOT)))


def test_every_alert_has_an_entry() -> None:
    rules = [
        rule["alert"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
    ]
    assert sorted(entries("alerts.md")) == sorted(rules)


def test_every_entry_says_what_it_means_what_was_protected_and_what_to_do() -> None:
    for page in ("refusals.md", "alerts.md"):
        for name, text in entries(page).items():
            places = [text.find(part) for part in PARTS]
            assert -1 not in places and places == sorted(places), f"{page}: {name}"


def test_a_new_refusal_is_seen(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "new.py").write_text('raise StateRefused(f"{path} is odd: {1}") from None\n')
    assert list(refusals(tmp_path)) == ["… is odd: …"]
