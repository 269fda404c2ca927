"""Pay-later customers: training rows and answers are what the page says."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tests.features.pages import Event, Page, request
from tests.features.plain import DAY, MINUTE, Past, accepted, by, entropy, mean, ratio, same, stddev
from tests.features.stopped import stopped, waiting

BERLIN = ZoneInfo("Europe/Berlin")
WINDOWS = {"7d": 7 * DAY, "30d": 30 * DAY, "90d": 90 * DAY}


def local(order: Event) -> datetime:
    return datetime.fromtimestamp(order["at"] / 1000, UTC).astimezone(BERLIN)


def weekend(order: Event) -> bool:
    return local(order).strftime("%a") in ("Sat", "Sun")


def night(order: Event) -> bool:
    return local(order).hour < 6


def risky(order: Event) -> bool:
    return order["category"] in ("electronics", "gift_cards", "jewellery")


def stage(since_last: int | None, since_first: int | None, trend: float | None) -> str:
    """Return where a customer stands, by the page's table, from its top to its bottom."""
    if since_last is None:
        return "new"
    assert since_first is not None
    if since_last > 90 * DAY:
        return "returning"
    if since_last > 30 * DAY:
        return "lapsing"
    if since_first < 30 * DAY:
        return "starting"
    return "growing" if trend is not None and trend > 2 else "regular"


class Words:
    """The page's words, as of one order or one instant after another."""

    def __init__(self, orders: list[Event]) -> None:
        self._customers, self._pairs = by(orders, "customer"), by(orders, "customer", "device")

    def features(self, customer: str, device: str, at: int, own: Event | None) -> dict[str, Any]:
        """Return every feature of the set; own: the order that is looked at, None at an instant without one."""
        upto = own["_order"] if own else (at + 1,)
        mine = [one for one in self._customers.get((customer,), []) if one["_order"] < upto]
        with_device = [one for one in self._pairs.get((customer, device), []) if one["_order"] < upto]
        if own:
            mine, with_device = [*mine, own], [*with_device, own]
        orders, on_device = Past(mine, at, own), Past(with_device, at, own)
        count = {name: orders.count(window) for name, window in WINDOWS.items()}
        amount = {name: orders.total("amount", window) for name, window in WINDOWS.items()}
        quarter = orders.values("amount", 90 * DAY)
        trend = ratio(count["7d"] / 7, count["30d"] / 30)
        since_last, since_first = orders.since_last(None), orders.since_first()
        return {
            **{f"customer_orders.orders_{name}": value for name, value in count.items()},
            **{f"customer_orders.amount_sum_{name}": value for name, value in amount.items()},
            "customer_orders.amount_mean_90d": mean(quarter),
            "customer_orders.amount_stddev_30d": stddev(orders.values("amount", 30 * DAY)),
            "customer_orders.amount_stddev_90d": stddev(quarter),
            "customer_orders.weekend_share_90d": orders.share(90 * DAY, weekend),
            "customer_orders.night_share_90d": orders.share(90 * DAY, night),
            "customer_orders.categories_30d": orders.kinds("category", 30 * DAY),
            "customer_orders.categories_90d": orders.kinds("category", 90 * DAY),
            "customer_orders.category_mix_90d": entropy(orders.values("category", 90 * DAY)),
            "customer_orders.risky_share_90d": ratio(orders.total("amount", 90 * DAY, risky), amount["90d"]),
            "customer_orders.risky_orders_7d": orders.count(7 * DAY, risky),
            "customer_orders.devices_90d": orders.kinds("device", 90 * DAY),
            "customer_orders.device_mix_90d": entropy(orders.values("device", 90 * DAY)),
            "customer_orders.device_seen_90d": orders.seen("device", 90 * DAY),
            "customer_orders.since_last_lifetime": since_last,
            "customer_orders.since_first_lifetime": since_first,
            "customer_device.orders_90d": on_device.count(90 * DAY),
            "volatility": ratio(stddev(quarter), mean(quarter)),
            "device_share": ratio(on_device.count(90 * DAY), count["90d"]),
            "order_trend": trend,
            "amount_trend": ratio(float(amount["7d"]) / 7, float(amount["30d"]) / 30),
            "days_since_last": None if since_last is None else since_last // DAY,
            "lifecycle": stage(since_last, since_first, trend),
        }

    def of(self, own: Event) -> dict[str, Any]:
        """Return every feature as of one order."""
        return self.features(own["customer"], own["device"], own["at"], own)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return Page("pay_later", tmp_path_factory.mktemp("pay_later")).run()


def words_of(orders: list[Event]) -> tuple[Words, list[Event]]:
    """Return the words over raw events, and the orders that are not late."""
    kept = accepted(orders, "orders", "at", 10 * MINUTE)
    return Words(kept), kept


def test_every_training_row_is_what_the_page_says(page: Page) -> None:
    orders = page.events("orders")
    words, kept = words_of(orders)
    rows = {row["order_id"]: row for row in page.rows()}
    assert len(rows) == len(kept) < len(orders)  # some are late
    for own in kept:
        want = words.of(own)
        assert sorted(want) == sorted(page.definition.all_features())
        same(rows[own["order_id"]], want, own)
    stages = {row["lifecycle"] for row in rows.values()}
    assert stages == {"new", "starting", "regular", "growing", "lapsing", "returning"}


def test_the_page_shows_an_event_a_row_and_the_answer_that_comes(page: Page) -> None:
    page.check_shown("orders")
    [row] = [row for row in page.rows() if row["order_id"] == page.shown_row()["order_id"]]
    page.check_row_shown(row)


def test_orders_at_the_checkout_are_answered_as_replayed_later(page: Page, tmp_path: Path) -> None:
    """Stop the events in the middle, ask for each order that comes next; the full replay says the same."""
    then = stopped(page, tmp_path, {"orders": "at"}, share=0.8)
    words, _ = words_of(then.early["orders"])
    rows = {row["order_id"]: row for row in page.rows()}
    asked = [one for one in then.later["orders"] if one["at"] >= then.cut_ms][:150]
    replayed = 0
    with then.client as client:
        for one in asked:
            entity = {"customer": one["customer"], "device": one["device"]}
            reading = client.get(entity, event=request(one))
            same(reading.values, words.of(waiting(one, "at")), one)
            before = [o for o in then.later["orders"] if o is not one and o["customer"] == one["customer"]]
            late = one["order_id"] not in rows
            if not late and not any(other["at"] <= one["at"] for other in before):
                row = rows[one["order_id"]]
                assert reading.values == {name: row[name] for name in reading.values}
                replayed += 1
    assert replayed >= 30


def test_between_orders_a_customer_fades(page: Page) -> None:
    """Read customers without an order, as of the store's end and of later days."""
    words, kept = words_of(page.events("orders"))
    end = kept[-1]["at"]
    stages = set()
    with page.client() as client:
        for customer in range(0, 70, 3):
            device = f"p{customer}"
            for days in (0, 3, 31, 91, 400):
                at = end + days * DAY
                reading = client.get({"customer": f"k{customer}", "device": device}, at=at)
                same(reading.values, words.features(f"k{customer}", device, at, None), (customer, days))
                stages.add(reading["lifecycle"])
    assert stages == {"regular", "growing", "lapsing", "returning"}  # none of them began in the last 30 days
