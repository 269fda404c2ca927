"""Draw one card's features over time, its fraud marked.

Owns: the picture. Refuses: choosing what is in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

HONEST, FRAUD = "#4c6a92", "#c8402f"


def draw(path: Path, title: str, history: Mapping[str, Any], features: Sequence[str]) -> None:
    """Write a PNG with one panel a feature: a step line over the card's events, those of fraud in red.

    history: as `replayed.history` returns it. Raises ValueError for a card without events.
    """
    import matplotlib

    matplotlib.use("Agg")  # no screen needed
    from matplotlib import dates
    from matplotlib import pyplot as plt

    times = history["time_ms"].astype("datetime64[ms]")
    fraud = history["is_fraud"]
    if not len(times):
        raise ValueError("the card has no events")
    height = 0.8 + 1.5 * len(features)
    figure, axes = plt.subplots(len(features), 1, figsize=(11, height), sharex=True, squeeze=False)
    for axis, feature in zip(axes[:, 0], features, strict=True):
        values = history[feature]
        axis.step(times, values, where="post", color=HONEST, linewidth=1)
        axis.plot(times[~fraud], values[~fraud], ".", color=HONEST, markersize=3)
        axis.plot(times[fraud], values[fraud], ".", color=FRAUD, markersize=6, label="fraud")
        if fraud.any():
            first, last = times[fraud].min(), times[fraud].max()
            axis.axvspan(first, max(last, first + np.timedelta64(3, "h")), color=FRAUD, alpha=0.12)
        axis.set_title(feature, loc="left", fontsize=9)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_ylim(bottom=0)
    axes[0, 0].legend(loc="upper right", fontsize=8, frameon=False)
    axes[-1, 0].xaxis.set_major_formatter(dates.ConciseDateFormatter(axes[-1, 0].xaxis.get_major_locator()))
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
