"""Dense formulas of examples/gallery/classics."""

from __future__ import annotations

from typing import Any

import numpy as np

from gallery.cases import Case, Here, bools, case, divide, formula, ints, neighbours


@formula(
    "classics/sparse_transformer_strided",
    case(40, stride=6),
    case(37, heads=4, stride=5, merged=False),
    case(3, 29, stride=4),
    case(150),
)
def sparse_transformer_strided(c: Here, q: int, k: int) -> bool:
    stride = c.get("stride", 128)
    local = set(range(max(0, q - stride), q + 1))
    jumps = set(range(q, -1, -stride))
    if c.get("merged", True):
        return k in local | jumps
    return k in (local if c.h % 2 == 0 else jumps)


@formula(
    "classics/sparse_transformer_fixed",
    case(40, stride=8, summary=2),
    case(37, heads=4, stride=5, summary=1, merged=False),
    case(3, 29, stride=8, summary=3),
    case(150),
)
def sparse_transformer_fixed(c: Here, q: int, k: int) -> bool:
    stride, summary = c.get("stride", 128), c.get("summary", 8)
    if k > q:
        return False
    block = q // stride == k // stride
    last = k % stride in range(stride - summary, stride)
    if c.get("merged", True):
        return block or last
    return last if c.h % 2 else block


@formula(
    "classics/longformer",
    case(40, heads=2, is_global=bools(1, 40, p=0.1), dilation=[1, 3], attention_window=8),
    case(
        31, heads=1, batch=2, is_global=bools(2, 2, 31, p=0.1), batched=["is_global"], dilation=[2], attention_window=4
    ),
)
def longformer(c: Here, q: int, k: int) -> bool:
    if c["is_global"][q] or c["is_global"][k]:
        return True
    half, gap = c["attention_window"] // 2, c["dilation"][c.h]
    return k in [q + gap * i for i in range(-half, half + 1)]


def mix(x: int) -> int:
    """A finaliser of 32-bit hashes: a bijection."""
    x ^= x >> 16
    x = x * 0x7FEB352D % 2**32
    x ^= x >> 15
    x = x * 0x5BD1E995 % 2**32
    return x ^ x >> 16


def hashed(*numbers: int) -> int:
    state = 0x9E3779B9
    for number in numbers:
        state = mix(state ^ number % 2**32)
    return state // 2


