"""Parts of a local date and time for columns of UTC milliseconds.

Owns: vectorised time zones, by the rules of Python's `zoneinfo` (the system's tz database, else the
`tzdata` package). Refuses: parsing times, formatting, any other calendar.
"""

from __future__ import annotations

import datetime
import zoneinfo
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

I64 = npt.NDArray[np.int64]

SECOND_MS = 1_000
DAY_MS = 86_400_000
# Years that Python's datetimes reach with a day to spare on either side for the zone's offset.
FIRST_MS = -62_135_510_400_000  # 0001-01-02
LAST_MS = 253_402_214_399_999  # 9999-12-30

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def time_part(part: str, time_ms: I64, zone: str) -> tuple[Any, npt.NDArray[np.bool_]]:
    """Return one part of local times, int64 of the same shape, and where there is one.

    part: year, month (1-12), day (1-31), hour (0-23), minute, second (0-59), day_of_week (Monday is 0).
    time_ms: UTC ms; outside the years 1 to 9999 there is no part. zone: an IANA name.
    """
    known = np.asarray((time_ms >= FIRST_MS) & (time_ms <= LAST_MS))
    safe = np.where(known, time_ms, 0)
    local = safe if zone == "UTC" else safe + _offsets_ms(safe, zone)
    return _part(part, local), known


def _part(part: str, local_ms: Any) -> Any:
    if part == "hour":
        return local_ms % DAY_MS // 3_600_000
    if part == "minute":
        return local_ms % 3_600_000 // 60_000
    if part == "second":
        return local_ms % 60_000 // SECOND_MS
    days = local_ms // DAY_MS
    if part == "day_of_week":
        return (days + 3) % 7
    dates = np.asarray(days).astype("datetime64[D]")
    months = dates.astype("datetime64[M]")
    if part == "day":
        return (dates - months.astype("datetime64[D]")).astype(np.int64) + 1
    if part == "month":
        return months.astype(np.int64) % 12 + 1
    return dates.astype("datetime64[Y]").astype(np.int64) + 1970


def _offsets_ms(time_ms: Any, zone: str) -> Any:
    """Return the zone's offset from UTC at each instant, in ms."""
    times = np.atleast_1d(time_ms)
    if times.size == 0:
        return np.zeros(np.shape(time_ms), np.int64)
    first, last = _year(int(times.min())), _year(int(times.max()))
    years = range(first, last + 1)
    if len(years) > 50:  # sparse over centuries: only the years that occur
        years = np.unique(times.astype("datetime64[ms]").astype("datetime64[Y]").astype(np.int64) + 1970)  # type: ignore[assignment]
    tables = [_transitions(zone, int(year)) for year in years]
    edges = np.concatenate([table[0] for table in tables])
    offsets = np.concatenate([table[1] for table in tables])
    return offsets[np.searchsorted(edges, time_ms, side="right") - 1]


def _year(time_ms: int) -> int:
    return (_EPOCH + datetime.timedelta(milliseconds=time_ms)).year


def _year_start(year: int) -> int:
    return (datetime.datetime(year, 1, 1, tzinfo=datetime.UTC) - _EPOCH) // datetime.timedelta(seconds=1)


@lru_cache(maxsize=4_096)
def _transitions(zone: str, year: int) -> tuple[I64, I64]:
    """Return the UTC ms from which each offset of a year holds, ascending, and the offsets in ms."""
    info = zoneinfo.ZoneInfo(zone)

    def offset_at(second: int) -> int:
        instant = _EPOCH + datetime.timedelta(seconds=second)
        offset = instant.astimezone(info).utcoffset()
        assert offset is not None
        return offset // datetime.timedelta(milliseconds=1)

    start = max(_year_start(year), FIRST_MS // SECOND_MS)
    end = _year_start(year + 1) if year < 9999 else LAST_MS // SECOND_MS
    edges, offsets = [start], [offset_at(start)]
    step = 6 * 3_600
    for low in range(start, end, step):
        high = min(low + step, end)
        wanted = offset_at(high)
        if wanted == offsets[-1]:
            continue
        below, above = low, high  # offset_at(below) is the last known one, offset_at(above) is `wanted`
        while above - below > 1:
            middle = (below + above) // 2
            if offset_at(middle) == offsets[-1]:
                below = middle
            else:
                above = middle
        edges.append(above)
        offsets.append(offset_at(above))
    return np.asarray(edges, np.int64) * SECOND_MS, np.asarray(offsets, np.int64)
