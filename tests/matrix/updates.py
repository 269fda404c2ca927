"""The change log of a cell: each update once, each value one that some prefixes give, the last ones of all events."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.matrix import check, count
from tests.matrix.events import VIEWS, Events
from tests.services.change_log import Update, by_key, problems, read_log

FLOATS = 200  # updates of which every feature is recomputed, about


def topic_of(events: Events) -> str:
    """Return the topic that a cell's updates go to."""
    return f"{events.topic}.updates"


def judge(address: str, events: Events, dice: np.random.Generator) -> tuple[list[str], int]:
    """Return (what a consumer should never have read, how many updates it read)."""
    updates = read_log(address, topic_of(events))
    found = [f"change log: {what}" for what in problems(updates)[: check.SHOWN]]
    whole = FLOATS / max(len(updates), 1)
    versions = {(one[0].value["view"], _entity(one[0])): one for one in by_key(updates).values()}
    for view in VIEWS:
        for key, rows in events.rows[view].items():
            mine = versions.get((view, key), [])
            if not mine:
                found.append(f"change log: nothing of {view} {key}")
                continue
            hashes = [_as_hash(update) for update in mine]
            wrong = check.judge_entity(view, rows, hashes, dice.random(len(hashes)) < whole)
            found += [f"change log: {view} {key}: {what}" for what in wrong]
            found += [
                f"change log: {view} {key}: last {what}" for what in _last(view, rows, mine[-1], hashes[-1])
            ]
    return found, len(updates)


def _last(view: str, rows: Any, update: Update, found: check.Hash) -> Iterator[str]:
    if update.value["event_time_ms"] != rows.time_ms[-1]:
        yield f"event at {update.value['event_time_ms']}, not {rows.time_ms[-1]}"
    wrong = check.difference(found, count.features(view, rows, update.value["as_of_ms"]))
    if wrong:
        yield wrong


def _entity(update: Update) -> str:
    (key,) = update.value["entity"].values()
    return str(key)


def _as_hash(update: Update) -> check.Hash:
    """Return an update as a plain reader of the store would see it."""
    texts = {name: _text(value) for name, value in update.value["values"].items()}
    texts["_as_of_ms"] = str(update.value["as_of_ms"])
    return {name.encode(): text.encode() for name, text in texts.items()}


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool | list):
        return json.dumps(value)
    return value if isinstance(value, str) else repr(value)
