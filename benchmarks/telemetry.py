"""What telemetry costs: the same job with none, with a scraper, with OTLP and traces; and with its meters taken out."""

from __future__ import annotations

import statistics
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil

from benchmarks import data
from benchmarks.measure import Usage, interleaved, machine_cpus
from benchmarks.measure import run as run_command
from benchmarks.options import DEFINITIONS, HEAD_START, Options, live, row
from benchmarks.results import Section, table
from tests.services.valkey import free_port

NAME = "telemetry"
FULL = 1_000_000
EVERY_SECONDS = 5  # of the scraper and the export
AIM = 0.03  # of the CPU of a job that tells nothing
DEFINITION = DEFINITIONS / "one_view_json.yaml"
OFF, SCRAPED, PUSHED = "none", f"--metrics, scraped every {EVERY_SECONDS} s", "OTLP, metrics and traces"
METERED, UNMETERED = "meters as they are", "meters taken out"


class Parents:
    """CPU seconds of jobs' parent processes while their workers run, by what they told; the median of several."""

    def __init__(self) -> None:
        self.found: dict[str, list[float]] = {}

    @contextmanager
    def watched(self, name: str) -> Iterator[Callable[[list[psutil.Process]], None]]:
        """Give what looks at a job's processes, the parent first."""
        seen: list[float] = []

        def look(processes: list[psutil.Process]) -> None:
            used = processes[0].cpu_times()
            if len(processes) > 1:
                seen.append(used.user + used.system)

        yield look
        self.found.setdefault(name, []).append(seen[-1] - seen[0])

    def seconds(self, name: str) -> float:
        """Return the median."""
        return statistics.median(self.found[name])


class Heard:
    """What came out of the jobs: bytes by path, and how often."""

    def __init__(self) -> None:
        self.calls: dict[str, int] = {}
        self.sizes: dict[str, int] = {}

    def forget(self) -> None:
        """Begin anew."""
        self.calls.clear()
        self.sizes.clear()

    def add(self, path: str, size: int) -> None:
        """Count one answer or one export."""
        self.calls[path] = self.calls.get(path, 0) + 1
        self.sizes[path] = self.sizes.get(path, 0) + size


def run(options: Options) -> Section:
    """Measure all in turns."""
    payments = data.Payments(rows=options.rows(FULL))
    archive = data.lines(options.work, payments)
    tiny = data.lines(options.work, data.Payments(rows=1_000))
    section = Section(NAME, "What telemetry costs", options.command(NAME))
    section.intro = (
        f"A live job over {payments.rows:,} JSON events (60 days, 50,000 cards, one view of 15 features) to LMDB, 32 "
        f"shards, epochs of 1 s, one worker, all its processes on one CPU; scraper and collector are on another. OTLP "
        f"goes every {EVERY_SECONDS} s to a collector over HTTP, with a trace a second. Medians of {options.repeat} "
        "runs, taken in turns."
    )
    heard, parents = Heard(), Parents()
    cases: dict[str, Callable[[Path], Usage]] = {
        OFF: partial(_off, options, parents),
        SCRAPED: partial(_scraped, options, parents, heard),
        PUSHED: partial(_pushed, options, parents, heard),
        METERED: partial(_in_process, options, "with"),
        UNMETERED: partial(_in_process, options, "without"),
    }
    starts: dict[str, Usage] = {}
    for name, case in cases.items():
        case(tiny)  # whatever is compiled and cached
        usages = sorted((case(tiny) for _ in range(3)), key=lambda usage: usage.cpu_seconds)
        starts[name] = usages[1]
    heard.forget()
    parents.found.clear()
    runs = {name: partial(case, archive) for name, case in cases.items()}
    figures = interleaved(payments.rows, options.repeat, runs)
    section.tables.append(table(HEAD_START, [row(name, one, starts[name]) for name, one in figures.items()]))

    def beyond(name: str) -> list[float]:
        return [usage.cpu_seconds - starts[name].cpu_seconds for usage in figures[name].usages]

    shares = {}
    for name, against in ((SCRAPED, OFF), (PUSHED, OFF), (METERED, UNMETERED)):
        pairs = zip(beyond(name), beyond(against), strict=True)
        shares[name] = [one / other - 1 for one, other in pairs]
    cells = [[name, *_share(found)] for name, found in shares.items()]
    section.tables.append(
        "CPU beyond start-up, against none; of the meters, against a job without them; run by run:\n\n"
        + table(["", "median", "least–most"], cells)
    )
    whole = statistics.median(beyond(OFF))
    cells = []
    for name in (OFF, SCRAPED, PUSHED):
        used, more = parents.seconds(name), (parents.seconds(name) - parents.seconds(OFF)) / whole
        cells.append([name, f"{used:.2f}", f"{more:+.1%}"])
        if name != OFF:
            section.aim(f"{name}: {more:+.1%} of the job's CPU (aim: under {AIM:.0%})", more < AIM)
    section.tables.append(
        "The parent alone while workers run, the only process that has more to do:\n\n"
        + table(["", "CPU s", "more, of the job's CPU beyond start-up"], cells)
    )
    section.notes.append(
        "start-up is that of a job over 1,000 events: what telemetry adds there is the loading of OpenTelemetry, once"
    )
    section.notes.append(
        "; ".join(
            f"{path}: {count} times, {heard.sizes[path] / count:,.0f} bytes each"
            for path, count in sorted(heard.calls.items())
        )
    )
    section.notes.append(
        "meters: the words that workers write whether or not anyone looks; both jobs run in one process, the second "
        "with empty functions in place of the meters'"
    )
    return section


