"""The command line as its users meet it: what each mistake is told, with which exit code, and what it leaves."""

from __future__ import annotations

import base64
import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataflows import cli
from dataflows.board import ROWS, Board
from dataflows.progress import Progress, instant
from lookback.starter.write import write_starter

T0 = 1_705_000_000_000  # 2024-01-11T19:06:40Z


@dataclass(frozen=True)
class Said:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str


Command = Callable[..., Said]


@pytest.fixture
def lookback(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Return a function that runs one command line in this process, at 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["lookback", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capfd.readouterr()
        return Said(int(ended.value.code or 0), out, err)

    return run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a starter folder whose job has run to its end: features.yaml, events, store, state."""
    folder = tmp_path_factory.mktemp("starter")
    features, _ = write_starter(folder)
    with pytest.MonkeyPatch.context() as patch:
        job = ["--store", f"lmdb:{folder / 'store'}", "--state", str(folder / "state"), "--quiet"]
        patch.setattr(
            sys, "argv", ["lookback", "run", str(features), "--source", f"archive:{folder / 'events'}", *job]
        )
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert not ended.value.code
    return folder


def refused(said: Said, code: int, *words: str) -> None:
    """Check that a command said one sentence, with all the words, and nothing else."""
    assert said.code == code, said
    assert said.out == ""
    assert said.err.startswith("lookback: ") and said.err.count("\n") == 1, said.err
    for word in words:
        assert word in said.err


def plain(text: str) -> str:
    """Return what a terminal shows of a text."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def archive(folder: Path, *events: dict[str, object] | str) -> str:
    """Write an archive of the starter's topic; return its URI."""
    topic = folder / "transactions"
    topic.mkdir(parents=True)
    lines = [event if isinstance(event, str) else json.dumps(event) for event in events]
    (topic / "a.jsonl").write_text("".join(line + "\n" for line in lines))
    return f"archive:{folder}"


def payment(**changes: object) -> dict[str, object]:
    """Return an event that the starter's definition accepts."""
    good = {"ts": T0, "tx_id": 1, "card": "c1", "merchant": "m1", "country": "DE", "amount": 1.5}
    return {**good, "declined": False, **changes}


# ---- wrong use: nothing is done


@pytest.mark.parametrize(
    ("option", "value", "word"),
    [
        ("--cache-bytes", "much", "256MiB"),
        ("--cache-bytes", "1e999", "256MiB"),
        ("--cache-bytes", "1e30GiB", "256MiB"),
        ("--cache-bytes", "5", "1MiB"),
        ("--workers", "0", "--workers 0: write a whole number from 1 to 64"),
        ("--workers", "65", "from 1 to 64"),
        ("--workers", "many", "--workers: input should be a valid integer"),
        ("--shards", "0", "--shards 0: write a whole number from 1 to 64"),
        ("--epoch", "0s", "from 1ms to 1h"),
        ("--epoch", "2d", "from 1ms to 1h"),
        ("--epoch", "soon", "from 1ms to 1h"),
        ("--from", "2024-13-01", "2024-01-31"),
        ("--store", "lmdb:", "lmdb:PATH"),
        ("--store", "redis:x", "is no store URI"),
        ("--store", "mysql:x", "no store is called 'mysql'"),
        ("--source", "archive:", "archive:PATH"),
        ("--source", "kafka:x", "archive:PATH"),
    ],
)
def test_a_wrong_option_of_run(lookback: Command, tmp_path: Path, option: str, value: str, word: str) -> None:
    features, _ = write_starter(tmp_path / "s")
    given = {
        "--source": f"archive:{tmp_path / 's' / 'events'}",
        "--store": f"lmdb:{tmp_path / 'store'}",
        "--state": str(tmp_path / "state"),
        option: value,
    }
    refused(lookback("run", features, *(part for pair in given.items() for part in pair)), 2, word)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run"], ["missing argument 'FEATURES.yaml'", "`lookback run --help`"]),
        (["check", "a.yaml", "b.yaml"], ["b.yaml", "`lookback check --help`"]),
        (["fly"], ["no such command 'fly'", "`lookback --help`"]),
        (["check", "a.yaml", "--loud"], ["no such option: --loud", "`lookback check --help`"]),
        (["run", "a.yaml", "--source"], ["'--source' requires an argument"]),
        (["dead-letters", "--dead-letters", "d", "--limit", "-1"], ["--limit -1", "from 0"]),
        (
            ["replay", "a.yaml", "--source", "s", "--from", "0", "--out", "o", "--workers", "-3"],
            ["from 1 to 64"],
        ),
    ],
)
def test_arguments_that_do_not_parse(lookback: Command, arguments: list[str], words: list[str]) -> None:
    refused(lookback(*arguments), 2, *words)


