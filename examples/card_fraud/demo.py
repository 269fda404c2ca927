"""The main job from end to end, on a million card payments: `make demo`.

    1  make the payments, with fraud, late and broken ones among them
    2  run the live job to an LMDB store, read a card under attack from it, and kill the job with SIGKILL
    3  start it again: it goes on where it stopped
    4  read the same card as of a week after the attack
    5  replay a training set from the same events with the same definition
    6  compare what was written live with what the replay gives
    7  draw the card's features over time

Every step runs the commands that users run. Owns: the order of the steps and what must hold at their end.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from examples.card_fraud.compare import KEY, Comparison, compare
from examples.card_fraud.generate import Facts, generate
from examples.card_fraud.job import DemoError, Job, run, run_json, spoken
from examples.card_fraud.live import Watch, stored_values
from examples.card_fraud.payments import DAY_MS, MINUTE_MS
from examples.card_fraud.plot import draw
from examples.card_fraud.replayed import history, last_rows
from examples.card_fraud.show import Show
from lookback.client import Client
from lookback.definition import Definition, load
from lookback.errors import LookbackError
from lookback.stores.base import open_store
from lookback.training import load_training

OURS = ".lookback-demo"
KILL_AT = 0.55  # share of the event time
LOOK_EVERY_S = 0.05
HOT_CARDS = 4
PLOTTED = (
    "card_activity.tx_count_1h",
    "card_activity.declines_1d",
    "card_activity.amount_sum_1d",
    "card_activity.merchants_1d",
)


class Demo:
    """One run of the demo in one folder."""

    def __init__(self, out: Path, features: Path, events: int, show: Show, partitions: int = 4) -> None:
        self.out, self.features, self.show = out, features, show
        self.events, self.partitions = events, partitions
        self.definition: Definition = load(features)
        self.card = self.definition.views["card_activity"]
        self.card_features = [f"{self.card.name}.{feature.name}" for feature in self.card.features]
        self.source = f"archive:{out / 'events'}"
        self.store = f"lmdb:{out / 'store'}"
        self.facts: Facts

    def run(self) -> None:
        """Run all steps; raises DemoError at the first thing that doesn't hold."""
        self.make()
        self.live_until_killed()
        self.live_to_the_end()
        self.a_week_later()
        training = self.replay()
        self.check(training)
        picture = self.plot(training)
        self.goodbye(picture)

    # 1

    def make(self) -> None:
        """Write the archive."""
        self.show.step(f"Making {self.events:,} card payments")
        started = time.monotonic()
        self.facts = facts = generate(self.out / "events", events=self.events, partitions=self.partitions)
        self.show.note(
            f"{facts.cards:,} cards, {facts.merchants:,} merchants, {facts.partitions} partitions, "
            f"{day(facts.first_ms)} to {day(facts.last_ms)}; {facts.fraud:,} payments are fraud"
        )
        self.show.note(
            f"{facts.out_of_order:,} come out of order, {facts.late} too late, {facts.ahead} from clocks "
            f"that run ahead, {facts.broken} are broken"
        )
        self.show.note(f"in {time.monotonic() - started:.1f} s: {self.out / 'events'}")

    # 2, 3

    def _job(self, log: str) -> Job:
        words = [
            *("run", str(self.features), "--source", self.source, "--store", self.store),
            *("--state", str(self.out / "state"), "--dead-letters", str(self.out / "dead-letters")),
            *("--until-end", "--clock", "wall"),  # what is stored stays as of each last event, to compare
        ]
        self.show.command(spoken(words))
        return Job(words, self.out / log)

    def _share(self, event_time_ms: int | None) -> float:
        if event_time_ms is None:
            return 0.0
        span_ms = self.facts.last_ms - self.facts.first_ms
        return max(0.0, (event_time_ms - self.facts.first_ms) / span_ms)

    def live_until_killed(self) -> None:
        """Run the job, read the attacked card as a model would when the job gets there, kill it half-way."""
        self.show.step("Running the live job to LMDB, until it is killed half-way")
        hot = [f"c{i:06d}" for i in range(HOT_CARDS)]
        self.watch = Watch(self.store, self.card, [self.facts.attacked_card, *hot])
        client: Client | None = None
        shown, reached = False, 0.0
        job = self._job("run-1.log")
        try:
            with self.show.bar("event time") as bar:
                while job.running():
                    attacked_ms, *hot_ms = self.watch.look()
                    # The slowest of some busy cards is a fair measure of how far all partitions are.
                    reached = min(self._share(ms) for ms in hot_ms)
                    bar.at(reached, f"{self.watch.counted():,} payments of {len(hot) + 1} cards counted")
                    if client is None and reached > 0:
                        client = Client(self.definition, self.store)
                        client.get({"card": hot[0]}, features=self.card_features)  # loads the kernels
                    if client and not shown and (attacked_ms or 0) >= self._under_attack_ms:
                        self._read_under_attack(client)
                        shown = True
                    if shown and reached >= KILL_AT:
                        break
                    time.sleep(LOOK_EVERY_S)
                else:
                    raise DemoError("the job ended before it could be killed half-way; use more --events")
        finally:
            job.kill()
            if client is not None:
                client.close()
        self.show.note(f"SIGKILL at {reached:.0%} of the event time: no goodbye, no last commit", "bold red")

    def _read_under_attack(self, client: Client) -> None:
        card, at_ms = self.facts.attacked_card, self._under_attack_ms
        started = time.perf_counter()
        reading = client.get({"card": card}, features=self.card_features, at=at_ms)
        took_ms = (time.perf_counter() - started) * 1000
        self.show.note(f"the job has reached the attack on {card}; as of {instant(at_ms)}", "bold")
        self.show.note(f'client.get({{"card": "{card}"}}, at={at_ms}) took {took_ms:.2f} ms', "dim")
        self._show_values(reading.values, reading.status)

    def live_to_the_end(self) -> None:
        """Start the killed job again and let it end."""
        self.show.step("Starting the same command again")
        started = time.monotonic()
        before = self.watch.counted()
        job = self._job("run-2.log")
        try:
            with self.show.bar("event time") as bar:
                while job.running():
                    _, *hot_ms = self.watch.look()
                    bar.at(min(self._share(ms) for ms in hot_ms))
                    time.sleep(LOOK_EVERY_S)
        finally:
            job.kill()
        self.watch.look()
        self.watch.close()
        self.show.note(
            f"to the end in {time.monotonic() - started:.1f} s. A reader looked {self.watch.reads:,} times, "
            f"before and after the kill: its counts rose from {before:,} to {self.watch.counted():,}"
        )
        if self.watch.went_back:
            raise DemoError(f"{self.watch.went_back} reads lacked a payment that an earlier read had counted")
        self.show.good("reads that lacked a payment which an earlier one had counted: 0")
        self._check_dead_letters()

    def _check_dead_letters(self) -> None:
        found: Counter[str] = Counter()
        for path in sorted((self.out / "dead-letters").glob("*.jsonl")):
            found.update(json.loads(line)["reason"] for line in path.read_text().splitlines())
        facts = self.facts
        rows = [
            ("broken", facts.broken, found["parse"] + found["schema"]),
            ("late", facts.late, found["late"]),
            ("ahead of the clock", facts.ahead, found["ahead"]),
        ]
        self.show.table(
            ["set aside as dead letters", "made", "found"], [(w, f"{a:,}", f"{b:,}") for w, a, b in rows]
        )
        if any(made != there for _, made, there in rows):
            raise DemoError("the dead letters are not those that were made")

    # 4

    @property
    def _under_attack_ms(self) -> int:
        return self.facts.attack_start_ms + 10 * MINUTE_MS

    def _show_values(self, values: Mapping[str, Any], status: Mapping[str, str]) -> None:
        rows = [
            (name, str(value), status[name])
            for name, value in values.items()
            if name.startswith("card_activity.") and value is not None and not isinstance(value, list)
        ]
        self.show.table(["", "value", "status"], rows)

    def a_week_later(self) -> None:
        """Show the attacked card as of a week after the attack: it fell back by itself."""
        self.show.step("Reading the card as of a week later")
        at_ms = self._under_attack_ms + 7 * DAY_MS
        words = self._get_words(at_ms)
        self.show.note(f"the same card as of {instant(at_ms)}", "bold")
        self.show.command(spoken(words))
        answer = run_json(words)
        self._show_values(answer["values"], answer["status"])

    def _get_words(self, at_ms: int) -> list[str]:
        card = f"card={self.facts.attacked_card}"
        return ["get", str(self.features), "--store", self.store, card, "--at", str(at_ms)]

    # 5

    def replay(self) -> Path:
        """Replay the archive to a training set and return its folder."""
        self.show.step("Replaying the same events to a training set")
        started = time.monotonic()
        words = [
            *("replay", str(self.features), "--source", self.source, "--from", day(self.facts.first_ms)),
            *("--out", str(self.out / "training")),
        ]
        self.show.command(spoken(words))
        run(words)
        training = self.out / "training"
        rows = load_training(training).rows
        self.show.note(f"{rows:,} rows in {time.monotonic() - started:.1f} s: {training}")
        if rows != self.facts.good:
            raise DemoError(f"the replay gave {rows:,} rows, but {self.facts.good:,} payments are good")
        self.show.good(
            f"payments that were neither broken, late nor ahead: {self.facts.good:,}, one row each"
        )
        return training

    # 6

    def check(self, training: Path) -> None:
        """Compare every entity's live values with those of its last training row."""
        self.show.step("Comparing what was written live with what the replay gives")
        store = open_store(self.store)
        total, rows = Comparison(), []
        for view in self.definition.views.values():
            names = [feature.name for feature in view.features]
            columns = [*view.key_names, *(f"{view.name}.{name}" for name in names)]
            replayed = last_rows(load_training(training, columns).arrow(), view)
            keys = replayed[KEY].to_pylist()
            with self.show.bar(view.name) as bar:
                live = stored_values(store, view, keys, bar.at)
            found = compare(live, replayed, names)
            rows.append(_row(view.name, len(names), found))
            total += found
        store.close()
        self.show.table(
            ["view", "features", "entities", "values compared", "differing"],
            [*rows, _row("together", sum(int(row[1]) for row in rows), total)],
        )
        for example in total.examples:
            self.show.note(str(example), "red")
        if total.differing:
            raise DemoError(f"{total.differing:,} of {total.compared:,} values differ")
        self.show.good(f"values compared, bit by bit: {total.compared:,}; differing: 0")

    # 7

    def plot(self, training: Path) -> Path:
        """Draw the attacked card."""
        self.show.step("Drawing the card's features over time")
        card = self.facts.attacked_card
        columns = ["tx_id", "card", "event_time_ms", *PLOTTED]
        rows = load_training(training, columns).arrow()
        truth = pq.read_table(self.out / "events" / "truth.parquet")
        path = self.out / f"{card}.png"
        draw(path, f"Card {card}: features as of each payment", history(rows, truth, card, PLOTTED), PLOTTED)
        self.show.good(f"picture: {path}")
        return path

    def goodbye(self, picture: Path) -> None:
        """Say how long it took and what to try next."""
        self.show.console.print(f"\n[bold]Done in {self.show.seconds:.0f} s.[/] Try next:")
        self.show.note(f"open {picture}")
        self.show.note(" ".join(spoken(["check", str(self.features)])))
        self.show.note(" ".join(spoken(self._get_words(self._under_attack_ms))))
        self.show.note(" ".join(spoken(["dead-letters", "--dead-letters", str(self.out / "dead-letters")])))
        self.show.note(" ".join(spoken(["init", "my-features"])))


