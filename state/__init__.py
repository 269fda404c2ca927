"""Where the job keeps rows: one RocksDB a shard, a write-back cache before it, and the commit's steps 1 and 3."""
