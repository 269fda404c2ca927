"""The producer: the seed decides what is sent, and what goes wrong is said in a sentence."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from examples.card_fraud.produce import Payers, main
from tests.services.kafka import Broker, free_ports

ROOT = Path(__file__).resolve().parents[2]


def payments(seed: int) -> list[tuple[int, int, int, int]]:
    made = itertools.islice(Payers(seed, 0.1, 0.1, 4).messages(), 600)
    return [(int(p.card[0]), int(p.cents[0]), int(behind[0]), int(broken[0])) for p, behind, broken in made]


def test_the_seed_decides() -> None:
    assert payments(1) == payments(1) != payments(2)
    late = sum(behind > 0 for _, _, behind, _ in payments(1))
    broken = sum(broken > 0 for *_, broken in payments(1))
    assert 30 < late < 100 and 30 < broken < 100
    assert not any(behind and broken for _, _, behind, broken in payments(1))


def test_no_broker_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    [port] = free_ports(1)
    assert main(["--brokers", f"127.0.0.1:{port}"]) == 1
    assert f"no broker answers at 127.0.0.1:{port}: start Kafka" in capsys.readouterr().err


def test_no_topic_is_said(kafka: Broker, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--brokers", kafka.address, "--topic", "nothing-here"]) == 1
    assert "there is no topic nothing-here: make it, or" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--rate", "0"], ["--late", "2"], ["--late", "0.6", "--broken", "0.6"]])
def test_wrong_shares_and_rates_are_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2


def test_ctrl_c_ends_it_with_what_was_sent(kafka: Broker) -> None:
    words = ["--brokers", kafka.address, "--topic", "produced", "--partitions", "2", "--rate", "500"]
    process = subprocess.Popen(
        [sys.executable, "-m", "examples.card_fraud.produce", *words],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    admin = kafka.admin()
    while "produced" not in admin.list_topics(timeout=10).topics:
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and "Traceback" not in err
    told = json.loads(out)
    assert told["sent"] == told["good"] + told["late"] + told["broken"]
