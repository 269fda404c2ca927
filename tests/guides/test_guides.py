"""Every command of the guides runs, and what they print is what the guides show."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.guides.walk import ROOT, Walk, same


def test_every_guide_is_walked() -> None:
    walked = {"data-scientist"}
    assert {path.stem for path in (ROOT / "docs" / "guides").glob("*.md")} == walked | {"README"}


@pytest.mark.parametrize(
    ("shown", "printed"), [("1 row", "2 rows"), ("a 0.5", "a 0.6"), ("a … c", "a b"), ("1.50", "x")]
)
def test_a_planted_difference_is_found(shown: str, printed: str) -> None:
    assert not same(shown, printed)


def test_the_data_scientist(tmp_path: Path) -> None:
    walk = Walk("data-scientist", tmp_path / "walk").begin().go()
    assert walk.commands >= 8 and walk.compared >= 4
    assert (walk.folder / "precision.png").stat().st_size > 10_000
