"""Account takeover: training rows and answers are what the page says, also for a login that is not counted yet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.features.pages import Event, Page, request
from tests.features.plain import DAY, HOUR, MINUTE, Past, accepted, by, same
from tests.features.stopped import stopped, waiting

TEN_MINUTES = 10 * MINUTE


def succeeded(login: Event) -> bool:
    return bool(login["success"])


def failed(login: Event) -> bool:
    return not login["success"]


class Words:
    """The page's words, for one attempt after another."""

    def __init__(self, attempts: list[Event], logins: list[Event]) -> None:
        keys = (("user",), ("device",), ("network",), ("user", "device"), ("user", "place"))
        self._attempts = {key: by(attempts, *key) for key in keys}
        self._logins = {key: by(logins, *key) for key in keys}

    def _past(self, events: Any, own: Event, key: tuple[str, ...], counts: bool) -> Past:
        """Return what was there before an attempt; the attempt itself too where it counts."""
        found = [
            one for one in events[key].get(tuple(own[k] for k in key), []) if one["_order"] < own["_order"]
        ]
        return Past([*found, own] if counts else found, own["_order"][0], own if counts else None)

    def features(self, own: Event) -> dict[str, Any]:
        """Return every feature of the set as of one attempt."""
        tried = {key: self._past(self._attempts, own, key, counts=True) for key in self._attempts}
        ended = {key: self._past(self._logins, own, key, counts=False) for key in self._logins}
        logins, mine = ended["user",], tried["user",]
        with_device, from_place = ended["user", "device"], ended["user", "place"]
        never = logins.count(None, succeeded) == 0
        new_device, new_place = (
            with_device.count(None, succeeded) == 0,
            from_place.count(None, succeeded) == 0,
        )
        last_place = logins.newest("place", 90 * DAY, succeeded)
        moved = None if last_place is None else own["place"] != last_place
        since_login = logins.since_last(90 * DAY, succeeded)
        users_of_device = tried["device",].kinds("user", DAY)
        users_of_network = tried["network",].kinds("user", HOUR)
        assert users_of_device is not None and users_of_network is not None  # the attempt's own user
        return {
            "user_device.logins_lifetime": with_device.count(None, succeeded),
            "user_device.since_first_lifetime": with_device.since_first(succeeded),
            "user_place.logins_lifetime": from_place.count(None, succeeded),
            "user_place.since_first_lifetime": from_place.since_first(succeeded),
            "user_logins.logins_30d": logins.count(30 * DAY, succeeded),
            "user_logins.logins_lifetime": logins.count(None, succeeded),
            "user_logins.failures_1h": logins.count(HOUR, failed),
            "user_logins.failures_1d": logins.count(DAY, failed),
            "user_logins.fail_rate_7d": logins.share(7 * DAY, failed),
            "user_logins.last_place_90d": last_place,
            "user_logins.usual_place_90d": logins.usual("place", 90 * DAY, succeeded),
            "user_logins.since_login_90d": since_login,
            "user_attempts.attempts_10m": mine.count(TEN_MINUTES),
            "user_attempts.attempts_1h": mine.count(HOUR),
            "user_attempts.attempts_1d": mine.count(DAY),
            "user_attempts.devices_1d": mine.kinds("device", DAY),
            "user_attempts.places_1d": mine.kinds("place", DAY),
            "user_attempts.device_tried_30d": mine.seen("device", 30 * DAY),
            "user_attempts.since_last_30d": mine.since_last(30 * DAY),
            "device_attempts.attempts_1h": tried["device",].count(HOUR),
            "device_attempts.users_1d": users_of_device,
            "network_attempts.users_1h": users_of_network,
            "network_logins.fail_rate_1h": ended["network",].share(HOUR, failed),
            "first_login": never,
            "new_device": new_device,
            "new_place": new_place,
            "unfamiliar": new_device and new_place and not never,
            "moved": moved,
            "moved_fast": bool(moved) and since_login is not None and since_login < 2 * HOUR,
            "stuffing": users_of_device >= 5 or users_of_network >= 10,
        }


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return Page("account_takeover", tmp_path_factory.mktemp("takeover")).run()


