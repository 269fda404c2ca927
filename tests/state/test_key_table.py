"""The table of keys against a dict, through growth, dropped keys and slots given again."""

from __future__ import annotations

import random

import numpy as np
import pytest

from state.key_table import KeyTable


def key(rng: random.Random) -> str:
    alphabet = "ab|\\é漢😀"
    return "".join(rng.choice(alphabet) for _ in range(rng.choice([0, 1, 2, 7, 8, 9, 30])))


@pytest.mark.parametrize("seed", range(4))
def test_it_is_a_dict_from_keys_to_slots(seed: int) -> None:
    rng = random.Random(seed)
    table, held, free = KeyTable(), dict[str, int](), list(range(3000))
    for _ in range(60):
        asked = list({key(rng) for _ in range(rng.choice([0, 1, 5, 400]))})
        assert table.find(asked).tolist() == [held.get(one, -1) for one in asked]
        new = [one for one in asked if one not in held]
        slots = [free.pop(rng.randrange(len(free))) for _ in new]
        table.add(new, np.array(slots, np.int64))
        held.update(zip(new, slots, strict=True))
        gone = rng.sample(sorted(held), rng.randint(0, len(held)))
        table.drop(np.array([held[one] for one in gone] + free[:2], np.int64))
        free += [held.pop(one) for one in gone]
        assert len(table) == len(held)
        assert table.slots.tolist() == sorted(held.values())
        assert table.texts(np.array(list(held.values()), np.int64)) == list(held)
        assert table.holds(np.arange(3000)).tolist() == [slot in set(held.values()) for slot in range(3000)]


def test_many_keys_are_all_found_again() -> None:
    table = KeyTable()
    names = [f"c{n}|m{n % 7}" for n in range(100_000)]
    for start in range(0, len(names), 7000):
        part = names[start : start + 7000]
        table.add(part, np.arange(start, start + len(part)))
    assert (table.find(names) == np.arange(len(names))).all()
    assert (table.find([name + "x" for name in names]) == -1).all()
    assert table.find([]).tolist() == [] and table.texts(np.empty(0, np.int64)) == []
