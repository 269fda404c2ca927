"""The JSON Schema takes what the loader takes, and helps an editor refuse the rest."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from lookback.definition import json_schema
from lookback.definition.expression_parse import FUNCTIONS
from lookback.definition.source import parse_source
from tests.definition.samples import GOOD, ROOT

SCHEMA = json_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
EXAMPLES = [ROOT / "features" / "fraud.yaml", *sorted((ROOT / "examples" / "definitions").glob("*.yaml"))]


def data(text: str) -> Any:
    return parse_source(text, "f")[0].plain()


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_valid(path: Path) -> None:
    VALIDATOR.validate(data(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("agg: max", "agg: maxx"),
        ("topic:", "tpoic:"),
        ("unit: ms", "unit: ns"),
        ("k: 3", "k: 0"),
        ("tx_count:", "Tx:"),
        ("[1m, 1h]", "[]"),
        ("[1m, 1h]", "[0m]"),
        ("[1m, 1h]", "[1m, 1m]"),
        ("tx_id: int64", "tx_id: int65"),
        ("services:", "servises:"),
        ("card_merchant: [card, merchant]", "card_merchant: [card]"),
        ("event_id: tx_id", "lateness: soon"),
    ],
)
def test_what_a_schema_can_see_is_refused(old: str, new: str) -> None:
    assert old in GOOD
    VALIDATOR.validate(data(GOOD))
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(data(GOOD.replace(old, new, 1)))


def test_every_key_is_explained() -> None:
    for name, model in {"FileModel": SCHEMA, **SCHEMA["$defs"]}.items():
        shapes = [model, *model.get("anyOf", [])]
        for key, about in next((s["properties"] for s in shapes if "properties" in s), {}).items():
            assert about.get("description") or "$ref" in about or key in ("agg", "event_time"), (name, key)


def test_examples_use_every_aggregate_and_option() -> None:
    text = (ROOT / "examples" / "definitions" / "every_aggregate.yaml").read_text(encoding="utf-8")
    feature = SCHEMA["$defs"]["FeatureModel"]["properties"]
    for name in feature["agg"]["enum"]:
        assert f"agg: {name}" in text, name
    for key in feature:
        assert f"{key}:" in text, key


def test_the_reference_names_every_key_and_aggregate() -> None:
    text = (ROOT / "docs" / "definition.md").read_text(encoding="utf-8")
    words = set(re.findall(r"[a-z_0-9]+", text))
    for name, model in {"FileModel": SCHEMA, **SCHEMA["$defs"]}.items():
        shapes = [model, *model.get("anyOf", [])]
        for key in next((s["properties"] for s in shapes if "properties" in s), {}):
            assert key in words, (name, key)
    assert set(SCHEMA["$defs"]["FeatureModel"]["properties"]["agg"]["enum"]) <= words
    language = (ROOT / "docs" / "expressions.md").read_text(encoding="utf-8")
    assert set(FUNCTIONS) <= set(re.findall(r"[a-z_]+", language))


@pytest.mark.parametrize(
    "name", sorted(one.name for one in pkgutil.iter_modules([str(ROOT / "lookback" / "definition")]))
)
def test_doctests(name: str) -> None:
    assert doctest.testmod(importlib.import_module(f"lookback.definition.{name}")).failed == 0
