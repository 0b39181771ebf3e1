"""Dense formulas of examples/gallery/systems."""

from __future__ import annotations

import numpy as np

from gallery.cases import Here, case, divide, formula, image, ints


def everything(c: Here, q: int, k: int) -> bool:
    return True


def past(c: Here, q: int, k: int) -> bool:
    return k in range(q + 1)


@formula(
    "systems/byte_transformer",
    case(40, sequence=[0] * 3 + [1] * 20 + [2] * 12 + [-1] * 5),
    case(31, sequence=np.sort(ints(1, 0, 5, 2, 31)), batch=2, batched=["sequence"]),
)
def byte_transformer(c: Here, q: int, k: int) -> bool:
    own = np.flatnonzero(c["sequence"] == np.int64(c["sequence"][q]))
    return c["sequence"][q] >= 0 and k in own


CAUSAL = (case(20, heads=2), case(5, 17))
dha = formula("systems/dha", *CAUSAL, pattern="dha")(past)
x_ecomla = formula("systems/x_ecomla", *CAUSAL, pattern="x_ecomla")(past)


@formula(
    "systems/distca",
    case(40, document=[0] * 5 + [1] * 25 + [2] * 10),
    case(12, 33, document=[0] * 10 + [1] * 23),
    case(9, 30, document=np.sort(ints(1, 0, 4, 2, 30)), batch=2, batched=["document"]),
)
def distca(c: Here, q: int, k: int) -> bool:
    first = int(np.flatnonzero(c["document"] == np.int64(c["document"][q]))[0])
    return k in range(first, q + 1)


@formula(
    "systems/flash_window_attention",
    case(48, sizes={"y": 6, "x": 8}, height=2, width=4),
    case(45, sizes={"y": 5, "x": 9}),
    case(35, sizes={"y": 7, "x": 5}, height=3, width=2),
)
def flash_window_attention(c: Here, q: int, k: int) -> bool:
    (y, x), (v, u) = divide(q, c.size("x")), divide(k, c.size("x"))
    top, left = y - y % c.get("height", 7), x - x % c.get("width", 7)
    return top <= v < top + c.get("height", 7) and left <= u < left + c.get("width", 7)


DENSE = (case(17, heads=2), case(9))
lowformer = formula("systems/lowformer", image(4, 5), image(3, 2), pattern="lowformer")(everything)
mesa = formula("systems/mesa", *DENSE, pattern="mesa")(everything)
mhe = formula("systems/mhe", *DENSE, pattern="mhe")(everything)
pay_better_attention = formula("systems/pay_better_attention", *DENSE, pattern="pay_better_attention")(everything)
ring_self_attention = formula("systems/ring_self_attention", *DENSE, pattern="ring_self_attention")(everything)


def with_device(c: Here, q: int, k: int) -> bool:
    """Play the ring: device ``d`` sends its keys to device ``d + 1``."""
    devices = c.get("devices", 4)
    size = -(-c.nk // devices)
    chunks = [range(d * size, d * size + size) for d in range(devices)]
    held = list(chunks)
    for _ in range(c.get("step", 0)):
        held = [held[-1], *held[:-1]]
    return any(q in mine and k in keys for mine, keys in zip(chunks, held, strict=True))


@formula("systems/ring_self_attention", case(32), case(32, step=1), case(30, devices=3, step=2), case(21, step=3))
def one_step(c: Here, q: int, k: int) -> bool:
    return with_device(c, q, k)


@formula(
    "systems/ring_self_attention",
    case(32, step=1, reach=3),
    case(32, step=2, reach=3),
    case(30, devices=3, step=2, reach=12),
    case(40),
)
def sparse_step(c: Here, q: int, k: int) -> bool:
    return with_device(c, q, k) and abs(q - k) <= c.get("reach", 64)


@formula(
    "systems/shvit", image(4, 5, layer=0, attends=[False, True]), image(3, 5, layer=1, attends=[False, True, True])
)
def shvit(c: Here, q: int, k: int) -> bool:
    return c["attends"][c.layer]


dense = formula("systems/unified_view", *DENSE, pattern="dense")(everything)
pooled = formula("systems/unified_view", case(20, 4), case(7, 9), pattern="pooled", cross=True)(everything)


@formula("systems/unified_view", case(30, reach=4), case(5, 21, reach=0), case(9))
def local(c: Here, q: int, k: int) -> bool:
    return abs(q - k) <= c.get("reach", 64)