def _row(name: str, features: int, found: Comparison) -> tuple[str, ...]:
    return (name, str(features), f"{found.entities:,}", f"{found.compared:,}", f"{found.differing:,}")


def day(ms: int) -> str:
    """Return the UTC day of an instant as text."""
    return datetime.fromtimestamp(ms / 1000, UTC).date().isoformat()


def instant(ms: int) -> str:
    """Return an instant as text, UTC, to the second."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def prepare(out: Path) -> Path:
    """Return an empty folder for the demo, clearing only one that an earlier demo made."""
    out = out.resolve()
    if out.exists() and any(out.iterdir()):
        if not (out / OURS).exists():
            raise DemoError(f"{out} holds something else; name another folder: make demo OUT=…")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / OURS).write_text("made by `make demo`, which clears this folder\n")
    return out


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="demo", description="Run Lookback's main job from end to end.")
    parser.add_argument("--out", type=Path, default=Path("demo-out"), help="folder to work in; is cleared")
    parser.add_argument("--features", type=Path, default=Path("features/fraud.yaml"))
    parser.add_argument("--events", type=int, default=1_000_000)
    args = parser.parse_args(argv)
    show = Show(steps=7)
    try:
        Demo(prepare(args.out), args.features, args.events, show).run()
    except (DemoError, LookbackError, OSError) as error:
        show.note(f"demo: {error}", "bold red")
        return 1
    except KeyboardInterrupt:
        show.note("demo: stopped")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
