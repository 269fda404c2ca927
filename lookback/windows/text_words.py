"""Which words of a view are text ids: what a state or a store must keep under ids of its own."""

from __future__ import annotations

from dataclasses import dataclass

from lookback.windows.layout import ENDS, L_FAMILY, L_KIND, L_LIFE, build_layout
from lookback.windows.plan import ROW_HEAD, Kind, Result, ViewPlan

TEXT_KIND = 2  # of a lane's column, in the kernel's tables


@dataclass(frozen=True)
class TextWords:
    """Which int64 words of a view are text ids."""

    outputs: tuple[int, ...]  # output columns; of a list those of its elements, not the length
    rows: tuple[int, ...]  # words of a row, time and position counted
    lives: tuple[tuple[int, int], ...]  # (life word that counts, life word that is an id where that is > 0)

    @property
    def any(self) -> bool:
        """Return whether there are any."""
        return bool(self.outputs or self.rows or self.lives)


def text_words(plan: ViewPlan) -> TextWords:
    """Return a view's text words."""
    outputs: list[int] = []
    for feature, start, end in zip(plan.features, plan.out_starts, plan.out_starts[1:], strict=False):
        if feature.result is Result.TEXT:
            outputs.extend(range(start + 1 if feature.is_list else start, end))
    first = ROW_HEAD + plan.words
    rows = (first + i for i, column in enumerate(plan.columns) if column.kind is Kind.TEXT)
    lives: list[tuple[int, int]] = []
    for lane in build_layout(plan).lanes:
        if lane[L_FAMILY] == ENDS and lane[L_KIND] == TEXT_KIND and lane[L_LIFE] >= 0:
            start = int(lane[L_LIFE])  # (n, first time, position, value, last time, position, value)
            lives += [(start, start + 3), (start, start + 6)]
    return TextWords(tuple(outputs), tuple(rows), tuple(lives))
