"""Pods of one job: what they say to each other, which shards go where, what the first of them refuses."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dataflows.board import Board
from dataflows.pod_lead import Lead
from dataflows.pod_round import Round
from dataflows.pods import Link, PeerLost, Pods, parse_peers
from dataflows.shard_moves import commits, give, held, let_go, take
from dataflows.telemetry.meters import MeterFile
from lookback.errors import RefusedError, UsageError
from state.rocksdb import Database
from state.shard import commit_put
from tests.recovery.pods import free_runs

AGREED = {"--epoch": "1000"}


@pytest.fixture
def pair() -> Iterator[tuple[Link, Link]]:
    listener = socket.create_server(("127.0.0.1", 0))
    one = Link(socket.create_connection(listener.getsockname()), "pod 0")
    other = Link(listener.accept()[0], "pod 1")
    listener.close()
    yield one, other
    one.close()
    other.close()


def make_shard(folder: Path, shard: int, epoch: int) -> None:
    folder.mkdir(exist_ok=True)
    db = Database(folder / f"shard-{shard:02d}", create=True)
    db.write([commit_put({"epoch": epoch})])
    db.close()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("lookback-0", "write HOST:PORT"),
        ("a:1,b", "write HOST:PORT"),
        ("a:0", "write HOST:PORT"),
        ("a:1,a:1", "once"),
    ],
)
def test_peers_that_are_none(text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        parse_peers(text)


def test_each_worker_has_an_address() -> None:
    pods = Pods(parse_peers("a:2100,[::1]:2100"), 1, 2)
    assert pods.addresses(["10.0.0.1", "fd00::2"]) == (
        "10.0.0.1:2101", "10.0.0.1:2102", "[fd00::2]:2101", "[fd00::2]:2102",
    )  # fmt: skip
    assert (pods.total, list(pods.own(1))) == (4, [2, 3])


def test_a_frame_comes_whole_and_an_end_is_told(pair: tuple[Link, Link]) -> None:
    one, other = pair
    assert other.poll() is None
    body = bytes(range(256)) * 8192
    sending = threading.Thread(target=lambda: one.send("piece", body, name="x"))
    sending.start()
    frame = other.wait()
    sending.join()
    assert (frame.kind, frame.facts["name"], frame.body) == ("piece", "x", body)
    one.send("last")
    one.close()
    assert other.wait().kind == "last"
    with pytest.raises(PeerLost, match="pod 1 is gone"):
        other.wait()


def test_a_stranger_is_told_from_a_pod(pair: tuple[Link, Link]) -> None:
    one, other = pair
    one._socket.sendall(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(PeerLost, match="another language"):
        other.wait()


def test_words_go_to_the_other_pods_and_nobody_takes_back_his_own(
    pair: tuple[Link, Link], tmp_path: Path
) -> None:
    boards = [Board.reset(tmp_path / f"board-{i}", 2) for i in range(2)]
    meters = [MeterFile.reset(tmp_path / f"meters-{i}", 1) for i in range(2)]
    rounds = [Round({1 - i: pair[i]}, boards[i], meters[i], range(i, i + 1)) for i in range(2)]
    boards[0].due[3], boards[1].due[4] = 17, 18
    meters[1].workers[1, :2] = 5, 9  # EPOCH, EPOCHS
    for _ in range(2):
        for one in rounds:
            one._next = 0.0
            one.tick()
    assert [(int(b.due[3]), int(b.due[4])) for b in boards] == [(17, 18)] * 2
    assert meters[0].workers[1, 1] == 9 and meters[1].workers[0, 1] == 0
    boards[0].due[3] = 19
    rounds[0]._next = rounds[1]._next = 0.0
    rounds[0].tick()
    rounds[1].tick()
    assert boards[1].due[3] == 19
    boards[1].stop[0] = 1
    rounds[0]._next = rounds[1]._next = 0.0
    rounds[1].tick()
    rounds[0].tick()
    assert rounds[0].draining
    pair[1].close()  # in a round that ends nobody is missed
    rounds[0]._next = 0.0
    rounds[0].tick()


def test_a_shard_moves_whole(pair: tuple[Link, Link], tmp_path: Path) -> None:
    make_shard(tmp_path / "a", 7, epoch=3)
    (tmp_path / "b" / ".moving-shard-07").mkdir(parents=True)  # what a crash left
    assert held(tmp_path / "b") == []
    sending = threading.Thread(target=lambda: give(pair[0], tmp_path / "a", 7))
    sending.start()
    take(pair[1], tmp_path / "b", 7)
    sending.join()
    assert held(tmp_path / "a") == held(tmp_path / "b") == [7]
    assert commits(tmp_path / "b", 7) == 3
    let_go(tmp_path / "a", 7)
    assert held(tmp_path / "a") == [] and list((tmp_path / "a").iterdir()) == []


def test_a_torn_file_is_not_taken(pair: tuple[Link, Link], tmp_path: Path) -> None:
    pair[0].send("piece", b"half", name="000001.sst")
    pair[0].send("file", name="000001.sst", size=8, digest="0")
    with pytest.raises(PeerLost, match="did not come whole"):
        take(pair[1], tmp_path, 7)
    assert held(tmp_path) == []


class Fake:
    """A follower that says what a test lets it say."""

    def __init__(self, port: int, **hello: object) -> None:
        self.link = Link(socket.create_connection(("127.0.0.1", port)), "pod 0")
        self.link.send(
            "hello", **{"ordinal": 1, "id": None, "shards": [], "host": "h", "agreed": AGREED, **hello}
        )


@pytest.fixture
def lead(tmp_path: Path) -> Iterator[Lead]:
    (port,) = free_runs(1, 2)
    state = tmp_path / "state"
    state.mkdir()
    pods = Pods((("127.0.0.1", port), ("127.0.0.1", port + 1)), 0, 1)
    with Lead(pods, state, AGREED) as made:
        yield made


def port_of(lead: Lead) -> int:
    return lead.pods.peers[0][1]


def write_state(lead: Lead, shards: int, there: list[int]) -> None:
    meta = {"format": 1, "id": "one", "shards": shards, "views": {}, "source": "s", "parts": []}
    (lead._state / "state.json").write_text(json.dumps(meta))
    for shard in there:
        make_shard(lead._state, shard, 1)


def test_all_shards_are_there(lead: Lead) -> None:
    write_state(lead, 4, [0, 2])
    stranger = socket.create_connection(("127.0.0.1", port_of(lead)))
    stranger.sendall(b"who are you?")
    stranger.close()
    one = Fake(port_of(lead), id="one", shards=[1, 3])
    lead.gather()
    one.link.close()


def test_a_shard_that_nobody_holds(lead: Lead, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dataflows.pod_lead.MISSING_SECONDS", 0.2)
    write_state(lead, 4, [0, 2])
    one = Fake(port_of(lead), id="one", shards=[1])
    with pytest.raises(RefusedError, match="no pod holds shard 3 of the state"):
        lead.gather()
    one.link.close()


def test_shards_of_another_state(lead: Lead) -> None:
    write_state(lead, 2, [0])
    one = Fake(port_of(lead), id="two", shards=[1])
    with pytest.raises(RefusedError, match="pod 1 holds shards of the state two, and pod 0 the state one"):
        lead.gather()
    one.link.close()


def test_the_first_volume_is_new_and_another_is_not(lead: Lead) -> None:
    one = Fake(port_of(lead), id="two", shards=[1])
    with pytest.raises(RefusedError, match="and pod 0 no state"):
        lead.gather()
    one.link.close()


def test_a_pod_with_other_options_is_waited_for(lead: Lead, capsys: pytest.CaptureFixture[str]) -> None:
    other = Fake(port_of(lead), agreed={"--epoch": "200"})
    alike: list[Fake] = []
    told: list[str] = []

    def come_again() -> None:
        frame = other.link.wait()
        told.extend([frame.kind, *frame.facts["what"]])
        alike.append(Fake(port_of(lead)))

    coming = threading.Thread(target=come_again)
    coming.start()
    lead.gather()
    coming.join()
    other.link.close()
    assert told == ["other", "--epoch"]
    assert "pod 1 was started with another --epoch than pod 0" in capsys.readouterr().err
    alike[0].link.close()


def test_of_two_copies_the_one_with_more_commits_is_kept(lead: Lead) -> None:
    write_state(lead, 2, [])
    make_shard(lead._state, 0, epoch=4)
    one = Fake(port_of(lead), id="one", shards=[0, 1])
    lead.gather()
    assert lead._newest(1, [1], 1) == 1

    def answer() -> None:
        one.link.wait()
        one.link.send("commits", commits=9)

    answering = threading.Thread(target=answer)
    answering.start()
    assert lead._newest(0, [0, 1], 0) == 1
    answering.join()
    one.link.close()
    assert np.array_equal(held(lead._state), [0])
