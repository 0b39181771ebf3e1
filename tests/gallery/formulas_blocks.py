"""Dense formulas of examples/gallery/classics/flashmask, written as the intervals of queries that each key is
hidden from, and of examples/gallery/classics/deepspeed, written as layouts of blocks that are filled in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from gallery.cases import Case, Here, case, formula, ints


def lengths(*pieces: int) -> list[int]:
    """The number of the piece that each token belongs to."""
    return [i for i, n in enumerate(pieces) for _ in range(n)]


def end_of(numbers: list[int], k: int) -> int:
    """Where the piece that token ``k`` belongs to ends."""
    return max(i for i, n in enumerate(numbers) if n == numbers[k]) + 1


def start_of(numbers: list[int], k: int) -> int:
    return min(i for i, n in enumerate(numbers) if n == numbers[k])


full = formula("classics/flashmask/full", case(20), case(3, 17), pattern="full")(lambda c, q, k: True)


@formula("classics/flashmask/causal", case(20), case(3, 17))
def causal_mask(c: Here, q: int, k: int) -> bool:
    return not q < k


@formula("classics/flashmask/sliding_window", case(30, left=5), case(4, 27, left=0), case(20))
def flash_sliding_window(c: Here, q: int, k: int) -> bool:
    return k <= q < k + c.get("left", 4096) + 1


DOCUMENTS = (case(30, document=lengths(7, 12, 1, 10)), case(23, document=lengths(20, 3)))


@formula("classics/flashmask/causal_document", *DOCUMENTS, case(5, 23, document=lengths(20, 3)))
def causal_document(c: Here, q: int, k: int) -> bool:
    return k <= q < end_of(c["document"], k)


@formula("classics/flashmask/document", *DOCUMENTS)
def document_mask(c: Here, q: int, k: int) -> bool:
    return start_of(c["document"], k) <= q < end_of(c["document"], k)


def answers(*documents: tuple[int, ...]) -> dict[str, list[int]]:
    """Each document: the length of its question, then those of its answers."""
    return {
        "document": lengths(*(sum(d) for d in documents)),
        "answer": [i for d in documents for i in lengths(*d)],
    }


@formula(
    "classics/flashmask/share_question",
    case(33, **answers((6, 4, 5), (3, 7, 2, 6))),
    case(19, **answers((5, 14))),
)
def share_question(c: Here, q: int, k: int) -> bool:
    document, answer = c["document"], c["answer"]
    end = end_of(document, k)
    if answer[k]:
        end = next((i for i in range(k, end) if answer[i] != answer[k]), end)
    return k <= q < end


@formula(
    "classics/flashmask/global_sliding_window",
    case(40, globals=3, left=4, right=2),
    case(37, globals=0, left=0, right=5),
    case(30, left=1, right=1),
)
def global_sliding_window(c: Here, q: int, k: int) -> bool:
    globals_ = c.get("globals", 16)
    if k < globals_:
        return True
    return not (q >= k + c["left"] + 1 or globals_ <= q < k - c["right"])


@formula(
    "classics/flashmask/causal_blockwise",
    case(30, block=lengths(7, 12, 1, 10), blocks=[4]),
    case(23, batch=2, block=lengths(10, 6, 7), blocks=[3, 9]),
)
def causal_blockwise(c: Here, q: int, k: int) -> bool:
    block, test = c["block"], c["blocks"][c.b] - 1
    hidden = range(end_of(block, k), start_of(block, block.index(test)) if test in block else c.nk)
    return k <= q and q not in hidden


def prefixed(*documents: tuple[int, int]) -> dict[str, list[int] | list[bool]]:
    """Each document: the length of its prefix, and of the rest."""
    return {
        "document": lengths(*(p + r for p, r in documents)),
        "in_prefix": [i < p for p, r in documents for i in range(p + r)],
    }


@formula(
    "classics/flashmask/prefix_lm_document",
    case(30, **prefixed((4, 5), (0, 8), (9, 4))),
    case(21, **prefixed((21, 0))),
)
def prefix_lm_document(c: Here, q: int, k: int) -> bool:
    first = start_of(c["document"], k) if c["in_prefix"][k] else k
    return first <= q < end_of(c["document"], k)


@formula("classics/flashmask/prefix_lm_causal", case(30, length=11), case(27, length=0), case(40))
def prefix_lm_causal(c: Here, q: int, k: int) -> bool:
    return q >= (0 if k < c.get("length", 1024) else k)


@formula(
    "classics/flashmask/qk_sparse",
    case(40, stretches=2, start=[5, 20], end=[9, 33]),
    case(23, stretches=1, start=[0], end=[7]),
    case(6, 31, stretches=2, start=[4, 28], end=[8, 60]),
)
def qk_sparse(c: Here, q: int, k: int) -> bool:
    visible_from = k
    for start, end in zip(c["start"], c["end"], strict=True):
        if start <= k < end:
            visible_from = end
    return q >= visible_from


@formula(
    "classics/flashmask/random_eviction",
    case(30, heads=2, length=30, evicted=ints(1, 0, 40, 2, 30)),
    case(5, 27, heads=1, length=27, evicted=np.arange(27)[None] + ints(2, 1, 30, 1, 27)),
)
def random_eviction(c: Here, q: int, k: int) -> bool:
    return q in range(k, c["evicted"][c.h][k])


def blockwise(layout: Callable[[Here, int], np.ndarray]) -> Callable[[Here, int, int], bool]:
    """Whether the layout, bool (blocks, blocks), of a head keeps the blocks of query and key."""
    made: dict[tuple[int, int, int], np.ndarray] = {}

    def sees(c: Here, q: int, k: int) -> bool:
        at = (id(c.case), c.h, c.b)
        if at not in made:
            made[at] = layout(c, -(-c.nk // c.get("block", 16)))
        return bool(made[at][q // c.get("block", 16), k // c.get("block", 16)])

    return sees


def local_windows(count: int, sizes: Iterator[int], one_way: bool) -> np.ndarray:
    """Consecutive windows of the given sizes, in blocks."""
    kept, start = np.zeros((count, count), dtype=bool), 0
    while start < count:
        end = min(start + next(sizes), count)
        kept[start:end, start:end] = True
        start = end
    return np.tril(kept) if one_way else kept


def forever(value: int, first: tuple[int, ...] = ()) -> Iterator[int]:
    yield from first
    while True:
        yield value


def fixed_layout(c: Here, count: int) -> np.ndarray:
    size, width = c.get("num_local_blocks", 4), c.get("num_global_blocks", 1)
    one_way, across = c.get("unidirectional", False), c.get("horizontal", False)
    kept = local_windows(count, forever(size), one_way)
    first = size - (1 + c.h % c.get("num_different_global_patterns", 1)) * width
    starts = [window + first for window in range(0, count - size + 1, size)]
    if count % size:
        starts.append(min(count - count % size + first, count - width))
    for start in starts:
        kept[start if one_way else 0 :, start : start + width] = True
        if across and not one_way:
            kept[start : start + width, :] = True
    return kept


def fixed_case(n: int, block: int, local: int, **more: Any) -> Case:
    return case(n, block=block, num_local_blocks=local, **more)


fixed = formula(
    "classics/deepspeed/fixed",
    fixed_case(64, 4, 4),
    fixed_case(64, 4, 4, heads=4, num_different_global_patterns=4, unidirectional=True),
    fixed_case(60, 4, 4, heads=2, num_global_blocks=2, num_different_global_patterns=2, horizontal=True),
    fixed_case(51, 3, 4, heads=2, num_global_blocks=2, num_different_global_patterns=2, unidirectional=True),
    fixed_case(49, 4, 4),
    fixed_case(64, 4, 4, heads=4, num_different_global_patterns=4, horizontal=True),
    case(9, 49, block=4, num_local_blocks=4),
    fixed_case(52, 3, 6, heads=3, num_different_global_patterns=3, unidirectional=True),
    case(80),
    pattern="fixed",
)(blockwise(fixed_layout))


def variable_layout(c: Here, count: int) -> np.ndarray:
    one_way, across, ends = c.get("unidirectional", False), c.get("horizontal", False), c["window_end"]
    sizes = tuple(int(n) for n in np.diff([0, *ends]))
    kept = local_windows(count, forever(c.get("last_window", 4), sizes), one_way)
    for start, end in zip(c["global_start"], c["global_end"], strict=True):
        kept[start if one_way else 0 :, start:end] = True
        if across and not one_way:
            kept[start:end] = True
    for row, drawn in enumerate(c["random_block"][:count]):
        kept[row, [d for d in drawn if d < count]] = True
    return kept


NO_BLOCKS = np.zeros((0, 0), dtype=int)
variable = formula(
    "classics/deepspeed/variable",
    case(
        60, block=4, windows=3, window_end=[2, 3, 7], last_window=4, globals=2, global_start=[3, 9], global_end=[4, 11],
        horizontal=True, randoms=2, rows=15, random_block=ints(1, 0, 15, 15, 2),
    ),
    case(
        47, block=3, windows=2, window_end=[4, 7], last_window=3, globals=1, global_start=[5], global_end=[30],
        unidirectional=True, random_block=NO_BLOCKS,
    ),
    case(80, window_end=[4], global_start=[0], global_end=[1], random_block=NO_BLOCKS),
    pattern="variable",
)(blockwise(variable_layout))  # fmt: skip


def near_diagonal(count: int, width: int) -> np.ndarray:
    row = np.arange(count)
    return np.abs(row[:, None] - row[None]) <= width // 2


def bigbird_layout(c: Here, count: int) -> np.ndarray:
    kept = near_diagonal(count, c.get("num_sliding_window_blocks", 3))
    for row in range(count):
        kept[row, c["random_block"][row]] = True
    first = c.get("num_global_blocks", 1)
    kept[:first] = True
    kept[:, :first] = True
    return np.tril(kept) if c.get("unidirectional", False) else kept


bigbird = formula(
    "classics/deepspeed/bigbird",
    case(60, block=4, num_random_blocks=2, rows=15, random_block=ints(1, 0, 15, 15, 2), num_sliding_window_blocks=5),
    case(47, block=3, rows=16, random_block=ints(2, 0, 16, 16, 1), num_global_blocks=2, unidirectional=True),
    case(100, rows=7, random_block=ints(3, 0, 7, 7, 1)),
    pattern="bigbird",
)(blockwise(bigbird_layout))


def bslongformer_layout(c: Here, count: int) -> np.ndarray:
    kept = near_diagonal(count, c.get("num_sliding_window_blocks", 3))
    for start, end in zip(c["global_start"], c["global_end"], strict=True):
        kept[start:end] = True
        kept[:, start:end] = True
    return np.tril(kept) if c.get("unidirectional", False) else kept


bslongformer = formula(
    "classics/deepspeed/bslongformer",
    case(60, block=4, globals=2, global_start=[0, 7], global_end=[1, 9]),
    case(47, block=3, num_sliding_window_blocks=5, globals=1, global_start=[3], global_end=[4], unidirectional=True),
    case(100, global_start=[0], global_end=[1]),
    pattern="bslongformer",
)(blockwise(bslongformer_layout))


def window_layout(c: Here, count: int) -> np.ndarray:
    kept = near_diagonal(count, c.get("num_sliding_window_blocks", 3))
    return np.tril(kept) if c.get("unidirectional", True) else kept


local_sliding_window = formula(
    "classics/deepspeed/local_sliding_window",
    case(60, block=4, num_sliding_window_blocks=5),
    case(47, block=3, unidirectional=False),
    case(100),
    pattern="local_sliding_window",
)(blockwise(window_layout))