def words_of(attempts: list[Event], logins: list[Event]) -> tuple[Words, list[Event]]:
    """Return the words over raw events, and the attempts that are not late."""
    kept = accepted(attempts, "attempts", "at", TEN_MINUTES)
    return Words(kept, accepted(logins, "logins", "at", TEN_MINUTES)), kept


def test_every_training_row_is_what_the_page_says(page: Page) -> None:
    attempts = page.events("login_attempts")
    words, kept = words_of(attempts, page.events("logins"))
    rows = {row["attempt_id"]: row for row in page.rows()}
    assert len(rows) == len(kept) < len(attempts)  # some are late
    for own in kept:
        want = words.features(own)
        assert sorted(want) == sorted(page.definition.all_features())
        same(rows[own["attempt_id"]], want, own)
    stolen = [rows[own["attempt_id"]] for own in kept if own["device"] == "dX"]
    assert all(row["new_device"] and row["new_place"] for row in stolen)
    assert sum(row["stuffing"] for row in stolen) == len(stolen) - 4
    bots = [rows[own["attempt_id"]] for own in kept if own["network"] == "net-bots"]
    assert {row["device_attempts.users_1d"] for row in bots} == {1}
    assert sum(row["stuffing"] for row in bots) == len(bots) - 9
    assert 0 < sum(row["unfamiliar"] for row in rows.values()) < len(rows) / 20


def test_a_thief_who_tried_before_has_still_never_logged_in(page: Page) -> None:
    rows = {row["attempt_id"]: row for row in page.rows()}
    thief = [rows[number] for number in sorted(rows) if rows[number]["device"] == "dY"]
    assert [row["user_attempts.device_tried_30d"] for row in thief] == [False, True, True, True]
    # The third attempt is the one that gets in: before it completes the device is new, at the fourth no longer.
    assert [row["new_device"] for row in thief] == [True, True, True, False]
    page.check_row_shown(thief[2])


def test_the_page_shows_events_of_the_sample_and_the_answer_that_comes(page: Page) -> None:
    page.check_shown("login_attempts", "logins")


def test_logins_that_wait_are_answered_as_replayed_later(page: Page, tmp_path: Path) -> None:
    """Stop the events in the middle, ask for each attempt that comes next; the full replay says the same."""
    then = stopped(page, tmp_path, {"login_attempts": "at", "logins": "at"}, share=0.75)
    words, _ = words_of(then.early["login_attempts"], then.early["logins"])
    rows = {row["attempt_id"]: row for row in page.rows()}
    later = then.later["login_attempts"] + then.later["logins"]
    asked = [one for one in then.later["login_attempts"] if one["at"] >= then.cut_ms][:150]
    compared = replayed = 0
    with then.client as client:
        for one in asked:
            entity = {name: one[name] for name in ("user", "device", "place", "network")}
            reading = client.get(entity, event=request(one), stream="attempts")
            assert reading.as_of_ms == one["at"]
            compared += same(reading.values, words.features(waiting(one, "at")), one)
            if one["attempt_id"] in rows and not disturbed(one, later):  # a late one has no row
                row = rows[one["attempt_id"]]
                assert reading.values == {name: row[name] for name in reading.values}
                replayed += 1
    assert compared == 150 * len(page.definition.all_features())
    assert replayed >= 20


def disturbed(one: Event, later: list[Event]) -> bool:
    """Return whether another event that came after the cut counts in an attempt's row."""
    return any(
        other is not one
        and other["at"] <= one["at"]
        and (
            other["user"] == one["user"]
            or other["device"] == one["device"]
            or (other["network"] == one["network"] and other["at"] > one["at"] - HOUR)
        )
        for other in later
    )


def test_once_it_is_counted_the_device_is_known(page: Page) -> None:
    with page.client() as client:
        thief = {"user": "u5", "device": "dY", "place": "BR/Recife", "network": "net-far"}
        features = ["new_device", "new_place", "user_device.logins_lifetime"]
        assert list(client.get(thief, features=features).values.values()) == [False, False, 2]
        before = client.get(thief, features=["new_device"], at=1711843260000)
        assert (before["new_device"], before.status["new_device"]) == (None, "trimmed")
        stranger = client.get({**thief, "user": "nobody"}, features=[*features, "first_login", "unfamiliar"])
        assert list(stranger.values.values()) == [True, True, 0, True, False]
        assert set(stranger.status.values()) == {"unknown"}
