"""Dense formulas of the neighbourhoods and halos in examples/gallery/vision."""

from __future__ import annotations

from gallery.cases import Here, case, divide, formula, image, neighbours, video


@formula(
    "vision/dinat",
    image(6, 7, dilation=[1, 2], side=3),
    image(6, 7, dilation=[1, 2], side=3, layer=1),
    image(9, 5, dilation=[1, 3, 2], side=2, layer=1),
    image(4, 5, dilation=[4], side=1),
)
def dinat(c: Here, q: int, k: int) -> bool:
    (y, x), (v, u), gap = divide(q, c.size("x")), divide(k, c.size("x")), c["dilation"][c.layer]
    side = c["side"]
    return v in neighbours(c.size("y"), y, side, gap=gap) and u in neighbours(c.size("x"), x, side, gap=gap)


@formula(
    "vision/neighborhood_1d_2d_3d",
    case(30, size_x=5),
    case(31, size_x=4, gap_x=3),
    case(23),
    case(20, size_x=3, gap_x=6),
)
def neighborhood_1d(c: Here, q: int, k: int) -> bool:
    return k in neighbours(c.nk, q, c.get("size_x", 7), gap=c.get("gap_x", 1))


@formula(
    "vision/neighborhood_1d_2d_3d",
    image(6, 8, size_y=3, size_x=5),
    image(7, 9, size_y=2, size_x=4, gap_y=3, gap_x=2),
    image(7, 7),
)
def neighborhood_2d(c: Here, q: int, k: int) -> bool:
    at, other = divide(q, c.size("x")), divide(k, c.size("x"))
    return all(
        other[i] in neighbours(c.size(a), at[i], c.get(f"size_{a}", 7), gap=c.get(f"gap_{a}", 1))
        for i, a in enumerate("yx")
    )


@formula(
    "vision/neighborhood_1d_2d_3d",
    video(3, 4, 5, size_t=2, size_y=3, size_x=3),
    video(5, 3, 4, size_t=2, size_y=1, size_x=2, gap_t=2, gap_y=3, gap_x=2),
)
def neighborhood_3d(c: Here, q: int, k: int) -> bool:
    at, other = divide(q, c.size("y"), c.size("x")), divide(k, c.size("y"), c.size("x"))
    return all(
        other[i] in neighbours(c.size(a), at[i], c[f"size_{a}"], gap=c.get(f"gap_{a}", 1)) for i, a in enumerate("tyx")
    )


@formula(
    "vision/gna",
    case(32, size_x=8, step_x=4),
    case(29, size_x=6, step_x=4, causal_x=True),
    case(37, size_x=5, step_x=3, gap_x=2),
    case(24, size_x=8, step_x=8),
    case(31, size_x=4, gap_x=3, causal_x=True),
    case(26),
)
def gna_1d(c: Here, q: int, k: int) -> bool:
    step, gap, causal = c.get("step_x", 1), c.get("gap_x", 1), c.get("causal_x", False)
    return k in neighbours(c.nk, q, c.get("size_x", 8), step, gap, causal)


@formula(
    "vision/gna",
    image(8, 8, size_y=4, size_x=4, step_y=4, step_x=4),
    image(7, 9, size_y=5, size_x=4, step_y=2, step_x=3),
    image(8, 7, size_y=3, size_x=2, step_y=2, step_x=1, gap=2),
)
def gna_2d(c: Here, q: int, k: int) -> bool:
    at, other = divide(q, c.size("x")), divide(k, c.size("x"))
    return all(
        other[i] in neighbours(c.size(a), at[i], c[f"size_{a}"], c[f"step_{a}"], c.get("gap", 1))
        for i, a in enumerate("yx")
    )


@formula(
    "vision/gna",
    video(4, 4, 4, size_t=2, size_y=2, size_x=4, step_t=2, step_y=2, step_x=2),
    video(5, 3, 4, size_t=3, size_y=3, size_x=2, step_t=2, step_y=1, step_x=2, causal_t=True),
)
def gna_3d(c: Here, q: int, k: int) -> bool:
    at, other = divide(q, c.size("y"), c.size("x")), divide(k, c.size("y"), c.size("x"))
    return all(
        other[i]
        in neighbours(c.size(a), at[i], c[f"size_{a}"], c[f"step_{a}"], 1, a == "t" and c.get("causal_t", False))
        for i, a in enumerate("tyx")
    )


@formula("vision/halonet", image(8, 8, block=4, reach=1), image(7, 9, block=3, reach=2), image(5, 5, block=2, reach=0))
def halonet(c: Here, q: int, k: int) -> bool:
    return haloed(c, *divide(q, c.size("x")), *divide(k, c.size("x")))


def haloed(c: Here, y: int, x: int, v: int, u: int) -> bool:
    block, reach = c["block"], c["reach"]
    rows = range(y - y % block - reach, y - y % block + block + reach)
    columns = range(x - x % block - reach, x - x % block + block + reach)
    return v in rows and u in columns


@formula(
    "vision/halonet",
    case(16, 64, sizes={"v": 4, "u": 4, "y": 8, "x": 8}, block=4, reach=1),
    case(12, 63, sizes={"v": 3, "u": 4, "y": 7, "x": 9}, block=3, reach=0, step=2),
    case(6, 63, sizes={"v": 2, "u": 3, "y": 7, "x": 9}, block=2, reach=1, step=3),
    cross=True,
)
def halonet_down(c: Here, q: int, k: int) -> bool:
    v, u = divide(q, c.size("u"))
    step = c.get("step", 2)
    return haloed(c, v * step, u * step, *divide(k, c.size("x")))
