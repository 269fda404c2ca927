"""Training output on disk: its manifest, and reading it back.

Owns: the manifest's grammar and what makes a folder a finished training output. Refuses: writing rows (the
replay job does), and folders of a replay that is still running or has crashed.

    OUT/day=YYYY-MM-DD/*.parquet   rows by (event_time_ms, partition, offset) within a day, files by name
    OUT/manifest.json              written last: while there is none, the output is not finished
    OUT/.work/                     the replay's scratch, gone at its end
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from lookback.errors import LookbackError, UsageError

if TYPE_CHECKING:
    import pandas
    import polars

MANIFEST_NAME = "manifest.json"
WORK_NAME = ".work"
FORMAT = 1


@dataclass(frozen=True)
class CoveredOffsets:
    """Offsets of one partition that the replay read: [first_offset, end_offset)."""

    topic: str
    partition: int
    first_offset: int
    end_offset: int


@dataclass(frozen=True)
class TrainingFile:
    """One file of the output; `path` is relative to it."""

    path: str
    day: str
    rows: int
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """What a training output holds and how it was made.

    from_ms inclusive, to_ms exclusive (None: to the end of the source).
    final_until_ms: rows at or before it are final; later ones could still change with more input (None: all
    rows are final).
    """

    definition_fingerprint: str
    view_fingerprints: Mapping[str, str]
    stream: str
    from_ms: int
    to_ms: int | None
    as_of: str
    clock: str
    offsets: Sequence[CoveredOffsets]
    final_until_ms: int | None
    files: Sequence[TrainingFile] = ()
    schema: pa.Schema = field(default_factory=lambda: pa.schema([]))
    created_by: str = ""

    @property
    def rows(self) -> int:
        """Rows in all files."""
        return sum(file.rows for file in self.files)

    @property
    def days(self) -> dict[str, int]:
        """Rows of each day, in order."""
        days: dict[str, int] = {}
        for file in sorted(self.files, key=lambda f: f.path):
            days[file.day] = days.get(file.day, 0) + file.rows
        return days

    def to_json(self) -> str:
        """Return the manifest's text: the same for the same output."""
        return json.dumps(
            {
                "format": FORMAT,
                "created_by": self.created_by,
                "definition_fingerprint": self.definition_fingerprint,
                "view_fingerprints": dict(sorted(self.view_fingerprints.items())),
                "stream": self.stream,
                "from_ms": self.from_ms,
                "to_ms": self.to_ms,
                "as_of": self.as_of,
                "clock": self.clock,
                "final_until_ms": self.final_until_ms,
                "rows": self.rows,
                "days": self.days,
                "offsets": [asdict(covered) for covered in self.offsets],
                "files": [asdict(file) for file in self.files],
                "columns": [{"name": f.name, "type": str(f.type)} for f in self.schema],
                "arrow_schema": base64.b64encode(self.schema.serialize().to_pybytes()).decode(),
            },
            indent=1,
        )

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Parse a manifest.

        Raises ValueError, KeyError or TypeError where it is none, UsageError where a newer release wrote it.
        """
        found = json.loads(text)
        if found["format"] > FORMAT:
            raise UsageError(
                f"the training output has format {found['format']}, this release reads up to {FORMAT}; "
                "read it with the release that wrote it."
            )
        schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(found["arrow_schema"])))
        return cls(
            found["definition_fingerprint"],
            found["view_fingerprints"],
            found["stream"],
            found["from_ms"],
            found["to_ms"],
            found["as_of"],
            found["clock"],
            tuple(CoveredOffsets(**covered) for covered in found["offsets"]),
            found["final_until_ms"],
            tuple(TrainingFile(**file) for file in found["files"]),
            schema,
            found["created_by"],
        )


class TrainingSet:
    """A finished training output, or some of its days and columns; rows in (day, time, position) order."""

    def __init__(
        self, path: Path, manifest: Manifest, files: Sequence[TrainingFile], columns: Sequence[str] | None
    ) -> None:
        self.path, self.manifest, self.files = path, manifest, tuple(files)
        self.columns = list(columns) if columns is not None else manifest.schema.names

    @property
    def rows(self) -> int:
        """Rows in the days chosen."""
        return sum(file.rows for file in self.files)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows piece by piece, for sets larger than memory."""
        for file in self.files:
            yield from self._open(file).iter_batches(columns=self.columns)

    def arrow(self) -> pa.Table:
        """Return the rows as an Arrow table."""
        schema = pa.schema([self.manifest.schema.field(name) for name in self.columns])
        tables = [self._open(file).read(columns=self.columns).select(self.columns) for file in self.files]
        return pa.concat_tables([schema.empty_table(), *(table.cast(schema) for table in tables)])

    def pandas(self) -> pandas.DataFrame:
        """Return the rows as a pandas DataFrame; raise UsageError where pandas is not installed."""
        _require("pandas")
        return self.arrow().to_pandas()

    def polars(self) -> polars.DataFrame:
        """Return the rows as a polars DataFrame; raise UsageError where polars is not installed."""
        _require("polars")
        import polars

        frame = polars.from_arrow(self.arrow())
        assert isinstance(frame, polars.DataFrame)
        return frame

    def _open(self, file: TrainingFile) -> pq.ParquetFile:
        try:
            opened = pq.ParquetFile(self.path / file.path)
        except (pa.ArrowException, OSError) as error:
            raise LookbackError(
                f"{self.path / file.path} can't be read ({_first_line(error)}); run the replay again."
            ) from None
        if opened.metadata.num_rows != file.rows:
            raise LookbackError(
                f"{self.path / file.path} has {opened.metadata.num_rows} rows and the manifest says "
                f"{file.rows}; run the replay again."
            )
        return opened


