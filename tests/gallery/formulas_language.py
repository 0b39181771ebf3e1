"""Dense formulas of examples/gallery/language."""

from __future__ import annotations

import itertools

import numpy as np

from gallery.cases import Here, bools, case, floats, formula

RETRIEVAL = bools(1, 3, 4)
KEPT = [[True, False, False], [True, True, False]]


@formula(
    "language/duo_attention",
    case(40, heads=4, layer=0, retrieval=RETRIEVAL, sink=3, recent=7),
    case(37, heads=4, layer=2, retrieval=RETRIEVAL, sink=0, recent=1),
    case(5, 33, heads=4, layer=1, retrieval=RETRIEVAL, sink=4, recent=9),
)
def duo_attention(c: Here, q: int, k: int) -> bool:
    if k > q:
        return False
    return bool(c["retrieval"][c.layer][c.h]) or k < c["sink"] or k in range(q - c["recent"] + 1, q + 1)


@formula(
    "language/sixteen_heads",
    case(17, heads=3, layer=0, kept=KEPT),
    case(30, heads=3, layer=1, kept=KEPT),
)
def sixteen_heads(c: Here, q: int, k: int) -> bool:
    return c["kept"][c.layer][c.h]


@formula("language/luong", case(12, 19), case(7, 3), cross=True)
def global_attention(c: Here, q: int, k: int) -> bool:
    return True


@formula("language/luong", case(12, 19, reach=2), case(21, 10, reach=0), case(30, 50), cross=True)
def local_m(c: Here, q: int, k: int) -> bool:
    reach = c.get("reach", 10)
    return k in range(q - reach, q + reach + 1)


def gaussian(c: Here, s: float, q: int, k: int) -> float:
    sigma = c["reach"] / 2
    return s - (k - c["centre"][q]) ** 2 / (2 * sigma**2)


@formula(
    "language/luong",
    case(12, 19, centre=18 * floats(3, 12), reach=3),
    case(5, 40, centre=35 * floats(4, 2, 5), reach=10, batch=2, batched=["centre"]),
    cross=True,
    score=gaussian,
)
def local_p(c: Here, q: int, k: int) -> bool:
    middle = int(np.floor(c["centre"][q]))
    return middle - c["reach"] <= k <= middle + c["reach"]


@formula(
    "language/long_short",
    case(40, heads=4, short_heads=2, recent=6),
    case(3, 29, heads=2, short_heads=0, recent=6),
    case(31, heads=2, short_heads=5, recent=1),
)
def long_short(c: Here, q: int, k: int) -> bool:
    oldest = q - c["recent"] + 1 if c.h < c["short_heads"] else 0
    return oldest <= k <= q


@formula("language/low_rank_factorization", case(1, 23), case(2, 1), cross=True)
def low_rank_factorization(c: Here, q: int, k: int) -> bool:
    return True


@formula(
    "language/mega",
    case(40, gate=floats(5, 40), length=8),
    case(37, gate=floats(6, 37), length=5, autoregressive=False),
    case(4, 23, gate=floats(7, 4), length=8),
    case(33, gate=floats(8, 2, 33), length=16, batch=2, batched=["gate"]),
    output=lambda c, o, q: o * c["gate"][q - (c.nk - c.nq)],
)
def mega(c: Here, q: int, k: int) -> bool:
    start = q - q % c["length"]
    end = q + 1 if c.get("autoregressive", True) else start + c["length"]
    return start <= k < end


@formula(
    "language/moa",
    case(48, heads=3, alpha=[[0, 8, 16]], beta=[[0, 0, 512]], block=8),
    case(61, heads=2, layer=1, alpha=[[0, 0], [4, 100]], beta=[[0, 0], [256, 1024]], block=4),
    case(6, 50, heads=2, alpha=[[5, 9]], beta=[[100, 200]], block=4),
)
def moa(c: Here, q: int, k: int) -> bool:
    block = c["block"]
    span = c["alpha"][c.layer][c.h] + (c["beta"][c.layer][c.h] * c.nk) // 1024
    first = q // block - max(1, span // block) + 1
    return k <= q and (k < block or k >= first * block)


@formula("language/mqsa_ted", case(20), case(1, 17))
def history(c: Here, q: int, k: int) -> bool:
    return k in range(q + 1)


@formula("language/mqsa_ted", case(20), case(23, items=1), case(3, 18, items=6))
def query_window(c: Here, q: int, k: int) -> bool:
    return k in list(range(q + 1))[-c.get("items", 4) :]


@formula(
    "language/s2_attention",
    case(48, heads=4, block=4, near=1),
    case(45, heads=3, block=8, near=0),
    case(5, 39, heads=2, block=2, near=2),
)
def s2_attention(c: Here, q: int, k: int) -> bool:
    own, other = q // c["block"], k // c["block"]
    dealt = range(c.h, c.nk, c.heads)  # every heads-th block
    return k <= q and (other in dealt or other >= own - c["near"])


def grouped(c: Here, q: int, k: int) -> bool:
    group, n = c["group"], c.nk
    if c.h < c.heads // 2:
        return q // group == k // group
    half = group // 2
    if c.get("wrap", True):
        rolled = [*range(half, n), *range(half)]  # rolled[i]: the token that stands at place i
        if half > n:
            rolled = [(i + half) % n for i in range(n)]
        return rolled.index(q) // group == rolled.index(k) // group
    edges = [0, *range(half, n, group), n]
    return any(lo <= q < hi and lo <= k < hi for lo, hi in itertools.pairwise(edges))


@formula(
    "language/sinklora",
    case(48, heads=4, group=8),
    case(43, heads=2, group=7, wrap=False),
    case(43, heads=2, group=10, wrap=True),
    case(30, heads=1, group=7),
)
def s2_attn(c: Here, q: int, k: int) -> bool:
    return k <= q and grouped(c, q, k)


@formula(
    "language/sinklora",
    case(48, heads=4, group=8, sink=2),
    case(43, heads=2, group=7, wrap=False),
    case(7, 40, heads=2, group=10, sink=0),
)
def sf_attn(c: Here, q: int, k: int) -> bool:
    return k <= q and (k < c.get("sink", 4) or grouped(c, q, k))


@formula(
    "language/titans",
    case(3 + 8 + 31, sizes={"persistent": 3, "memory": 8, "text": 31}, length=8, retrieved=2),
    case(2 + 9 + 17, sizes={"persistent": 2, "memory": 9, "text": 17}, length=6, retrieved=3),
)
def memory_as_context(c: Here, q: int, k: int) -> bool:
    p, m = c.size("persistent"), c.size("memory")
    if k < p:
        return True

    def segment(i: int) -> int | None:
        if i < p:
            return None
        return (i - p) // c["retrieved"] if i < p + m else (i - p - m) // c["length"]

    if segment(q) is None or segment(q) != segment(k):
        return False
    if q < p + m:
        return k < p + m
    return k < p + m or k <= q


@formula(
    "language/titans",
    case(4 + 30, sizes={"persistent": 4, "text": 30}, width=6),
    case(37, sizes={"persistent": 1}, width=1),
)
def memory_as_gate(c: Here, q: int, k: int) -> bool:
    p = c.size("persistent")
    return k < p or (q >= p and q - c["width"] < k <= q)