def _share(found: list[float]) -> list[str]:
    return [f"{statistics.median(found):+.1%}", f"{min(found):+.1%} – {max(found):+.1%}"]


def _off(options: Options, parents: Parents, archive: Path) -> Usage:
    with parents.watched(OFF) as look:
        return _run(options, archive, look=look)


def _scraped(options: Options, parents: Parents, heard: Heard, archive: Path) -> Usage:
    port = free_port()
    with scraper(f"http://127.0.0.1:{port}/metrics", heard), parents.watched(SCRAPED) as look:
        return _run(options, archive, "--metrics", f"127.0.0.1:{port}", look=look)


def _pushed(options: Options, parents: Parents, heard: Heard, archive: Path) -> Usage:
    with collector(heard) as address, parents.watched(PUSHED) as look:
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": address, "OTEL_METRIC_EXPORT_INTERVAL": str(1000 * EVERY_SECONDS),
        }  # fmt: skip
        return _run(options, archive, environment=environment, look=look)


def _run(
    options: Options,
    archive: Path,
    *more: str,
    look: Callable[[list[psutil.Process]], None],
    environment: Mapping[str, str] | None = None,
) -> Usage:
    folder = options.fresh("telemetry")
    return run_command(live(DEFINITION, archive, folder, *more), machine_cpus(), environment, look)


def _in_process(options: Options, how: str, archive: Path) -> Usage:
    job = live(DEFINITION, archive, options.fresh("telemetry"))[3:]
    return run_command([sys.executable, "-m", "benchmarks.unmetered", how, *job], machine_cpus())


@contextmanager
def scraper(address: str, heard: Heard) -> Iterator[None]:
    """Ask for the metrics again and again while the block lasts."""
    done = threading.Event()

    def ask() -> None:
        while not done.wait(EVERY_SECONDS):
            try:
                with urllib.request.urlopen(address, timeout=EVERY_SECONDS) as answer:
                    heard.add("scrape", len(answer.read()))
            except OSError:  # it isn't up yet, or not any more
                continue

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def collector(heard: Heard) -> Iterator[str]:
    """Take what is exported while the block lasts; give the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.add(self.path, len(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ExitStack() as stack:
        server = stack.enter_context(HTTPServer(("127.0.0.1", 0), Handler))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