def load_training(
    path: str | Path, columns: Sequence[str] | None = None, days: Sequence[str] | None = None
) -> TrainingSet:
    """Open a training output.

    columns: those wanted, in that order (None: all). days: as YYYY-MM-DD (None: all).
    Raises UsageError for a folder without a manifest (a replay that is still running, or has crashed) and
    for columns or days that aren't there; LookbackError where the files are not those of the manifest.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    _check_files(folder, manifest)
    for column in columns or ():
        if column not in manifest.schema.names:
            raise UsageError(
                f"{folder} has no column {column!r}; it has: {', '.join(manifest.schema.names)}."
            )
    files = list(manifest.files)
    if days is not None:
        known = manifest.days
        for day in days:
            if day not in known:
                span = f"{min(known)} to {max(known)}" if known else "none"
                raise UsageError(f"{folder} has no day {day!r}; its days are {span}.")
        files = [file for file in files if file.day in set(days)]
    return TrainingSet(folder, manifest, sorted(files, key=lambda f: f.path), columns)


def read_manifest(folder: Path) -> Manifest:
    """Return a training output's manifest; raise UsageError where the output is not finished or is none."""
    try:
        text = (folder / MANIFEST_NAME).read_text(encoding="utf-8")
    except FileNotFoundError:
        if (folder / WORK_NAME).is_dir():
            raise UsageError(
                f"{folder} has no manifest: its replay is still running or has crashed; wait for it, or run "
                "it again."
            ) from None
        raise UsageError(
            f"{folder} is no training output (no {MANIFEST_NAME}); give the --out of a replay."
        ) from None
    try:
        return Manifest.from_json(text)
    except (ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise LookbackError(
            f"{folder / MANIFEST_NAME} is damaged ({_first_line(error)}); run the replay again."
        ) from None


def _check_files(folder: Path, manifest: Manifest) -> None:
    """Raise LookbackError where the folder's files are not those of the manifest, by name and size."""
    listed = {file.path: file.bytes for file in manifest.files}
    found = {
        f"{day.name}/{file.name}": file.stat().st_size
        for day in folder.glob("day=*")
        for file in day.glob("*.parquet")
    }
    for name in sorted(listed.keys() | found.keys()):
        if listed.get(name) != found.get(name):
            what = "is missing" if name not in found else "is not in the manifest"
            if name in listed and name in found:
                what = f"has {found[name]} bytes and the manifest says {listed[name]}"
            raise LookbackError(f"{folder / name} {what}; run the replay again.")


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest in one step, synced: this is what finishes an output."""
    scratch = folder / WORK_NAME / MANIFEST_NAME
    scratch.parent.mkdir(parents=True, exist_ok=True)
    with scratch.open("w", encoding="utf-8") as stream:
        stream.write(manifest.to_json())
        stream.flush()
        os.fsync(stream.fileno())
    scratch.replace(folder / MANIFEST_NAME)
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Make a folder's entries durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _require(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        raise UsageError(f"{name} is not installed; run `pip install {name}`, or use .arrow().") from None


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
