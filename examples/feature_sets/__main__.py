"""Write the sample events of one definition set as an archive that Lookback reads.

    python -m examples.feature_sets account_takeover OUT

writes OUT/<topic>/part-0.jsonl and prints how many events of each topic. The same seed gives the same bytes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from examples.feature_sets import account_takeover, overdraft, pay_later
from examples.feature_sets.arrival import write

SETS = {
    "account_takeover": account_takeover.generate,
    "overdraft": overdraft.generate,
    "pay_later": pay_later.generate,
}


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="feature_sets", description="Write a set's sample events.")
    parser.add_argument("set", choices=sorted(SETS))
    parser.add_argument("out", type=Path, help="folder to write to; gets a folder a topic")
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args(argv)
    topics = SETS[args.set](args.seed)
    try:
        write(args.out, topics)
    except FileExistsError:
        print(f"feature_sets: {args.out} holds events already; name another folder", file=sys.stderr)
        return 2
    for topic, events in topics.items():
        print(f"{topic}: {len(events)} events")
    return 0


if __name__ == "__main__":
    sys.exit(main())
