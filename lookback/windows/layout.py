"""A view's plan turned into the integer tables that kernels read.

Owns: which scans (*lanes*) a plan needs and which of them features share. Refuses: rows, arithmetic.

    bound := an offset o >= 0; for an instant t it marks the first row with time > t - o
    lane  := one accumulation (family, column, bit, delay, parameter) with its windows ascending;
             a window is the bound (delay + window), or LIFETIME_BOUND, which marks row 0
    acc   := what a lane leaves for one window: a few words in scratch, read by features' finalizers
    life  := a lane's accumulator of rows folded away (lifetime windows only), some words a slot
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lookback.windows.numeric import INT64_MAX, INT64_MIN, LIMBS
from lookback.windows.plan import ROW_HEAD, Agg, Feature, Kind, Term, ViewPlan

I64 = npt.NDArray[np.int64]

# Families: what a lane accumulates. Acc words in brackets.
ROWS = 0  # (n)
SUM_INT = 1  # (n, low, high)
SUM_FLOAT = 2  # (n, sum)
MIN_INT = 3  # (n, value)
MAX_INT = 4
MIN_FLOAT = 5
MAX_FLOAT = 6
WELFORD = 7  # (n, mean, m2)
ENDS = 8  # (n, first time, first value, last time, last value)
PREVIOUS = 9  # (n, time of the newest row before the own one)
DECAY = 10  # (n, sum, time of its newest row)
COUNTER = 11  # (distinct, entropy, length of the list, values)
SEEN = 12  # (0 null / 1, whether)
LAST_K = 13  # (length, values)
SUM_EXACT = 14  # (n, sum), lifetime only
ACC_WORDS = (1, 3, 3, 3, 3, 3, 3, 3, 5, 2, 3, 3, 2, 1, 2)
# words a slot keeps of folded rows; -1: the family cannot fold, so a lifetime window keeps every row
LIFE_WORDS = (1, 3, -1, 2, 2, 2, 2, -1, 7, 2, -1, -1, -1, -1, 1 + LIMBS)

# columns of the lane table
L_FAMILY, L_COLUMN, L_BIT, L_HIGH, L_PARAM, L_WINDOWS, L_FIRST = range(7)
L_ACC, L_WORDS, L_LIFE, L_KIND, L_WANT, L_CELL, L_COUNTER, L_MOVE, L_TAIL = range(7, 16)
# columns of the group table: lanes with the same near bound, which share one walk over the rows
G_HIGH, G_FIRST, G_BOUNDS, G_LANE, G_LANES = range(5)
# columns of the feature table
F_AGG, F_FAMILY, F_ACC, F_FAMILY2, F_ACC2, F_OUT, F_K, F_DELAY, F_SCALE, F_SCALE2, F_PARAM, F_KIND = range(12)
# columns of the shape vector
S_COLUMNS, S_WORDS, S_REACH, S_LIFE, S_BOUNDS, S_LIMBS, S_STEPS, S_TABLE, S_CELLS, S_COUNTERS = range(10)
S_HEADER, S_BLOCK, S_STRIDE, S_TAILS, S_TAIL = 10, 11, 12, 13, 14

BLOCK_ITEMS, BLOCK_WORDS = 32, 2048  # most evaluated items that wait for their results, and words they take

WALK_NOTES = 8  # words before a walk's steps: how many there are, and where to look in the lists of cells
TAIL_WORDS = 4  # words of a bound's table of tails in a long log's header
STEPS = 4096  # most steps of a walk; a longer one takes rows singly
MOVING_ROWS = 64  # rows a moving extreme remembers; one that needs more is walked
SMALL = 128  # by-value lanes over at most so many rows count them anew, longer ones keep counters
HEADER_WORDS = 21
REACH_INFINITE = INT64_MAX
MAX_SPAN_MS = 2**62  # longest delay + window; event times stay within +- this as well

_FAMILIES = {
    Agg.COUNT: ROWS,
    Agg.FIRST: ENDS,
    Agg.LAST: ENDS,
    Agg.TIME_SINCE_FIRST: ENDS,
    Agg.MEAN_GAP: ENDS,
    Agg.TIME_SINCE_LAST: PREVIOUS,
    Agg.DISTINCT: COUNTER,
    Agg.TOP_K: COUNTER,
    Agg.MODE: COUNTER,
    Agg.ENTROPY: COUNTER,
    Agg.VARIANCE: WELFORD,
    Agg.STDDEV: WELFORD,
    Agg.DECAYED_COUNT: DECAY,
    Agg.DECAYED_SUM: DECAY,
    Agg.LAST_K: LAST_K,
    Agg.SEEN_BEFORE: SEEN,
}
# families that a block of rows can stand for, by its partial state
_BLOCK_FAMILIES = {
    ROWS, SUM_INT, SUM_FLOAT, MIN_INT, MAX_INT, MIN_FLOAT, MAX_FLOAT, WELFORD, ENDS, DECAY,
}  # fmt: skip
TEXT_KIND = 2
_KIND_CODES = {Kind.INT: 0, Kind.FLOAT: 1, Kind.TEXT: TEXT_KIND}
# bits of a COUNTER lane's L_WANT
WANT_DISTINCT, WANT_TOP, WANT_ENTROPY = 1, 2, 4


def family_of(plan: ViewPlan, feature: Feature, term: Term) -> int:
    """Return the family that accumulates `term` for `feature`."""
    floats = term.column >= 0 and plan.columns[term.column].kind is Kind.FLOAT
    if feature.agg in (Agg.SUM, Agg.MEAN, Agg.RATIO):
        if term.column < 0:
            return ROWS
        if not floats:
            return SUM_INT
        return SUM_EXACT if feature.window_ms is None else SUM_FLOAT
    if feature.agg is Agg.MIN:
        return MIN_FLOAT if floats else MIN_INT
    if feature.agg is Agg.MAX:
        return MAX_FLOAT if floats else MAX_INT
    return _FAMILIES[feature.agg]


def terms_of(feature: Feature) -> tuple[Term, ...]:
    """Return the terms a feature accumulates: two for a ratio, else one."""
    if feature.agg is Agg.RATIO:
        assert feature.other is not None, f"{feature.name}: a ratio needs its denominator"
        return feature.term, feature.other
    return (feature.term,)


def reach_ms(plan: ViewPlan) -> int:
    """Return how far back rows are kept: a row with time <= newest - reach is folded or dropped.

    The largest delay + window; a lifetime window that folds adds only its delay, one that cannot
    fold makes it `REACH_INFINITE`. At least 1, so that the newest row always stays.
    """
    reach = 1
    for feature in plan.features:
        if feature.window_ms is not None:
            reach = max(reach, feature.delay_ms + feature.window_ms)
        elif any(LIFE_WORDS[family_of(plan, feature, term)] < 0 for term in terms_of(feature)):
            return REACH_INFINITE
        else:
            reach = max(reach, feature.delay_ms)
    return reach


def complete_from_ms(plan: ViewPlan, covers_from_ms: int) -> tuple[int, ...]:
    """Return, for each feature, the earliest instant at which it is complete, given what a log covers.

    covers_from_ms: rows at or before it are gone (INT64_MIN: none is, every instant is complete).
    """
    if covers_from_ms == INT64_MIN:
        return (INT64_MIN,) * len(plan.features)
    return tuple(covers_from_ms + feature.delay_ms + (feature.window_ms or 0) for feature in plan.features)


@dataclass(frozen=True)
class Layout:
    """The tables of one plan (see the module's grammar)."""

    shape: I64
    bounds: I64
    lanes: I64
    windows: I64
    groups: I64
    group_bounds: I64
    features: I64
    scratch_words: int

    @property
    def reach_ms(self) -> int:
        """See `reach_ms`."""
        return int(self.shape[S_REACH])

    @property
    def life_words(self) -> int:
        """Words a slot keeps of its folded rows."""
        return int(self.shape[S_LIFE])


_LaneKey = tuple[int, int, int, int, int]


def _lane_key(plan: ViewPlan, feature: Feature, term: Term) -> _LaneKey:
    family = family_of(plan, feature, term)
    column = term.column
    if family in (PREVIOUS, ROWS):
        column = -1
    if family == ENDS and feature.agg not in (Agg.FIRST, Agg.LAST):
        column = -1
    param = 0
    if family == DECAY:
        param = feature.half_life_ms
        column = -1 if feature.agg is Agg.DECAYED_COUNT else column
    elif family == LAST_K:
        param = feature.k
    elif family == SEEN:
        # whose bit says that the own value isn't null; its `where` does not matter
        param = feature.other.bit if feature.other is not None else term.bit
    return family, column, term.bit, feature.delay_ms, param


def build_layout(plan: ViewPlan) -> Layout:
    """Return the tables of a plan.

    Raises ValueError for a plan no definition can give (a window not positive, times past 2**62 ms).
    """
    spans: set[int] = {0}
    lane_spans: dict[_LaneKey, set[int | None]] = {}
    for feature in plan.features:
        window = feature.window_ms
        if feature.delay_ms < 0 or (window is not None and window <= 0):
            raise ValueError(f"{feature.name}: a window must be positive and a delay not negative")
        if feature.delay_ms + (window or 0) > MAX_SPAN_MS:
            raise ValueError(f"{feature.name}: delay + window must be at most {MAX_SPAN_MS} ms")
        span = None if window is None else feature.delay_ms + window
        spans.update({feature.delay_ms} | ({span} if span is not None else set()))
        for term in terms_of(feature):
            lane_spans.setdefault(_lane_key(plan, feature, term), set()).add(span)
    bounds = sorted(spans)
    place = {span: i for i, span in enumerate(bounds)}
    reach = reach_ms(plan)

    keys = sorted(lane_spans, key=lambda key: place[key[3]])  # lanes of a group lie together
    lanes = np.zeros((len(keys), 16), dtype=np.int64)
    windows: list[int] = []
    accs: dict[tuple[_LaneKey, int | None], int] = {}
    scratch = len(bounds) + 1
    life = 0
    for i, key in enumerate(keys):
        family, column, bit, delay, param = key
        ascending = sorted(lane_spans[key], key=_ascending)
        words = ACC_WORDS[family] + _list_words(plan, key, param)
        head = ROW_HEAD + plan.words
        lanes[i, :L_WINDOWS] = family, -1 if column < 0 else head + column, bit, place[delay], param
        lanes[i, L_WINDOWS:L_LIFE] = len(ascending), len(windows), scratch, words
        lanes[i, L_LIFE] = -1
        if None in lane_spans[key] and reach != REACH_INFINITE:
            lanes[i, L_LIFE] = life
            life += LIFE_WORDS[family]
        lanes[i, L_KIND] = 0 if column < 0 else _KIND_CODES[plan.columns[column].kind]
        lanes[i, L_WANT] = _wanted(plan, key)
        for span in ascending:
            windows.append(len(bounds) if span is None else place[span])
            accs[key, span] = scratch
            scratch += words
    blocks = [i for i, key in enumerate(keys) if key[0] in _BLOCK_FAMILIES and not _by_edges_alone(key)]
    counters = [i for i, key in enumerate(keys) if key[0] in (COUNTER, SEEN)]
    for which, column in ((blocks, L_CELL), (counters, L_COUNTER)):
        lanes[:, column] = -1
        lanes[which, column] = np.arange(len(which))
    # a long log's header: what `hot` lays out, an edge a bound, then moving states
    header = HEADER_WORDS + 2 * len(counters) + len(bounds)
    moves = [_moving_words(int(lane[L_FAMILY]), int(lane[L_WINDOWS])) for lane in lanes]
    tails = [i for i in blocks if not moves[i]]
    lanes[:, L_TAIL] = -1
    lanes[tails, L_TAIL] = np.arange(len(tails))
    tail = header
    header += TAIL_WORDS * len(bounds) if tails else 0
    lanes[:, L_MOVE] = -1
    for i, words in enumerate(moves):
        if words and (i in blocks or keys[i][0] == SUM_EXACT):
            lanes[i, L_MOVE] = header
            header += words
    groups, group_bounds = _groups(keys, lane_spans, place)

    # two more words of an item that waits: its instant and its number
    stride = scratch + 2
    block = max(1, min(BLOCK_ITEMS, BLOCK_WORDS // stride))
    shape = np.zeros(15, dtype=np.int64)
    shape[[S_COLUMNS, S_WORDS, S_REACH, S_LIFE]] = ROW_HEAD + plan.width, plan.words, reach, life
    shape[[S_BOUNDS, S_CELLS, S_COUNTERS]] = len(bounds), len(blocks), len(counters)
    shape[[S_HEADER, S_TAILS, S_TAIL]] = header, len(tails), tail
    shape[[S_BLOCK, S_STRIDE]] = block, stride
    steps = stride + LIMBS + WALK_NOTES
    shape[[S_LIMBS, S_STEPS, S_TABLE]] = stride, steps, steps + 3 * STEPS
    return Layout(
        shape=shape,
        bounds=np.array(bounds, dtype=np.int64),
        lanes=lanes,
        windows=np.array(windows, dtype=np.int64),
        groups=groups,
        group_bounds=group_bounds,
        features=_feature_table(plan, accs),
        # items that wait, then the last one's scratch; at its end that of a by-value count: places,
        # values, counts, a list. An item's scratch lies where later ones' accs will be.
        scratch_words=block * stride
        + (LIMBS + WALK_NOTES + 3 * STEPS + 4 * SMALL + int(lanes[:, L_WORDS].max(initial=0)) + 1),
    )


def _ascending(span: int | None) -> int:
    return MAX_SPAN_MS * 2 if span is None else span


def _moving_words(family: int, windows: int) -> int:
    if family in (ROWS, SUM_INT):
        return 1 + 4 * windows
    if family == SUM_EXACT:
        return 2 + LIMBS
    return 3 + 2 * MOVING_ROWS if family in (MIN_INT, MAX_INT, MIN_FLOAT, MAX_FLOAT) else 0


def _by_edges_alone(key: _LaneKey) -> bool:
    """Whether a lane needs no rows but those at its windows' edges."""
    return key[0] in (ROWS, ENDS) and key[2] < 0


def _groups(
    keys: list[_LaneKey], lane_spans: dict[_LaneKey, set[int | None]], place: dict[int, int]
) -> tuple[I64, I64]:
    groups: list[list[int]] = []
    group_bounds: list[int] = []
    for i, key in enumerate(keys):
        if not groups or groups[-1][G_HIGH] != place[key[3]]:
            groups.append([place[key[3]], 0, 0, i, 0])
        groups[-1][G_LANES] += 1
    for group in groups:
        spans: set[int | None] = set()
        for key in keys[group[G_LANE] : group[G_LANE] + group[G_LANES]]:
            spans |= lane_spans[key]
        group[G_FIRST], group[G_BOUNDS] = len(group_bounds), len(spans)
        group_bounds += [
            len(place) if span is None else place[span] for span in sorted(spans, key=_ascending)
        ]
    return np.array(groups, dtype=np.int64).reshape(-1, 5), np.array(group_bounds, dtype=np.int64)


def _feature_table(plan: ViewPlan, accs: dict[tuple[_LaneKey, int | None], int]) -> I64:
    table = np.zeros((len(plan.features), 12), dtype=np.int64)
    for i, feature in enumerate(plan.features):
        span = None if feature.window_ms is None else feature.delay_ms + feature.window_ms
        table[i, F_AGG] = feature.agg
        for term, family, acc, scale in zip(
            terms_of(feature), (F_FAMILY, F_FAMILY2), (F_ACC, F_ACC2), (F_SCALE, F_SCALE2), strict=False
        ):
            table[i, family] = family_of(plan, feature, term)
            table[i, acc] = accs[_lane_key(plan, feature, term), span]
            table[i, scale] = 0 if term.column < 0 else plan.columns[term.column].scale
        if feature.agg is Agg.DECAYED_COUNT:
            table[i, F_SCALE] = 0
        table[i, F_OUT] = plan.out_starts[i]
        table[i, F_K] = feature.k if feature.is_list else 1
        table[i, F_DELAY] = feature.delay_ms
        table[i, F_PARAM] = feature.half_life_ms
        if feature.term.column >= 0:
            table[i, F_KIND] = _KIND_CODES[plan.columns[feature.term.column].kind]
    return table


def _same_lane(plan: ViewPlan, key: _LaneKey) -> list[Feature]:
    return [f for f in plan.features if any(_lane_key(plan, f, term) == key for term in terms_of(f))]


def _list_words(plan: ViewPlan, key: _LaneKey, param: int) -> int:
    if key[0] == LAST_K:
        return param
    if key[0] == COUNTER:
        return max(_list_length(feature) for feature in _same_lane(plan, key))
    return 0


def _list_length(feature: Feature) -> int:
    return feature.k if feature.agg is Agg.TOP_K else int(feature.agg is Agg.MODE)


def _wanted(plan: ViewPlan, key: _LaneKey) -> int:
    if key[0] != COUNTER:
        return 0
    wants = {
        Agg.DISTINCT: WANT_DISTINCT, Agg.TOP_K: WANT_TOP, Agg.MODE: WANT_TOP, Agg.ENTROPY: WANT_ENTROPY,
    }  # fmt: skip
    return int(np.bitwise_or.reduce([wants[feature.agg] for feature in _same_lane(plan, key)]))
