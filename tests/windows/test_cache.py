"""The folder of compiled kernels follows every source, and nothing of a host's Numba changes."""

from __future__ import annotations

from pathlib import Path

import numba
import pytest

from lookback.windows import cache


def test_any_changed_source_gives_another_folder(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1")
    (tmp_path / "b.py").write_text("y = 1")
    before = cache.source_hash(tmp_path)
    assert cache.source_hash(tmp_path) == before
    (tmp_path / "b.py").write_text("y = 2")
    assert cache.source_hash(tmp_path) != before


def test_the_root_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LOOKBACK_CACHE", str(tmp_path))
    assert cache.cache_root() == tmp_path
    monkeypatch.delenv("LOOKBACK_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache.cache_root() == tmp_path / "x" / "lookback"


def test_numba_settings_of_the_host_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba.config, "CACHE_DIR", "somewhere")

    @cache.jit
    def one(x: int) -> int:
        return x + 1

    assert one(1) == 2
    assert numba.config.CACHE_DIR == "somewhere"
