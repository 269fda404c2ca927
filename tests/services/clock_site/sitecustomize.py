"""In processes of tests whose clock can be moved: show it, and sleep in a way that libfaketime leaves alone."""

import os
import select
import threading
import time

_SEEN = os.environ.get("LOOKBACK_TEST_CLOCK_SEEN")


def _show(folder: str) -> None:
    path = os.path.join(folder, str(os.getpid()))
    while True:
        with open(f"{path}.new", "w") as file:
            file.write(str(time.time()))
        os.replace(f"{path}.new", path)
        select.select([], [], [], 0.05)


if _SEEN:
    # libfaketime 0.9.10 makes an absolute sleep on the monotonic clock fail; this one is relative.
    time.sleep = lambda seconds: select.select([], [], [], float(seconds)) and None
    threading.Thread(target=_show, args=(_SEEN,), daemon=True).start()