def test_a_variable_that_does_not_parse(lookback: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOKBACK_SHARDS", "abc")
    words = ["run", "a.yaml", "--source", "archive:a", "--store", "lmdb:b", "--state", "c"]
    refused(lookback(*words), 2, "the variable LOOKBACK_SHARDS: input should be a valid integer")


def test_help_and_no_arguments(lookback: Command) -> None:
    for arguments, code in (["--help"], 0), (["run", "-h"], 0), ([], 2):
        said = lookback(*arguments)
        assert said.code == code and "Usage: lookback" in said.out and said.err == ""


def test_a_wrong_window_of_replay(lookback: Command, made: Path, tmp_path: Path) -> None:
    base = (
        "replay",
        made / "features.yaml",
        "--source",
        f"archive:{made / 'events'}",
        "--out",
        tmp_path / "o",
    )
    refused(lookback(*base, "--from", "2024-01-05", "--to", "2024-01-01"), 2, "not after")
    said = lookback(*base, "--from", "yesterday")
    refused(said, 2, "yesterday", "2024-01-31T12:00:00Z")
    assert said.err.count("2024-01-31") == 1
    assert not (tmp_path / "o").exists()


def test_replay_leaves_other_files_alone(lookback: Command, made: Path, tmp_path: Path) -> None:
    base = (
        "replay",
        made / "features.yaml",
        "--source",
        f"archive:{made / 'events'}",
        "--from",
        "2024-01-01",
    )
    mine = tmp_path / "mine"
    mine.write_text("x")
    refused(lookback(*base, "--out", mine), 2, "no folder", "--out")
    refused(lookback(*base, "--out", tmp_path, "--overwrite"), 2, "not empty", "mine")
    assert mine.read_text() == "x"


def test_labels_that_can_not_be_used(lookback: Command, made: Path, tmp_path: Path) -> None:
    base = (
        "replay",
        made / "features.yaml",
        "--source",
        f"archive:{made / 'events'}",
        "--from",
        "2024-01-01",
    )
    file = tmp_path / "labels.parquet"
    refused(lookback(*base, "--out", tmp_path / "o", "--labels", file), 2, "no file of labels")
    file.write_text("card,time\n")
    refused(lookback(*base, "--out", tmp_path / "o", "--labels", file), 2, "whole Parquet")
    pq.write_table(pa.table({"card": [1], "merchant": ["m1"], "time": [T0], "label": [1]}), file)
    refused(
        lookback(*base, "--out", tmp_path / "o", "--labels", file, "--quiet"), 2, "card", "int64", "string"
    )


def test_the_topic_folder_given_as_archive(lookback: Command, made: Path, tmp_path: Path) -> None:
    source = f"archive:{made / 'events' / 'transactions'}"
    said = lookback(
        "replay", made / "features.yaml", "--source", source, "--from", "0", "--out", tmp_path / "o"
    )
    refused(said, 1, "name the one above it")


def test_places_that_can_not_be_written(lookback: Command, made: Path, tmp_path: Path) -> None:
    job = ("run", made / "features.yaml", "--source", f"archive:{made / 'events'}")
    file = made / "features.yaml"
    refused(lookback(*job, "--store", f"lmdb:{tmp_path / 's'}", "--state", file), 1, "name another --state")
    store = file / "below"  # as a read-only disk: no folder can be made there, whoever asks
    refused(lookback(*job, "--store", f"lmdb:{store}", "--state", tmp_path / "t"), 1, "can't be opened")


# ---- a job, and what it leaves


def test_a_second_definition_or_source_is_refused(lookback: Command, made: Path, tmp_path: Path) -> None:
    job = ("--store", f"lmdb:{made / 'store'}", "--state", made / "state")
    changed = tmp_path / "changed.yaml"
    changed.write_text((made / "features.yaml").read_text().replace("[1h, 1d, 7d]", "[1h, 2d, 7d]"))
    source = f"archive:{made / 'events'}"
    refused(lookback("run", changed, "--source", source, *job), 3, "card_activity changed", "--state")
    other = archive(tmp_path / "other", payment())
    refused(lookback("run", made / "features.yaml", "--source", other, *job), 3)
    refused(lookback("get", changed, "--store", f"lmdb:{made / 'store'}", "card=c7"), 1, "this version")
    assert lookback("get", changed, "--store", f"lmdb:{made / 'store'}", "merchant=m3").code == 0


def test_status_and_dead_letters_of_other_folders(lookback: Command, made: Path, tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none", made / "features.yaml"):
        refused(lookback("status", "--state", folder), 2, "no state folder")
    refused(lookback("dead-letters", "--dead-letters", tmp_path / "none"), 2, "no folder")
    found = json.loads(lookback("status", "--state", made / "state", "--json").out)
    assert not found["running"] and found["partitions"]["transactions/0"]["rows"] == 2000


def test_a_replay_without_rows_says_why(lookback: Command, made: Path, tmp_path: Path) -> None:
    base = ("replay", made / "features.yaml", "--from", "2024-01-01", "--quiet", "--source")
    seconds = archive(tmp_path / "a", *(payment(ts=T0 // 1000, tx_id=n) for n in range(5)))
    said = lookback(*base, seconds, "--out", tmp_path / "o1")
    assert said.code == 0 and "unit of the event time" in said.err
    broken = archive(tmp_path / "b", "{", payment(amount=1.234))
    said = lookback(*base, broken, "--out", tmp_path / "o2")
    assert said.code == 0 and "2 bad" in said.err and "every event was refused" in said.err


def test_dead_letters_are_safe_to_look_at(lookback: Command, tmp_path: Path) -> None:
    record = {"topic": "t", "partition": 0, "offset": 7, "reason": "parse", "detail": "broken"}
    times = {"event_time_ms": None, "broker_time_ms": None}
    raw = b"\x1b[31m\x00\xff" + "größer".encode() + b"x" * 5000
    line = json.dumps({**record, **times, "raw": base64.b64encode(raw).decode()})
    (tmp_path / "t-0.jsonl").write_text(line + "\n")
    said = lookback("dead-letters", "--dead-letters", tmp_path)
    assert said.code == 0
    assert "\\x1b[31m\\x00\\xffgrößerxxx" in said.out and "5,015 bytes" in said.out and len(said.out) < 1500
    assert "\x1b" not in said.out and "\x00" not in said.out


def test_dead_letters_as_json_lose_no_byte(lookback: Command, tmp_path: Path) -> None:
    messages = [b'{"card": "gr\xc3\xb6\xc3\x9fer"', b"\xff\x00\\xff", b"\\xff", b"", "\u2028\x1b".encode()]
    record = {"topic": "t", "partition": 0, "reason": "parse", "detail": "broken", "event_time_ms": None}
    lines = [
        json.dumps({**record, "offset": n, "broker_time_ms": None, "raw": base64.b64encode(raw).decode()})
        for n, raw in enumerate(messages)
    ]
    (tmp_path / "t-0.jsonl").write_text("".join(line + "\n" for line in lines))
    said = lookback("dead-letters", "--dead-letters", tmp_path, "--json").out
    found = [json.loads(line) for line in said.split("\n") if line]
    assert [
        base64.b64decode(one["raw"]) if one["raw_encoding"] == "base64" else one["raw"].encode()
        for one in found
    ] == messages
    assert [one["raw_encoding"] for one in found] == ["utf-8", "base64", "utf-8", "utf-8", "utf-8"]


def test_status_breaks_no_value(lookback: Command, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watermark = json.loads(lookback("status", "--state", made / "state", "--json").out)["partitions"][
        "transactions/0"
    ]["watermark_ms"]
    for columns in ("80", "20"):  # no terminal: its width is nobody's
        monkeypatch.setenv("COLUMNS", columns)
        said = lookback("status", "--state", made / "state").out
        assert instant(watermark) in said and f"source archive:{made / 'events'}" in said
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    said = plain(lookback("status", "--state", made / "state").out)
    assert instant(watermark) in said
    tables = said[said.index("view ") :]
    assert "…" not in tables and max(len(line.rstrip()) for line in tables.splitlines()) <= 80


# ---- reading


def test_keys_that_no_entity_has(lookback: Command, made: Path) -> None:
    get = ("get", made / "features.yaml", "--store", f"lmdb:{made / 'store'}")
    refused(lookback(*get, "crad=c7"), 2, "crad", "card, merchant")
    refused(lookback(*get, "card=c7", "crad=c8"), 2, "crad")
    refused(lookback(*get, "card=c7", "card=c8"), 2, "twice")
    refused(lookback(*get, "c7"), 2, "NAME=KEY")
    refused(lookback(*get, "card=c7", "--service", "none"), 2, "fraud_v1")
    refused(lookback(*get, "card=c7", "--at", "soon"), 2, "soon")
    refused(lookback(*get, "card=c7", "--stream", "transactions"), 2, "--event")


@pytest.mark.parametrize("event", ["{", "[]", '{"amount": "x"}', '{"amount": 1.234}', '{"declined": 1}'])
def test_an_event_that_can_not_be_scored(lookback: Command, made: Path, event: str) -> None:
    get = ("get", made / "features.yaml", "--store", f"lmdb:{made / 'store'}", "card=c7", "--at", T0)
    refused(lookback(*get, "--event", event), 2)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"\xff\xfe\n", "UTF-8"),
        (b'{"card":"c1","merchant":"m1"}\nx\n', ":2 "),
        (b"[1]\n", ":1 "),
        (b'{"card":"c1","merchant":"m1"}\n\n{"card":"c1"}\n', "entities.jsonl:3: "),
        (b'{"card":"c1","merchant":7}\n', "entities.jsonl:1: `merchant` must be string"),
    ],
)
def test_a_file_of_entities_that_can_not_be_read(
    lookback: Command, made: Path, tmp_path: Path, content: bytes, word: str
) -> None:
    file = tmp_path / "entities.jsonl"
    file.write_bytes(content)
    get = ("get", made / "features.yaml", "--store", f"lmdb:{made / 'store'}", "--entities", file)
    refused(lookback(*get), 2, word)
    refused(lookback(*get, "--event", "{}"), 2, "--event")


def test_a_known_entity_before_its_first_event(
    lookback: Command, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    get = ("get", made / "features.yaml", "--store", f"lmdb:{made / 'store'}")
    said = lookback(*get, "card=c7", "--at", "1990-01-01")
    assert said.code == 0 and "unknown" not in said.out and "no event at or before this instant" in said.out
    assert "unknown to the store" in lookback(*get, "card=nobody", "--at", "1990-01-01").out
    assert any("instant is kept; rows kept from" in line for line in said.out.splitlines())
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    said = lookback(*get, "card=c7", "--at", "1990-01-01")
    assert all(len(plain(line)) <= 80 for line in said.out.splitlines())


def test_a_store_that_is_not_there(lookback: Command, made: Path, tmp_path: Path) -> None:
    refused(lookback("get", made / "features.yaml", "card=c7"), 2, "--store lmdb:PATH")
    said = lookback("get", made / "features.yaml", "--store", f"lmdb:{tmp_path / 'none'}", "card=c7")
    refused(said, 1, "no online store")
    assert not (tmp_path / "none").exists()


# ---- progress


def test_a_line_is_not_said_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr("dataflows.progress.time.monotonic", lambda: now[0])
    board = Board.reset(tmp_path / "board", 1)
    with Progress("run", board, 10) as progress:
        for second, rows in ((3, 5), (6, 10), (9, 10), (12, 10), (30, 10), (37, 10)):
            now[0] = second
            board.rows[0, ROWS] = rows
            progress.tick()
    said = capfd.readouterr().err.splitlines()
    assert [line.split(" rows")[0] for line in said] == ["run: 5", "run: 10", "run: 10"]
