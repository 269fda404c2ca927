"""Memory of a live run of three views with a small cache, its state at least ten times as large.

Short epochs: what one changes must fit the cache, else the sources wait for the commit (ADR-0004).
"""

from __future__ import annotations

from benchmarks import data
from benchmarks.options import DEFINITIONS, Options, live, measured
from benchmarks.results import Section, table

NAME = "memory"
CACHE_BYTES = 8 << 20
CONSTANT_BYTES = 600 << 20  # beside the cache: interpreters, libraries, kernels, batches under way


def run(options: Options) -> Section:
    """Measure it once."""
    section = Section(NAME, "Memory with more state than cache", options.command(NAME))
    rows = options.rows(2_000_000)
    section.intro = f"A live run over {rows:,} JSON events to LMDB, three views of 30 features, one worker."
    archive = data.lines(options.work, data.Payments(rows=rows))
    folder = options.fresh("live")
    command = live(
        DEFINITIONS / "three_views.yaml",
        archive,
        folder,
        "--cache-bytes",
        str(CACHE_BYTES),
        "--epoch",
        "100ms",
    )
    usage = measured(options, command, folder)
    state = sum(file.stat().st_blocks * 512 for file in (folder / "state").rglob("*.sst"))
    mib = 1 << 20
    section.tables.append(
        table(
            ["cache MiB", "state on disk MiB", "peak MiB", "of it anonymous MiB"],
            [
                [
                    f"{CACHE_BYTES / mib:,.0f}",
                    f"{state / mib:,.0f}",
                    f"{usage.peak_bytes / mib:,.0f}",
                    f"{usage.anonymous_bytes / mib:,.0f}",
                ]
            ],
        )
    )
    section.aim(
        f"state {state / CACHE_BYTES:.0f}× the cache (aim of the measurement: 10×)", state >= 10 * CACHE_BYTES
    )
    section.aim(
        f"anonymous memory of all processes at most the cache + {CONSTANT_BYTES / mib:.0f} MiB",
        usage.anonymous_bytes <= CACHE_BYTES + CONSTANT_BYTES,
    )
    section.notes.append(
        "Anonymous memory leaves out mapped file pages (libraries, the online store's map), which the "
        "machine takes back at need; pages that processes share are counted once a process."
    )
    return section
