"""Machine code that is kept is loaded without Numba, takes only what it was made for, and is made anew when damaged."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lookback.windows import compiling, machine
from lookback.windows.cache import Entry, entry
from lookback.windows.warm import warm


def add_into(out: Any, matrix: Any, factor: int, column: int) -> int:
    """Add a scaled column of a matrix to `out`; return how many rows that were."""
    for row in range(len(out)):
        out[row] += matrix[row, column] * factor
    return len(out)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """An entry whose code is kept in a folder of its own."""
    monkeypatch.setattr(machine, "cache_dir", lambda: tmp_path)
    return entry(add_into)


def matrix() -> Any:
    return np.arange(6, dtype=np.int64).reshape(3, 2)


def test_arrays_and_integers_arrive_wherever_they_stand(made: Any) -> None:
    out = np.array([100, 200, 300], np.int64)
    assert made(out, matrix(), 10, 1) == 3
    assert out.tolist() == [110, 230, 350]
    assert made(out[1:2], matrix(), np.int64(-1), True) == 1
    assert out.tolist() == [110, 229, 350]


def test_each_combination_of_types_has_its_own_code(made: Any, tmp_path: Path) -> None:
    whole, broken = np.zeros(2, np.int64), np.zeros(2)
    for _ in range(2):
        made(whole, matrix(), 1, 0)
        made(broken, matrix() / 4, 1, 0)
    assert whole.tolist() == [0, 4] and broken.tolist() == [0.0, 1.0]
    assert len(list(tmp_path.glob("*.kernel"))) == 2


def test_what_it_was_not_made_for_is_refused(made: Any) -> None:
    out = np.zeros(3, np.int64)
    made(out, matrix(), 1, 0)
    with pytest.raises(TypeError, match="C-contiguous"):
        made(out, np.asfortranarray(matrix()), 1, 0)
    with pytest.raises(TypeError, match="C-contiguous"):
        made(np.zeros(6, np.int64)[::2], matrix(), 1, 0)
    with pytest.raises(TypeError, match="not float"):
        made(out, matrix(), 1.5, 0)
    with pytest.raises(TypeError, match="not list"):
        made([0, 0, 0], matrix(), 1, 0)
    assert out.tolist() == [0, 2, 4]


def test_arrays_that_came_through_pickle_are_taken(made: Any) -> None:
    out = np.zeros(3, np.int64)
    held = pickle.loads(pickle.dumps(matrix()))
    made(out, held, 1, 1)
    made(out, held, 1, 1)
    assert out.tolist() == [2, 6, 10]


def test_kept_code_is_loaded_and_damaged_code_made_anew(
    made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(np.zeros(3, np.int64), matrix(), 1, 0)
    (path,) = tmp_path.glob("*.kernel")
    whole, calls = path.read_bytes(), []
    compile_it = compiling.object_code

    def counted(asked: Entry, kinds: Any) -> bytes:
        calls.append(kinds)
        return compile_it(asked, kinds)

    monkeypatch.setattr(compiling, "object_code", counted)
    assert entry(add_into)(np.zeros(3, np.int64), matrix(), 1, 0) == 3
    assert not calls
    for damaged in (whole[:-1], whole[:100] + b"?" + whole[101:], b""):
        path.write_bytes(damaged)
        out = np.zeros(3, np.int64)
        assert entry(add_into)(out, matrix(), 1, 0) == 3 and out.tolist() == [0, 2, 4]
        assert path.read_bytes()[32:] == machine.read(path)
    assert len(calls) == 3


def test_a_folder_that_takes_no_file_only_costs_time(made: Any, tmp_path: Path) -> None:
    tmp_path.rmdir()
    tmp_path.write_text("a file where the folder should be")
    out = np.zeros(3, np.int64)
    assert made(out, matrix(), 1, 0) == 3 and out.tolist() == [0, 2, 4]


def test_a_process_whose_kernels_are_there_does_without_numba() -> None:
    warm()
    code = "import sys\nfrom lookback.windows.warm import warm\nwarm()\nassert 'numba' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
