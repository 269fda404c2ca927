"""What a method that Bytewax calls raises is noted, whichever way it is guarded; of a shard with its number."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataflows import failures
from lookback.errors import RefusedError


class Logic:
    shard_number = 7

    @failures.guarded
    def decorated(self) -> None:
        raise RefusedError("no")

    def bound(self) -> None:
        raise RefusedError("no")


@failures.guarded
def alone() -> None:
    raise RefusedError("no")


@pytest.mark.parametrize("way", ["decorated", "bound", "alone"])
def test_the_note_names_the_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    failures.prepare(tmp_path / "note")
    monkeypatch.setenv(failures.FILE, str(tmp_path / "note"))
    calls = {"decorated": Logic().decorated, "bound": failures.guarded(Logic().bound), "alone": alone}
    with pytest.raises(RefusedError):
        calls[way]()
    noted = failures.noted(tmp_path / "note")
    assert noted is not None and noted["message"] == "no" and noted["exit_code"] == 3
    assert noted["shard"] == (7 if way == "decorated" else None)