@formula(
    "classics/bigbird",
    case(64, heads=2, block=4, random_blocks=3),
    case(61, heads=1, block=5, random_blocks=2),
    case(40, heads=1, block=8, random_blocks=0),
    case(36, heads=1, block=4, random_blocks=12),
    case(7, 50, heads=1, block=6, random_blocks=3),
)
def bigbird(c: Here, q: int, k: int) -> bool:
    row, column, blocks = q // c["block"], k // c["block"], -(-c.nk // c["block"])
    if {row, column} & {0, blocks - 1} or abs(row - column) < 2:
        return True
    n = c["random_blocks"]
    parts = [(blocks * i // n, blocks * (i + 1) // n) for i in range(n)]
    return column in [lo + hashed(row, i, c.h) % max(1, hi - lo) for i, (lo, hi) in enumerate(parts)]


def etc_case(summaries: int, long: int, seed: int, **more: Any) -> Case:
    owner = np.sort(ints(seed, 0, summaries, summaries + long))
    sizes = {"summary": summaries, "long": long}
    return case(summaries + long, sizes=sizes, part_of=owner, **more)


@formula("classics/etc", etc_case(4, 30, 1, reach=3), etc_case(3, 34, 2, reach=2, structured=True), etc_case(2, 100, 3))
def etc(c: Here, q: int, k: int) -> bool:
    n, reach = c.size("summary"), c.get("reach", 84)
    if k < n:
        return True
    if q < n:
        return not c.get("structured", False) or c["part_of"][k] == q
    return k in range(q - reach, q + reach + 1)


@formula(
    "classics/longnet",
    case(48, heads=4, scales=3, segment=[4, 16, 64], rate=[1, 2, 4]),
    case(45, heads=2, scales=2, segment=[6, 20], rate=[1, 3]),
    case(4, 37, heads=1, scales=1, segment=[8], rate=[2]),
)
def longnet(c: Here, q: int, k: int) -> bool:
    def taking_part(segment: int, rate: int) -> set[int]:
        start = q - q % segment
        return set(range(start + c.h % rate, start + segment, rate))

    groups = [taking_part(w, r) for w, r in zip(c["segment"], c["rate"], strict=True)]
    return k <= q and any({q, k} <= group for group in groups)


@formula(
    "classics/swin",
    case(64, sizes={"y": 8, "x": 8}, side=4),
    case(64, sizes={"y": 8, "x": 8}, side=4, layer=1),
    case(54, sizes={"y": 6, "x": 9}, side=3, layer=3),
    case(98, sizes={"y": 7, "x": 14}, layer=1),
)
def swin(c: Here, q: int, k: int) -> bool:
    """As the cyclic shift does it: roll the image, cut it into windows, and keep apart what was not together."""
    side, height, width = c.get("side", 7), c.size("y"), c.size("x")
    shift = side // 2 if c.layer % 2 else 0

    def place(extent: int, at: int) -> tuple[int, bool]:
        rolled = (at - shift) % extent
        return rolled // side, at < shift

    (y, x), (v, u) = divide(q, width), divide(k, width)
    return place(height, y) == place(height, v) and place(width, x) == place(width, u)


@formula("classics/streaming_llm", case(40, sink=2, recent=6), case(3, 37, recent=5), case(29, sink=0, recent=1))
def streaming_llm(c: Here, q: int, k: int) -> bool:
    past = list(range(q + 1))
    return k in past[: c.get("sink", 4)] + past[-c["recent"] :]


@formula("classics/longt5_local", case(40, reach=4), case(37, reach=0), case(140))
def longt5_local(c: Here, q: int, k: int) -> bool:
    return abs(q - k) <= c.get("reach", 127)


@formula(
    "classics/reformer_local",
    case(40, length=8),
    case(37, length=5, before=2, after=1, decoder=False),
    case(37, length=5, before=0, after=2),
    case(130),
)
def reformer_local(c: Here, q: int, k: int) -> bool:
    length = c.get("length", 64)
    first = (q // length - c.get("before", 1)) * length
    end = (q // length + 1 + c.get("after", 0)) * length
    return first <= k < end and not (c.get("decoder", True) and k > q)


@formula(
    "classics/block_diffusion",
    case(40, sizes={"noisy": 20, "clean": 20}),
    case(34, sizes={"noisy": 17, "clean": 17}, block=5),
)
def block_diffusion(c: Here, q: int, k: int) -> bool:
    n, block = c.size("noisy"), c.get("block", 4)
    row, column = q % n // block, k % n // block
    if q < n:
        return row == column if k < n else column < row
    return k >= n and column <= row


@formula("classics/prefix_lm", case(30, batch=3, length=[0, 9, 30]), case(4, 27, batch=2, length=[26, 5]))
def prefix_lm(c: Here, q: int, k: int) -> bool:
    return k < max(q + 1, c["length"][c.b])


ROLLOUTS = {
    "prompt": [0] * 17 + [1] * 14,
    "rollout": [0] * 6 + [1] * 4 + [2] * 5 + [3] * 2 + [0] * 4 + [1] * 3 + [2] * 7,
}


@formula(
    "classics/shared_prefix",
    case(31, **ROLLOUTS),
    case(5, 31, **ROLLOUTS),
    case(20, prompt=[0] * 20, rollout=[0] * 3 + [1] * 17),
)
def shared_prefix(c: Here, q: int, k: int) -> bool:
    prompt, rollout = c["prompt"], c["rollout"]
    seen = [i for i in range(q + 1) if prompt[i] == prompt[q] and rollout[i] in (0, rollout[q])]
    return k in seen


def tree_times(parents: list[int | None], context: int) -> dict[str, list[int]]:
    """Entry and exit times of a walk through a forest; node ``i`` hangs from ``parents[i]``. Times of the
    context mean nothing; here they are such that they must not be looked at."""
    enter, leave, clock = [0] * len(parents), [0] * len(parents), 0

    def walk(node: int) -> None:
        nonlocal clock
        enter[node] = clock = clock + 1
        for child in (i for i, p in enumerate(parents) if p == node):
            walk(child)
        leave[node] = clock + 1

    for root in (i for i, p in enumerate(parents) if p is None):
        walk(root)
    return {"enter": [2] * context + enter, "exit": [9] * context + leave}


FIRST: list[int | None] = [None, 0, 0, 1, 1, 2, 5, 5, 6]
SECOND: list[int | None] = [None, None, 0, 1, 1, 2, 3, 4, 6, 6, 8]
#: By number of keys and batch entry: the forest, and the length of its context.
TREES = {(21, 0): (FIRST, 12), (18, 0): (SECOND, 7), (30, 0): (FIRST, 21), (30, 1): (SECOND, 19)}


def tree_case(queries: int, keys: int, batch: int) -> Case:
    forests = [TREES[keys, b] for b in range(batch)]
    times = [tree_times(forest, context) for forest, context in forests]
    context = [context for _, context in forests]
    inputs = {name: [t[name] for t in times] for name in ("enter", "exit")}
    return case(queries, keys, batch=batch, context=context, batched=inputs, **inputs)


@formula("classics/speculative_tree", tree_case(9, 21, 1), tree_case(18, 18, 1), tree_case(15, 30, 2))
def speculative_tree(c: Here, q: int, k: int) -> bool:
    forest, context = TREES[c.nk, c.b]
    if k < context:
        return k <= q
    node = q - context
    while node >= 0 and node != k - context:
        parent = forest[node]
        node = -1 if parent is None else parent
    return node >= 0


ONE_TOKEN = {"tile_t": 1, "tile_y": 1, "tile_x": 1}


@formula(
    "classics/sliding_tile",
    case(64, sizes={"t": 4, "y": 4, "x": 4}, tile_t=1, tile_y=2, tile_x=1, window_t=3, window_y=1, window_x=3),
    case(75, sizes={"t": 3, "y": 5, "x": 5}, tile_t=2, tile_y=2, tile_x=1, window_t=1, window_y=2, window_x=3),
    case(80, sizes={"t": 4, "y": 4, "x": 5}, window_t=5, window_y=4, window_x=7, clipped=True, **ONE_TOKEN),
    case(72, sizes={"t": 3, "y": 4, "x": 6}, window_t=3, window_y=5, window_x=4, clipped=True, **ONE_TOKEN),
)
def sliding_tile(c: Here, q: int, k: int) -> bool:
    at, other = divide(q, c.size("y"), c.size("x")), divide(k, c.size("y"), c.size("x"))

    def near(i: int, axis: str) -> bool:
        tile, window = c[f"tile_{axis}"], c[f"window_{axis}"]
        tiles, mine, theirs = -(-c.size(axis) // tile), at[i] // tile, other[i] // tile
        if c.get("clipped", False):
            return abs(mine - theirs) <= window // 2
        return theirs in neighbours(tiles, mine, window)

    return all(near(i, axis) for i, axis in enumerate("tyx"))


@formula("classics/minference_a_shape", case(40, first=5, recent=7), case(6, 33, first=0, recent=4))
def minference_a_shape(c: Here, q: int, k: int) -> bool:
    return 0 <= k <= q and not c["first"] <= k <= q - c["recent"]


@formula(
    "classics/minference_vertical_slash",
    case(40, heads=2, columns=3, slashes=2, column=[[0, 1, 9], [4, 4, 30]], slash=[[0, 5], [1, 17]]),
    case(5, 31, heads=1, columns=1, slashes=4, column=[[2]], slash=[[0, 1, 2, 12]]),
    case(23, heads=1, columns=2, slashes=1, column=[[0, 50]], slash=[[0]]),
)
def minference_vertical_slash(c: Here, q: int, k: int) -> bool:
    return k <= q and (k in c["column"][c.h] or q - k in c["slash"][c.h])
