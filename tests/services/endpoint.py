"""A job's metrics and probes as a scraper and a kubelet ask for them."""

from __future__ import annotations

import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from prometheus_client.parser import text_string_to_metric_families

LIMIT_SECONDS = 60.0
T = TypeVar("T")
Samples = dict[tuple[str, tuple[str, ...]], float]


def until(look: Callable[[], T | None]) -> T:
    """Return what `look` finds once it finds something."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while not (found := look()):
        assert time.monotonic() < deadline, "never seen"
        time.sleep(0.05)
    return found


@dataclass(frozen=True)
class Endpoint:
    """Where a job serves them."""

    address: str

    @staticmethod
    def said_in(log: Path) -> Endpoint:
        """Return the one that a job has told of on its stderr."""
        return Endpoint(
            until(lambda: re.search(r"metrics at (http://[\d.]+:\d+)/metrics", log.read_text()))[1]
        )

    def get(self, path: str) -> tuple[int, str]:
        """Return the status and body of an answer."""
        try:
            with urllib.request.urlopen(self.address + path, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, refused.read().decode()

    def probe(self, path: str) -> tuple[int, list[str]]:
        """Return a probe's status and reasons."""
        status, body = self.get(path)
        return status, json.loads(body)["why"]

    def samples(self) -> Iterator[tuple[str, dict[str, str], float]]:
        """Yield name, labels and value of each sample."""
        for family in text_string_to_metric_families(self.get("/metrics")[1]):
            for sample in family.samples:
                yield sample.name, sample.labels, sample.value

    def scrape(self) -> Samples:
        """Return the samples by name and the values of labels, which go by their names."""
        return {
            (name, tuple(label for _, label in sorted(labels.items()))): value
            for name, labels, value in self.samples()
        }
