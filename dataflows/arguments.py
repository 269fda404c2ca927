"""What people write behind an option, read into what it means.

Refuses: doing anything with it. Each raises UsageError, which says what to write instead.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from dataflows.pods import Pods, parse_peers
from lookback.definition import Definition
from lookback.errors import UsageError

MOST_CACHE_BYTES = 1 << 50
MOST_EPOCH_MS = 3_600_000
MOST_PORT = 65_535
MOST_PODS = 1_000
DAY_MS = 86_400_000


def start_ms(text: str | None) -> int | None:
    """Return the instant that a new state is to be exact from; None: from the source's beginning."""
    if text in (None, "earliest"):
        return None
    return time.time_ns() // 1_000_000 if text == "latest" else instant_ms("--start", text or "")


def clock(text: str | None) -> str | None:
    """Return the clock that values are refreshed by; None: the source's own."""
    if text not in (None, "wall", "event"):
        raise UsageError(f"--clock {text}: write wall or event")
    return text


def log_is_json(text: str) -> bool:
    """Return whether a job is to say what it says in JSON."""
    if text not in ("plain", "json"):
        raise UsageError(f"--log {text}: write plain or json")
    return text == "json"


def metrics(text: str | None) -> tuple[str, int] | None:
    """Return the host and port of HOST:PORT; port 0 is any free one."""
    if text is None:
        return None
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > MOST_PORT:
        raise UsageError(f"--metrics {text}: write HOST:PORT, such as 127.0.0.1:9464")
    return host.strip("[]"), int(port)


def pods(peers: str | None, ordinal: int, workers: int, most: int) -> Pods | None:
    """Return the pods of a job on several machines; None where it is on one."""
    if peers is None:
        return None
    found = Pods(parse_peers(peers), ordinal, workers)
    within("--ordinal", ordinal, 0, MOST_PODS)
    within(f"--workers {workers} on each of {len(found.peers)} pods: workers of all", found.total, 1, most)
    return found


def within(option: str, value: int, least: int, most: int) -> None:
    """Refuse a whole number outside of [least, most]."""
    if not least <= value <= most:
        raise UsageError(f"{option} {value}: write a whole number from {least} to {most:,}")


def instant_ms(option: str, text: str) -> int:
    """Return a date, an ISO instant or epoch ms as epoch ms."""
    from lookback.client import to_ms

    try:
        return to_ms(text)
    except UsageError as error:
        raise UsageError(f"{option} {text}: {error}") from None


def part(text: str | None, from_ms: int, to_ms: int | None) -> tuple[int, int | None]:
    """Return [from, to) of one of N parts of a replay, cut between days.

    >>> part("1/2", 0, 3 * DAY_MS)
    (172800000, 259200000)
    """
    if text is None:
        return from_ms, to_ms
    place, _, count = text.partition("/")
    if not (place.isdecimal() and count.isdecimal() and int(place) < int(count)):
        raise UsageError(f"--part {text}: write which of how many, such as 0/4 for the first of four")
    if to_ms is None:
        raise UsageError(f"--part {text}: say where the rows end with --to")
    first, last = from_ms // DAY_MS, -(-to_ms // DAY_MS)
    cuts = [first + (last - first) * (int(place) + i) // int(count) for i in range(2)]
    if cuts[0] == cuts[1]:
        raise UsageError(
            f"--part {text}: there are {last - first} days between --from and --to; take as many parts"
        )
    return max(from_ms, cuts[0] * DAY_MS), min(to_ms, cuts[1] * DAY_MS)


def size_bytes(text: str) -> int:
    """Return a size such as 256MiB in bytes."""
    units = {
        "": 1,
        "B": 1,
        "KB": 10**3,
        "MB": 10**6,
        "GB": 10**9,
        "KIB": 1 << 10,
        "MIB": 1 << 20,
        "GIB": 1 << 30,
    }
    number = text.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
    unit = text[len(number) :].strip().upper()
    try:
        size = int(float(number) * units[unit])
    except (ValueError, OverflowError, KeyError):
        raise UsageError(f"--cache-bytes {text}: write a size such as 256MiB or 1GiB") from None
    if size < 1 << 20:
        raise UsageError(f"--cache-bytes {text}: give at least 1MiB")
    if size > MOST_CACHE_BYTES:
        raise UsageError(
            f"--cache-bytes {text}: no machine has that much; give a size such as 256MiB or 1GiB"
        )
    return size


def epoch_ms_of(text: str) -> int:
    """Return a duration such as 200ms in ms."""
    from lookback.definition import parse_duration

    try:
        epoch_ms = parse_duration(text)
    except ValueError:
        epoch_ms = 0
    if not 1 <= epoch_ms <= MOST_EPOCH_MS:
        raise UsageError(f"--epoch {text}: write a time from 1ms to 1h, such as 200ms or 1s")
    return epoch_ms


def entity_key(parts: list[str], definition: Definition) -> dict[str, str]:
    """Return NAME=KEY arguments by name."""
    names = {name for view in definition.views.values() for name in (*view.key_names, *view.key_fields)}
    found: dict[str, str] = {}
    for part in parts:
        name, sign, value = part.partition("=")
        if not sign or not name:
            raise UsageError(f"{part!r} is no entity key: write NAME=KEY, such as card=c1")
        if name not in names:
            raise UsageError(f"no view has the key {name}: write {', '.join(sorted(names))}")
        if name in found:
            raise UsageError(f"{name} is given twice: read one entity at a time, or many with --entities")
        found[name] = value
    return found


def askable(definition: Definition, key: dict[str, str], event: dict[str, Any] | None) -> list[str] | None:
    """Return the features that these key parts can be asked for; all where that would be none."""
    known = {*key, *(event or {})}
    views = [v for v in definition.views.values() if set(v.key_names) <= known or set(v.key_fields) <= known]
    stored = [f"{view.name}.{one.name}" for view in views for one in view.features]
    computed = [
        one.name
        for one in definition.on_demand.values()
        if set(one.stored) <= set(stored) and (event is not None or not one.request_fields)
    ]
    return stored + computed if stored else None


def json_object(text: str, where: str) -> dict[str, Any]:
    """Return a JSON object; `where` names its place in an error."""
    try:
        found = json.loads(text)
    except ValueError as error:
        raise UsageError(f'{where} is not JSON ({error}): write an object such as {{"card": "c1"}}') from None
    if not isinstance(found, dict):
        raise UsageError(f'{where} is no JSON object: write one such as {{"card": "c1"}}')
    return found


def text_of(path: Path) -> str:
    """Return a file's text."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"can't read {path}: {error.strerror}; give a file of JSON lines") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8 text: give a file of JSON lines") from None
