"""How much of the cache a worker's shards may take, each alone and all together."""

from __future__ import annotations

from typing import Any

from dataflows.settings import Settings
from state.shard import Shard


class MemoryBudget:
    """One worker's share of the cache, over all its shards."""

    def __init__(self, settings: Settings, blocks: Any) -> None:
        self.limit_bytes = settings.cache_bytes // settings.shards
        self.write_buffer_bytes = max(256 << 10, min(8 << 20, self.limit_bytes // 2))
        self.blocks = blocks
        self._over: dict[int, int] = {}

    def evict(self, shard: Shard, *, dirty: bool = True) -> int:
        """Free clean logs beyond the share; return by how many bytes this worker's dirty ones exceed it."""
        shard.evict(self.limit_bytes)
        over = shard.cache_bytes - 2 * self.limit_bytes
        self._over[shard.shard] = max(0, over) if dirty else 0
        return sum(self._over.values())
