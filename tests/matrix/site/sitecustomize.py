"""In the job's processes of a matrix cell alone: each has a clock of its own, which the harness can move and see.

libfaketime reads the offset from a file; which one must be known before the process begins, so it begins again.
"""

import os
import sys

_FOLDER = os.environ.get("LOOKBACK_MATRIX_CLOCKS")


def _name() -> str:
    words = sys.orig_argv
    return f"worker-{words[-1]}" if "dataflows.worker" in words else "parent"


def _show_clock(path: str) -> None:
    import struct
    import time

    with open(path, "wb", buffering=0) as file:
        while True:
            file.seek(0)
            file.write(struct.pack("<qq", os.getpid(), time.time_ns()))
            time.sleep(0.05)


if _FOLDER:
    _file = os.path.join(_FOLDER, _name())
    if os.environ.get("FAKETIME_TIMESTAMP_FILE") != _file:
        os.environ["FAKETIME_TIMESTAMP_FILE"] = _file
        os.execv(sys.orig_argv[0], sys.orig_argv)
    import select
    import threading
    import time

    # libfaketime 0.9.10 makes an absolute sleep on the monotonic clock fail; this one is relative.
    time.sleep = lambda seconds: select.select([], [], [], float(seconds)) and None
    threading.Thread(target=_show_clock, args=(f"{_file}.seen",), daemon=True).start()
