"""Write a first definition and sample events for it, to start from.

Owns: `features.yaml` beside this file, and the sample of card payments made for it. Refuses: to replace
a file.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from lookback.errors import LookbackError, UsageError

EVENTS = 2_000
DAYS = 14
START_MS = 1_704_067_200_000  # 2024-01-01, UTC
_CARDS, _MERCHANTS = 40, 15
_COUNTRIES = ("DE", "FR", "NL", "ES")


def sample_events() -> Iterator[str]:
    """Yield `EVENTS` payments over `DAYS` days as JSON texts, in order of arrival.

    Always the same ones. Every tenth or so comes up to five minutes after its time, within the lateness of
    the starter's stream; card `c7` is tested with 30 tiny payments in ten minutes on the tenth day.
    """
    draw = random.Random(7)
    payments: list[tuple[int, int, str, str, str, int, bool]] = []
    for _ in range(EVENTS - 30):
        card = draw.randrange(_CARDS)
        at = START_MS + draw.randrange(DAYS * 86_400_000)
        country = draw.choice(_COUNTRIES) if draw.random() < 0.05 else _COUNTRIES[card % 4]
        cents = 100 + int(draw.expovariate(1 / 4_000))
        merchant = f"m{draw.randrange(_MERCHANTS)}"
        delay = draw.randrange(300_000) if draw.random() < 0.1 else draw.randrange(500)
        payments.append((at + delay, at, f"c{card}", merchant, country, cents, draw.random() < 0.03))
    attack = START_MS + 9 * 86_400_000 + 3 * 3_600_000
    for i in range(30):
        at = attack + i * 20_000 + draw.randrange(20_000)
        payments.append((at + 100, at, "c7", "m3", "US", 50 + draw.randrange(100), draw.random() < 0.5))
    for number, (_, at, card_name, merchant, country, cents, declined) in enumerate(sorted(payments)):
        head = {"ts": at, "tx_id": 1000 + number, "card": card_name, "merchant": merchant, "country": country}
        # The amount is written digit by digit: a float would not hold every cent of a larger one.
        amount = f'"amount": {cents // 100}.{cents % 100:02d}'
        yield f'{json.dumps(head)[:-1]}, {amount}, "declined": {json.dumps(declined)}}}'


def write_starter(directory: Path) -> list[Path]:
    """Write `features.yaml` and `events/transactions/sample.jsonl` below `directory`; return both paths.

    The folder is made where it is missing. Raises `UsageError` if one of the files is there already (nothing
    is written then), `LookbackError` if the folder can't be written.
    """
    definition = directory / "features.yaml"
    events = directory / "events" / "transactions" / "sample.jsonl"
    for path in (definition, events):
        if path.exists():
            raise UsageError(f"{path} is there already; name another folder: lookback init DIR")
    try:
        events.parent.mkdir(parents=True, exist_ok=True)
        template = resources.files("lookback.starter") / "features.yaml"
        definition.write_text(template.read_text("utf-8"), "utf-8")
        events.write_text("\n".join(sample_events()) + "\n", "utf-8")
    except OSError as error:
        raise LookbackError(
            f"cannot write to {directory}: {error.strerror}; name a folder you may write to"
        ) from error
    return [definition, events]
