"""Local times of columns are those of `datetime` with `zoneinfo`."""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
import zoneinfo

import numpy as np
import pytest

from lookback.definition.calendar import FIRST_MS, LAST_MS, time_part

START = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
PARTS = ["year", "month", "day", "hour", "minute", "second", "day_of_week"]
ZONES = [
    "UTC",
    "Europe/Paris",
    "America/New_York",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Africa/Casablanca",
    "Europe/Dublin",
]


def expected(part: str, time_ms: int, zone: str) -> int:
    local = (START + datetime.timedelta(milliseconds=time_ms)).astimezone(zoneinfo.ZoneInfo(zone))
    return local.weekday() if part == "day_of_week" else int(getattr(local, part))


@pytest.mark.parametrize("zone", ZONES)
def test_random_instants(zone: str, rng: np.random.Generator) -> None:
    times = np.concatenate(
        [
            rng.integers(0, 2 * 10**12, 150),
            rng.integers(-(10**13), 10**13, 60),
            np.array([0, -1, FIRST_MS, LAST_MS]),
        ]
    )
    for part in PARTS:
        found, known = time_part(part, times, zone)
        assert known.all()
        assert found.tolist() == [expected(part, time, zone) for time in times.tolist()]


@pytest.mark.parametrize("zone", ["Europe/Paris", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia"])
def test_both_sides_of_every_change_of_clocks(zone: str) -> None:
    hours = np.arange(1_262_304_000_000, 1_388_534_400_000, 1_800_000)  # 2010 to 2013, by half hours
    times = np.concatenate([hours - 1, hours])
    offsets = [expected("hour", time, zone) for time in times.tolist()]
    found, _ = time_part("hour", times, zone)
    assert found.tolist() == offsets


def test_outside_the_years_of_datetimes_there_is_no_part() -> None:
    times = np.array([FIRST_MS - 1, LAST_MS + 1, -(2**63), 2**63 - 1, 0])
    for zone in ("UTC", "Europe/Paris"):
        assert time_part("hour", times, zone)[1].tolist() == [False, False, False, False, True]


def test_shapes() -> None:
    assert time_part("hour", np.array([], np.int64), "Europe/Paris")[0].shape == (0,)
    assert int(time_part("hour", np.array(0, np.int64), "Europe/Paris")[0]) == 1


def test_zones_need_no_files_of_the_machine() -> None:
    """A slim image has no /usr/share/zoneinfo: what the library depends on brings the zones along."""
    program = (
        "import zoneinfo; assert zoneinfo.TZPATH == (); import numpy as np;"
        "from lookback.definition.calendar import time_part;"
        "print(time_part('hour', np.array([1_700_000_000_000]), 'Asia/Kathmandu')[0].tolist())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONTZPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("[3]\n", "")
