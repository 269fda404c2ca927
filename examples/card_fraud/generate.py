"""Generate some weeks of card payments with fraud in them, as an archive that Lookback reads.

    python -m examples.card_fraud.generate OUT [--events 1000000] [--format raw]

writes OUT/transactions/part-*, OUT/truth.parquet (which payments were fraud) and prints the facts. The same
seed gives the same bytes. Owns: the order of the steps and the facts; the parts are in the modules beside it.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from examples.card_fraud import files
from examples.card_fraud.arrival import Arrived, arrive
from examples.card_fraud.fraud import Attack, commit_fraud
from examples.card_fraud.payments import concat, everyday, populate


@dataclass(frozen=True)
class Facts:
    """What was written; counts are of events, times are ms UTC."""

    events: int
    partitions: int
    cards: int
    merchants: int
    fraud: int
    broken: int
    ahead: int
    late: int
    out_of_order: int
    first_ms: int
    last_ms: int
    attacked_card: str
    attack_start_ms: int
    attack_end_ms: int

    @property
    def good(self) -> int:
        """Return how many events a job accepts."""
        return self.events - self.broken - self.ahead - self.late


def generate(
    out: Path,
    *,
    events: int = 1_000_000,
    days: int = 28,
    seed: int = 7,
    start: str = "2024-01-01",
    fmt: str = "raw",
    partitions: int = 4,
) -> Facts:
    """Write an archive of about `events` payments below `out` and return the facts about it.

    fmt: `raw` (Parquet of the messages as bytes), `typed` (Parquet columns; without the broken events) or
    `jsonl` (one partition without broker times, so no event is ahead of them). `out` must not hold an archive
    of transactions yet (FileExistsError). Cost: some 6 s and 1 GB for a million events.
    """
    if fmt not in files.FORMATS:
        raise ValueError(f"format {fmt!r}: one of {', '.join(files.FORMATS)}")
    if events < 1000 or days < 14 or partitions < 1:
        raise ValueError("at least 1000 events, 14 days and 1 partition")
    folder = out / "transactions"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    start_ms = int(datetime.fromisoformat(start).replace(tzinfo=UTC).timestamp() * 1000)
    people = populate(rng, cards=max(50, events // 50), merchants=max(100, events // 500))
    honest = everyday(rng, people, events, start_ms, days)
    stolen, attack = commit_fraud(rng, people, honest, start_ms, days)
    parts = arrive(
        rng,
        concat([honest, stolen]),
        partitions=1 if fmt == "jsonl" else partitions,
        broken_share=0.0 if fmt == "typed" else 2e-4,
        ahead_share=0.0 if fmt == "jsonl" else 2e-5,
    )
    {"raw": files.write_raw, "typed": files.write_typed, "jsonl": files.write_jsonl}[fmt](folder, parts)
    files.write_truth(out / "truth.parquet", parts)
    return _facts(parts, people.cards, people.merchants, attack)


def _facts(parts: list[Arrived], cards: int, merchants: int, attack: Attack) -> Facts:
    good_ts = np.concatenate([p.payments.ts[(p.broken == 0) & ~p.ahead] for p in parts])
    return Facts(
        events=sum(len(p.tx_id) for p in parts),
        partitions=len(parts),
        cards=cards,
        merchants=merchants,
        fraud=sum(int((p.payments.pattern != 0).sum()) for p in parts),
        broken=sum(int((p.broken != 0).sum()) for p in parts),
        ahead=sum(int(p.ahead.sum()) for p in parts),
        late=sum(int(p.late().sum()) for p in parts),
        out_of_order=sum(int(p.out_of_order().sum()) for p in parts),
        first_ms=int(good_ts.min()),
        last_ms=int(good_ts.max()),
        attacked_card=files.card_name(attack.card),
        attack_start_ms=attack.start_ms,
        attack_end_ms=attack.end_ms,
    )


def main(argv: list[str] | None = None) -> int:
    """Run the command line; print the facts as JSON; return the exit code."""
    parser = argparse.ArgumentParser(prog="generate", description="Write an archive of card payments.")
    parser.add_argument("out", type=Path, help="folder to write to; gets transactions/ and truth.parquet")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--days", type=int, default=28)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--start", default="2024-01-01", help="first day, UTC")
    parser.add_argument("--format", choices=files.FORMATS, default="raw")
    parser.add_argument("--partitions", type=int, default=4)
    args = parser.parse_args(argv)
    try:
        facts = generate(
            args.out,
            events=args.events,
            days=args.days,
            seed=args.seed,
            start=args.start,
            fmt=args.format,
            partitions=args.partitions,
        )
    except FileExistsError:
        print(f"generate: {args.out} holds transactions already; name another folder", file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"generate: {error}", file=sys.stderr)
        return 2
    print(json.dumps(asdict(facts), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
