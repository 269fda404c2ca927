"""The least rights that a user of the server needs: what a job does there, what a reader does.

Each is what `ACL SETUSER` takes after a name. A database other than 0 needs `+select` besides.
Tests run both with these and show that each of them is needed.
"""

from __future__ import annotations

READER = (
    "~lookback:* resetchannels -@all +client|setname +evalsha +script|load +get +hget +hgetall +hmget +zrange"
)
WRITER = (
    "~lookback:* resetchannels -@all +client|setname +evalsha +script|load +info +time +get +set +del +pexpireat "
    "+hget +hgetall +hmget +hset +zadd +zcard +zrangebyscore +zremrangebyscore +zremrangebyrank"
)
CLUSTER = "~{lookback}:* +command +cluster|slots"
SENTINEL = "resetchannels -@all +client|setname +sentinel|masters"


def rights(kind: str, *, write: bool) -> str:
    """Return the rules of ACL SETUSER for a store's kind, as the documentation has them."""
    return (WRITER if write else READER) + (f" {CLUSTER}" if kind == "cluster" else "")
