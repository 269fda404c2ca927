"""Card fraud: training rows and answers are what the page says, and where a payment's outcome would leak."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from dataflows.replay_job import ReplayOptions, replay
from lookback import load_training
from lookback.definition import Definition, load
from tests.features.pages import ROOT, Event, Page, request
from tests.features.plain import DAY, HOUR, MINUTE, Past, accepted, by, mean, ratio, same, stddev
from tests.features.stopped import stopped, waiting

OUTCOME = {
    "card_activity.declines_1d",
    "card_activity.declines_7d",
    "merchant_activity.decline_rate_1h",
    "merchant_activity.decline_rate_7d",
}


def whole(payment: Event) -> bool:
    """Return whether an event has every field that the page asks for, as it asks for it."""
    amount = payment.get("amount")
    return (
        all(isinstance(payment.get(name), str) for name in ("card", "merchant", "country"))
        and isinstance(payment.get("declined"), bool)
        and isinstance(amount, Decimal)
        and int(amount.as_tuple().exponent) >= -2
    )


def declined(payment: Event) -> bool:
    return payment.get("declined") is True


def small(payment: Event) -> bool:
    return bool(payment["amount"] < 2)


class Words:
    """The page's words, for one payment after another."""

    def __init__(self, payments: list[Event]) -> None:
        keys: tuple[tuple[str, ...], ...] = (("card",), ("merchant",), ("card", "merchant"))
        self._by = {key: by(payments, *key) for key in keys}

    def _past(self, own: Event, *key: str) -> Past:
        before = self._by[key].get(tuple(own[name] for name in key), [])
        return Past([*(one for one in before if one["_order"] < own["_order"]), own], own["ts"], own)

    def features(self, own: Event) -> dict[str, Any]:
        """Return every feature of the set as of one payment, itself included."""
        card, merchant, pair = (self._past(own, *key) for key in self._by)
        month = card.values("amount", 30 * DAY)
        counts = Counter(card.values("merchant", 30 * DAY))
        average, spread, largest = mean(month), stddev(month), max(month)
        home = card.usual("country", 30 * DAY)
        ages = [own["ts"] - one["ts"] for one in merchant.last(DAY)]
        return {
            "card_activity.tx_count_1m": card.count(MINUTE),
            "card_activity.tx_count_1h": card.count(HOUR),
            "card_activity.tx_count_1d": card.count(DAY),
            "card_activity.tx_count_7d": card.count(7 * DAY),
            "card_activity.tx_count_30d": card.count(30 * DAY),
            "card_activity.amount_sum_1h": card.total("amount", HOUR),
            "card_activity.amount_sum_1d": card.total("amount", DAY),
            "card_activity.amount_mean_30d": average,
            "card_activity.amount_stddev_30d": spread,
            "card_activity.amount_max_30d": largest,
            "card_activity.declines_1d": card.count(DAY, declined),
            "card_activity.declines_7d": card.count(7 * DAY, declined),
            "card_activity.small_amounts_1h": card.count(HOUR, small),
            "card_activity.merchants_1d": card.kinds("merchant", DAY),
            "card_activity.countries_1d": card.kinds("country", DAY),
            "card_activity.top_merchants_30d": sorted(counts, key=lambda name: (-counts[name], name))[:3],
            "card_activity.merchant_seen_30d": card.seen("merchant", 30 * DAY),
            "card_activity.device_seen_30d": card.seen("device", 30 * DAY),
            "card_activity.home_30d": home,
            "card_activity.since_last_30d": card.since_last(30 * DAY),
            "merchant_activity.tx_count_1h": merchant.count(HOUR),
            "merchant_activity.tx_count_1d": merchant.count(DAY),
            "merchant_activity.decline_rate_1h": merchant.share(HOUR, declined),
            "merchant_activity.decline_rate_7d": merchant.share(7 * DAY, declined),
            "merchant_activity.amount_mean_7d": mean(merchant.values("amount", 7 * DAY)),
            "merchant_activity.cards_1d": merchant.kinds("card", DAY),
            "merchant_activity.pressure_1d": sum(0.5 ** (age / HOUR) for age in ages),
            "card_merchant.tx_count_30d": pair.count(30 * DAY),
            "card_merchant.tx_count_lifetime": pair.count(None),
            "card_merchant.amount_max_30d": max(pair.values("amount", 30 * DAY)),
            "card_merchant.since_first_lifetime": pair.since_first(),
            "amount_ratio": ratio(own["amount"], largest),
            "amount_score": ratio(float(own["amount"]) - (average or 0.0), spread),
            "abroad": own["country"] != home,
            "burst": card.count(HOUR) > 5 and card.count(HOUR, small) >= 3,
        }


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return Page("fraud", tmp_path_factory.mktemp("fraud")).run()


