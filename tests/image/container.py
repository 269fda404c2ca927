"""Processes in a root folder of their own: what a container is made of, by `unshare` and `chroot`, without a daemon.

Owns: namespaces, mounts, users, the environment of a process in such a root. Refuses: what is in the root (see
`dockerfile`). A process here is the first of its process namespace, as in a container: a signal that it does not
handle never reaches it. The system below /usr and /etc is the machine's, read-only; /usr/local is the folder that the
tests' Python lies in; /tmp is empty and gone afterwards; nothing else of the machine is there, its network excepted.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

# Arguments: root, user:group, "ro" or "rw", Python's folder, a count of mounts, the mounts, then words for `env -i`.
ENTER = r"""
root=$1 user=$2 mode=$3 python=$4 mounts=$5
shift 5
folder() { mkdir -p "$root$1"; }
mount --bind "$root" "$root"
for name in bin sbin lib lib64; do
    if [ -L "/$name" ]; then [ -L "$root/$name" ] || ln -s "$(readlink "/$name")" "$root/$name"
    elif [ -d "/$name" ]; then folder "/$name"; mount --bind "/$name" "$root/$name"; fi
done
for name in /usr /etc; do folder $name; mount --bind $name "$root$name"; mount -o remount,bind,ro "$root$name"; done
mount --bind "$python" "$root/usr/local"
mount -o remount,bind,ro "$root/usr/local"
for name in /proc /dev /tmp; do folder $name; done
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
while [ "$mounts" -gt 0 ]; do
    if [ -d "$1" ]; then folder "$2"; else folder "$(dirname "$2")"; touch "$root$2"; fi
    mount --bind "$1" "$root$2"
    if [ "$3" = ro ]; then mount -o remount,bind,ro "$root$2"; fi
    shift 3
    mounts=$((mounts - 1))
done
if [ "$mode" = ro ]; then mount -o remount,bind,ro "$root"; fi
exec chroot --userspec="$user" "$root" /usr/bin/env -i "$@"
"""
UNSHARE = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]


@dataclass(frozen=True)
class Mount:
    """A file or folder of the machine at a path of the root."""

    source: Path
    target: str
    read_only: bool = False


@dataclass
class Root:
    """A root folder, and how its processes run unless they are told otherwise."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    workdir: str = "/"
    user: str = "0:0"

    def at(self, path: str) -> Path:
        """Return where an absolute path of the root lies on the machine."""
        return self.folder / path.lstrip("/")

    def words(
        self, command: Sequence[str], mounts: Sequence[Mount], more: Mapping[str, str], read_only: bool
    ) -> list[str]:
        """Return the command that runs a command in the root."""
        places = [
            word for one in mounts for word in (str(one.source), one.target, "ro" if one.read_only else "rw")
        ]
        # A shared libpython is found by its build's own path, which is not there: the loader is told.
        environment = {**self.environment, "LD_LIBRARY_PATH": "/usr/local/lib", **more}
        settings = [f"{name}={value}" for name, value in environment.items()]
        head = [str(self.folder), self.user, "ro" if read_only else "rw", sys.base_prefix, str(len(mounts))]
        enter = [*UNSHARE, "bash", "-euc", ENTER, "enter", *head, *places]
        return [*enter, f"--chdir={self.workdir}", *settings, *command]

    def run(
        self,
        *command: str,
        mounts: Sequence[Mount] = (),
        environment: Mapping[str, str] | None = None,
        read_only: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        words = self.words(command, mounts, environment or {}, read_only)
        return subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)

    @contextmanager
    def running(
        self, *command: str, log: Path, mounts: Sequence[Mount] = (), read_only: bool = False
    ) -> Iterator[Running]:
        """Run a command while the block lasts; what it says goes to `log`."""
        with log.open("wb") as out:
            outer = subprocess.Popen(
                self.words(command, mounts, {}, read_only), stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
        try:
            yield Running(outer)
        finally:
            outer.kill()  # and with it, by --kill-child, all that it started
            outer.wait()


@dataclass(frozen=True)
class Running:
    """A command that runs in a root."""

    outer: subprocess.Popen[bytes]

    def first(self) -> psutil.Process:
        """Return the process that is number 1 in its namespace, once it is the command itself."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            for child in psutil.Process(self.outer.pid).children():
                if child.name() not in ("unshare", "bash", "mount", "chroot", "env"):
                    return child
            time.sleep(0.02)
        raise AssertionError("the command never began")

    def signal(self, number: int) -> None:
        """Send a signal to the first process, as a container's runtime does."""
        self.first().send_signal(number)

    def wait(self, seconds: float) -> int:
        """Return the exit code of the first process, once it has ended."""
        return self.outer.wait(seconds)


def skip_unless_possible() -> None:
    """Skip where a process can't be given a root of its own."""
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip(
            "a root folder of its own needs Linux and root: sudo -E .venv/bin/python -m pytest tests/image"
        )
    probe = subprocess.run(
        [*UNSHARE, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False
    )
    if probe.returncode:
        pytest.skip(
            f"no mounts in a namespace of one's own: {probe.stderr.decode().strip()}; run it on a host"
        )
