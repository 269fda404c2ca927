"""For tests: a store without the fence between two jobs, to show that the fence is needed.

With LOOKBACK_FAULT_OFF=generation all jobs have one generation, and a writer takes a shard over again before each
write, so that what another job has written since does not stop it. Without that switch no code of this module runs.
"""

from __future__ import annotations

from collections.abc import Sequence

from lookback.errors import StoreLost
from lookback.stores.base import I64, StoreWriter, ViewWrite

GENERATION = 1 << 52  # of every job


class UnfencedWriter:
    """A writer that nobody can refuse; see `StoreWriter`."""

    def __init__(self, writer: StoreWriter) -> None:
        self._writer = writer
        self.written = writer.written

    def marks(self, fingerprint: str, shard: int) -> dict[str, int] | None:
        """Return the shard's served mark."""
        return self._writer.marks(fingerprint, shard)

    def kept(self, fingerprint: str, shard: int) -> dict[str, int]:
        """Return what the store is sure to have."""
        return self._writer.kept(fingerprint, shard)

    def write(self, writes: Sequence[ViewWrite]) -> list[I64]:
        """Write all, whoever wrote to these shards last."""
        while True:
            for shard in dict.fromkeys((write.fingerprint, write.shard) for write in writes):
                self._writer.marks(*shard)
            try:
                return self._writer.write(writes)
            except StoreLost:  # another job wrote between the two
                continue

    def send(self, writes: Sequence[ViewWrite]) -> None:
        """Write all at once."""
        self.write(writes)

    def flush(self) -> None:
        """Return once everything written is durable."""
        self._writer.flush()

    def close(self) -> None:
        """Let go of the store."""
        self._writer.close()
