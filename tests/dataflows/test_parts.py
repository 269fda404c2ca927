"""A replay in parts: the days of all are those of one."""

from __future__ import annotations

import itertools

import pytest

from dataflows.arguments import DAY_MS, part
from lookback.errors import UsageError


@pytest.mark.parametrize(
    ("start", "end"), [(0, 10 * DAY_MS), (5, 7 * DAY_MS + 9), (3 * DAY_MS - 1, 12 * DAY_MS + 1)]
)
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_parts_follow_each_other_and_share_no_day(start: int, end: int, count: int) -> None:
    found = [part(f"{i}/{count}", start, end) for i in range(count)]
    assert found[0][0] == start and found[-1][1] == end
    for (_, before), (after, _) in itertools.pairwise(found):
        assert before == after and after % DAY_MS == 0
    assert all(to is not None and since < to for since, to in found)


@pytest.mark.parametrize("text", ["1", "2/2", "a/2", "-1/2", "0/0", "1/x"])
def test_what_is_no_part(text: str) -> None:
    with pytest.raises(UsageError, match="write which of how many"):
        part(text, 0, DAY_MS)


def test_more_parts_than_days_and_no_end() -> None:
    with pytest.raises(UsageError, match="there are 2 days"):
        part("0/3", 0, 2 * DAY_MS)
    with pytest.raises(UsageError, match="say where the rows end"):
        part("0/3", 0, None)
    assert part(None, 3, None) == (3, None)
