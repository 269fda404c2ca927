"""The demo from end to end, with real commands, on fewer payments; then with one value planted wrong."""

from __future__ import annotations

import io
import json
import shlex
import subprocess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from examples.card_fraud import demo as demo_module
from examples.card_fraud.demo import Demo, prepare
from examples.card_fraud.job import LOOKBACK, DemoError, Job, run, run_json
from examples.card_fraud.show import Show

ROOT = Path(__file__).resolve().parents[2]
FEATURES = ROOT / "features" / "fraud.yaml"


def show() -> tuple[Show, io.StringIO]:
    said = io.StringIO()
    made = Show(steps=7)
    made.console.file = said
    return made, said


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Demo, str]:
    out = prepare(tmp_path_factory.mktemp("demo") / "out")
    shown, said = show()
    # Enough payments in one partition that the job reads several batches and can be killed between two.
    demo = Demo(out, FEATURES, 100_000, shown, partitions=1)
    demo.run()
    return demo, said.getvalue()


def test_the_demo_holds_from_end_to_end(finished: tuple[Demo, str]) -> None:
    demo, said = finished
    assert "SIGKILL at" in said
    assert "differing: 0" in said
    assert f"{demo.facts.good:,}, one row each" in said
    assert "had counted: 0" in said
    assert "Try next" in said
    assert (demo.out / f"{demo.facts.attacked_card}.png").read_bytes().startswith(b"\x89PNG")
    attack, later = said.split("4/7")
    for name, under_attack in (("tx_count_1h", 40), ("small_amounts_1h", 40)):
        assert value(attack, name) >= under_attack > value(later, name)


def test_what_it_says_to_try_next_works(finished: tuple[Demo, str], tmp_path: Path) -> None:
    _, said = finished
    lines = [line.strip() for line in said.split("Try next:")[1].splitlines() if "bin/lookback" in line]
    assert len(lines) == 4
    for line in lines:
        words = shlex.split(line)[1:]
        cwd = tmp_path if words[0] == "init" else ROOT
        done = subprocess.run([LOOKBACK, *words], cwd=cwd, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        assert done.stdout


def value(said: str, feature: str) -> float:
    line = next(line for line in said.splitlines() if f"card_activity.{feature}" in line)
    return float(line.split()[1])


def test_one_planted_difference_is_found(finished: tuple[Demo, str]) -> None:
    """Change one value of one training row, the last one of its card, and compare again."""
    demo, _ = finished
    training = demo.out / "training"
    path, manifest = max(training.glob("day=*/*.parquet")), training / "manifest.json"
    before = {file: file.read_bytes() for file in (path, manifest)}
    table = pq.read_table(path, partitioning=None)
    column = "card_activity.tx_count_1d"
    index = table.schema.get_field_index(column)
    values = table[column].to_pylist()
    values[-1] += 1
    changed = table.set_column(index, table.schema.field(index), pa.array(values, pa.int64()))
    demo.show, said = show()
    try:
        pq.write_table(changed, path)
        said_of_files = json.loads(before[manifest])
        said_of_files["files"][-1]["bytes"] = path.stat().st_size
        manifest.write_text(json.dumps(said_of_files))
        with pytest.raises(DemoError, match=r"^1 of .* values differ"):
            demo.check(training)
    finally:
        for file, content in before.items():
            file.write_bytes(content)
    card = table["card"][-1].as_py()
    assert f"tx_count_1d of {card}: live {values[-1] - 1}, replayed {values[-1]}" in said.getvalue()
    demo.check(training)


def test_only_a_folder_of_its_own_is_cleared(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("keep me")
    with pytest.raises(DemoError, match="holds something else"):
        prepare(tmp_path)
    assert (tmp_path / "mine").read_text() == "keep me"
    ours = prepare(tmp_path / "ours")
    (ours / "old").write_text("")
    assert [path.name for path in prepare(ours).iterdir()] == [demo_module.OURS]


def test_a_command_that_fails_is_named(tmp_path: Path) -> None:
    assert LOOKBACK.exists()
    with pytest.raises(DemoError, match="lookback check exited 2"):
        run(["check", str(tmp_path / "none.yaml")])
    with pytest.raises(DemoError, match="lookback check exited 2: "):
        run_json(["check", str(tmp_path / "none.yaml")])
    job = Job(["check", str(tmp_path / "none.yaml")], tmp_path / "log")
    with pytest.raises(DemoError, match="lookback check exited 2: "):
        while job.running():
            pass
    job.kill()


def test_what_a_command_prints_as_json_is_read() -> None:
    assert "card_activity" in json.dumps(run_json(["check", str(FEATURES)]))