def words_of(payments: list[Event]) -> tuple[Words, list[Event]]:
    """Return the words over raw events, and those that are whole and not late."""
    kept = accepted([one for one in payments if whole(one)], "transactions", "ts", 10 * MINUTE)
    return Words(kept), kept


def test_every_training_row_is_what_the_page_says(page: Page) -> None:
    payments = page.events("transactions")
    words, kept = words_of(payments)
    rows = {row["tx_id"]: row for row in page.rows()}
    assert len(rows) == len(kept) < len(payments)  # some are broken
    for own in kept:
        want = words.features(own)
        assert sorted(want) == sorted(page.definition.all_features())
        same(rows[own["tx_id"]], want, own)
    assert sum(row["burst"] for row in rows.values()) > 5


def test_the_page_shows_an_event_a_row_and_the_answer_that_comes(page: Page) -> None:
    page.check_shown("transactions")
    [row] = [row for row in page.rows() if row["tx_id"] == page.shown_row()["tx_id"]]
    page.check_row_shown(row)


def test_payments_that_wait_are_answered_as_replayed_later_but_for_their_outcome(
    page: Page, tmp_path: Path
) -> None:
    """Ask for each payment that comes next, as nobody knows yet whether it is declined."""
    rows = {row["tx_id"]: row for row in page.rows()}
    compared = refused = 0
    for one, reading in answers(page, page.definition, tmp_path):
        differ = {name for name, value in reading.items() if rows[one["tx_id"]][name] != value}
        assert differ == (OUTCOME if one["declined"] else set())
        compared, refused = compared + 1, refused + one["declined"]
    assert compared >= 20 and refused >= 1


def test_a_delay_of_a_millisecond_keeps_the_outcome_out_of_its_own_row(page: Page, tmp_path: Path) -> None:
    text = (ROOT / "features" / "fraud.yaml").read_text()
    text, found = re.subn(r"(where: declined, )(windows)", r"\1delay: 1ms, \2", text)
    assert found == 1
    text, found = re.subn(r"(agg: ratio\n( +))", r"\1delay: 1ms\n\2", text)
    assert found == 1
    (tmp_path / "delayed.yaml").write_text(text)
    definition = load(tmp_path / "delayed.yaml")
    replay(definition, ReplayOptions(f"archive:{page.archive}", tmp_path / "training", 0, quiet=True))
    rows = {row["tx_id"]: row for row in load_training(tmp_path / "training").arrow().to_pylist()}
    refused = 0
    for one, reading in answers(page, definition, tmp_path):
        assert reading == {name: rows[one["tx_id"]][name] for name in reading}
        refused += one["declined"]
    assert refused >= 1


def answers(page: Page, definition: Definition, folder: Path) -> Iterator[tuple[Event, dict[str, Any]]]:
    """Yield payments that wait and what a stopped job answers: those whose card and merchant do nothing before."""
    then = stopped(page, folder, {"transactions": "ts"}, share=0.9, definition=definition)
    words, _ = words_of(then.early["transactions"])
    later = [one for one in then.later["transactions"] if whole(one)]
    with then.client as client:
        for one in [one for one in later if one["ts"] >= then.cut_ms][:200]:
            event = {name: value for name, value in request(one).items() if name != "declined"}
            reading = client.get({}, event=event)
            if definition is page.definition:
                same(reading.values, words.features({**waiting(one, "ts"), "declined": None}), one)
            before = [other for other in later if other is not one and other["ts"] <= one["ts"]]
            if not any(other[key] == one[key] for other in before for key in ("card", "merchant")):
                yield one, reading.values
