"""Every set has a page, a place in the index, owners and words for all that it computes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lookback.definition import load

ROOT = Path(__file__).resolve().parents[2]
SETS = sorted(path.stem for path in (ROOT / "features").glob("*.yaml"))


def test_the_index_names_the_sets_that_there_are() -> None:
    index = (ROOT / "docs" / "features" / "README.md").read_text()
    assert sorted(re.findall(r"^\| \[[^\]]+\]\((\w+)\.md\)", index, re.MULTILINE)) == SETS


@pytest.mark.parametrize("name", SETS)
def test_a_set_is_described_and_its_page_names_every_feature(name: str) -> None:
    definition = load(ROOT / "features" / f"{name}.yaml")
    assert definition.notes.description and definition.notes.owner
    assert all(view.notes.description for view in definition.views.values())
    page = (ROOT / "docs" / "features" / f"{name}.md").read_text()
    spans = {word for span in re.findall(r"`([^`\n]+)`", page) for word in (span, *span.split("."))}
    features = {one.name.rpartition("_")[0] for view in definition.views.values() for one in view.features}
    assert (features | set(definition.on_demand)) - spans == set()


@pytest.mark.parametrize("name", SETS)
def test_a_service_names_features_of_the_set(name: str) -> None:
    definition = load(ROOT / "features" / f"{name}.yaml")
    assert definition.services
    for features in definition.services.values():
        assert set(features) <= set(definition.all_features())
