"""Overdraft lending: training rows and answers are what the page says."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.features.pages import Event, Page, request
from tests.features.plain import DAY, HOUR, Past, accepted, by, mean, ratio, same
from tests.features.stopped import stopped, waiting

WINDOWS = {"7d": 7 * DAY, "30d": 30 * DAY, "90d": 90 * DAY}


def out(booking: Event) -> bool:
    return bool(booking["amount"] < 0)


def below_zero(booking: Event) -> bool:
    return bool(booking["balance"] < 0)


def dips(booking: Event) -> bool:
    return bool(booking["balance"] < 0 <= booking["balance"] - booking["amount"])


def salary(booking: Event) -> bool:
    return bool(booking["kind"] == "salary")


def returned(booking: Event) -> bool:
    return bool(booking["kind"] == "returned_debit")


class Words:
    """The page's words, for one application after another."""

    def __init__(self, bookings: list[Event], applications: list[Event]) -> None:
        self._bookings, self._applications = by(bookings, "account"), by(applications, "account")

    def features(self, own: Event) -> dict[str, Any]:
        """Return every feature of the set as of one application."""
        account, at = own["account"], own["_order"][0]
        booked = Past(
            [one for one in self._bookings.get((account,), []) if one["_order"] < own["_order"]], at
        )
        before = [one for one in self._applications.get((account,), []) if one["_order"] < own["_order"]]
        applied = Past([*before, own], at, own)
        want: dict[str, Any] = {}
        for name, window in WINDOWS.items():
            want[f"bookings_{name}"] = booked.count(window)
            want[f"amount_mean_{name}"] = mean(booked.values("amount", window))
            want[f"spend_mean_{name}"] = mean(booked.values("amount", window, out))
            want[f"overdrafts_{name}"] = booked.count(window, dips)
            want[f"lowest_balance_{name}"] = min(booked.values("balance", window), default=None)
            if name != "7d":
                want[f"overdrawn_share_{name}"] = booked.share(window, below_zero)
                want[f"income_{name}"] = booked.total("amount", window, salary)
                want[f"spend_{name}"] = booked.total("amount", window, out)
                want[f"returned_{name}"] = booked.count(window, returned)
        paid = [one["_order"][0] for one in booked.last(90 * DAY, salary)]
        want["last_balance_90d"] = booked.newest("balance", 90 * DAY)
        want["since_overdraft_90d"] = booked.since_last(90 * DAY, dips)
        want["income_gap_90d"] = (paid[-1] - paid[0]) // (len(paid) - 1) if len(paid) > 1 else None
        want["history_lifetime"] = booked.since_first()
        lowest = want["lowest_balance_90d"]
        monthly = float(want["income_90d"]) / 3
        return {
            **{f"account_bookings.{name}": value for name, value in want.items()},
            "account_applications.applications_30d": applied.count(30 * DAY),
            "account_applications.requested_max_90d": max(applied.values("requested", 90 * DAY)),
            "monthly_income": monthly,
            "requested_to_income": ratio(own["requested"], monthly),
            "left_over": want["income_30d"] + want["spend_30d"],
            "covers_lowest": None if lowest is None else own["requested"] + lowest >= 0,
            "overdrafts_rising": want["overdrafts_30d"] * 3 > want["overdrafts_90d"],
            "thin_history": (want["history_lifetime"] or 0) < 90 * DAY,
        }


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return Page("overdraft", tmp_path_factory.mktemp("overdraft")).run()


def words_of(bookings: list[Event], applications: list[Event]) -> tuple[Words, list[Event]]:
    """Return the words over raw events, and the applications that are not late."""
    kept = accepted(applications, "applications", "at", HOUR)
    return Words(accepted(bookings, "bookings", "posted_at", HOUR), kept), kept


def test_every_training_row_is_what_the_page_says(page: Page) -> None:
    bookings = page.events("bookings")
    assert len(accepted(bookings, "bookings", "posted_at", HOUR)) < len(bookings)  # some are late
    words, kept = words_of(bookings, page.events("credit_applications"))
    rows = {row["application_id"]: row for row in page.rows()}
    assert len(rows) == len(kept) > 150
    for own in kept:
        want = words.features(own)
        assert sorted(want) == sorted(page.definition.all_features())
        same(rows[own["application_id"]], want, own)
    for name in WINDOWS:
        assert any(row[f"account_bookings.overdrafts_{name}"] for row in rows.values())
    for name in ("thin_history", "overdrafts_rising", "covers_lowest"):
        assert {row[name] for row in rows.values()} >= {True, False}


def test_the_page_shows_events_a_row_and_the_answer_that_comes(page: Page) -> None:
    page.check_shown("bookings", "credit_applications")
    [row] = [row for row in page.rows() if row["application_id"] == page.shown_row()["application_id"]]
    page.check_row_shown(row)


def test_applications_are_answered_as_replayed_later(page: Page, tmp_path: Path) -> None:
    """Stop the events in the middle, ask for each application that comes next; the full replay says the same."""
    then = stopped(page, tmp_path, {"bookings": "posted_at", "credit_applications": "at"}, share=0.7)
    words, _ = words_of(then.early["bookings"], then.early["credit_applications"])
    rows = {row["application_id"]: row for row in page.rows()}
    later = [(one["account"], one["posted_at"]) for one in then.later["bookings"]]
    asked = [one for one in then.later["credit_applications"] if one["at"] >= then.cut_ms]
    replayed = 0
    with then.client as client:
        for one in asked:
            reading = client.get({"account": one["account"]}, event=request(one), stream="applications")
            assert reading.as_of_ms == one["at"]
            same(reading.values, words.features(waiting(one, "at")), one)
            nothing_between = not any(name == one["account"] and at <= one["at"] for name, at in later)
            if nothing_between and one["account"] not in {a["account"] for a in asked[: asked.index(one)]}:
                row = rows[one["application_id"]]
                assert reading.values == {name: row[name] for name in reading.values}
                replayed += 1
    assert len(asked) > 40 and replayed >= 2


def test_an_account_without_bookings_has_no_income_to_lend_on(page: Page) -> None:
    with page.client() as client:
        event = {"at": 1720000000000, "application_id": 1, "account": "nobody", "requested": "500.00"}
        reading = client.get(
            {"account": "nobody"}, event=event, stream="applications", service="overdraft_v1"
        )
    assert reading["thin_history"] is True
    assert reading["requested_to_income"] is None and reading["account_bookings.amount_mean_90d"] is None
    assert reading["left_over"] == Decimal("0.00")
    assert reading.status["account_bookings.overdrafts_7d"] == "unknown"
