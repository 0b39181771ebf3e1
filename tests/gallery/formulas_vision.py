"""Dense formulas of examples/gallery/vision, but for neighbourhoods and halos."""

from __future__ import annotations

import math

import numpy as np

from gallery.cases import Case, Here, bools, case, divide, floats, formula, image, ints


def everything(c: Here, q: int, k: int) -> bool:
    return True


def with_bias(c: Here, s: float, q: int, k: int) -> float:
    return s + c["bias"][q][k]


agents_read = formula(
    "vision/agent_attention",
    case(4, 20, sizes={"y": 4, "x": 5}, bias=floats(1, 4, 20)),
    case(3, 21, sizes={"y": 3}, bias=floats(2, 2, 3, 21), batch=2, batched=["bias"]),
    pattern="agents_read",
    cross=True,
    score=with_bias,
)(everything)
agents_write = formula(
    "vision/agent_attention",
    case(20, 4, sizes={"y": 4, "x": 5}, bias=floats(1, 20, 4)),
    case(21, 1, sizes={"y": 3}, bias=floats(2, 21, 1)),
    pattern="agents_write",
    cross=True,
    score=with_bias,
)(everything)


@formula(
    "vision/arbex",
    case(36, 36 + 3, sizes={"y": 6, "x": 6, "anchor": 3}, side=3),
    case(35, 35 + 1, sizes={"y": 5, "x": 7, "anchor": 1}, side=3),
    cross=True,
)
def arbex(c: Here, q: int, k: int) -> bool:
    if k >= c.nq:
        return True
    (y, x), (v, u) = divide(q, c.size("x")), divide(k, c.size("x"))
    return (y // c["side"], x // c["side"]) == (v // c["side"], u // c["side"])


IMAGES = (image(5, 7), image(1, 6), image(6, 1), image(4, 4))


@formula("vision/axial_attention", *IMAGES)
def row(c: Here, q: int, k: int) -> bool:
    return q // c.size("x") == k // c.size("x")


@formula("vision/axial_attention", *IMAGES)
def column(c: Here, q: int, k: int) -> bool:
    return (q - k) % c.size("x") == 0


@formula("vision/axial_attention", *IMAGES)
def masked_row(c: Here, q: int, k: int) -> bool:
    return q - q % c.size("x") <= k <= q


@formula("vision/axial_attention", *IMAGES)
def masked_column(c: Here, q: int, k: int) -> bool:
    return k in range(q % c.size("x"), q + 1, c.size("x"))


@formula("vision/axial_attention", *IMAGES)
def shifted_row(c: Here, q: int, k: int) -> bool:
    return q - q % c.size("x") <= k < q


@formula("vision/axial_attention", *IMAGES)
def raster(c: Here, q: int, k: int) -> bool:
    return k <= q


VIDEOS = (case(3 * 4 * 5, sizes={"t": 3, "y": 4, "x": 5}), case(5 * 2 * 3, sizes={"t": 5, "y": 2, "x": 3}))


@formula("vision/axial_attention", *VIDEOS)
def masked_time(c: Here, q: int, k: int) -> bool:
    frame = c.size("y") * c.size("x")
    return k in range(q % frame, q + 1, frame)


@formula("vision/davit", image(6, 6, side=3), image(5, 8, side=3), image(8, 9))
def spatial_window(c: Here, q: int, k: int) -> bool:
    side, width = c.get("side", 7), c.size("x")
    top, left = (q // width) // side * side, (q % width) // side * side
    return top <= k // width < top + side and left <= k % width < left + side


@formula("vision/davit", case(24, width=8), case(21, width=5), case(40))
def channel_group(c: Here, q: int, k: int) -> bool:
    width = c.get("width", 32)
    return k in range(q // width * width, (q // width + 1) * width)


dhvt = formula(
    "vision/dhvt",
    case(1 + 12 + 3, sizes={"class": 1, "y": 3, "x": 4, "head_token": 3}),
    case(1 + 10 + 1, sizes={"class": 1, "y": 2, "x": 5, "head_token": 1}),
    pattern="dhvt",
)(everything)


@formula(
    "vision/dual_cross_attention",
    image(4, 5, selected=bools(1, 20)),
    image(3, 7, selected=bools(2, 2, 21, p=0.2), batch=2, batched=["selected"]),
)
def global_local(c: Here, q: int, k: int) -> bool:
    return bool(c["selected"][q])


pair_wise = formula(
    "vision/dual_cross_attention",
    case(12, 12 + 9, sizes={"first": 12, "second": 9}),
    case(5, 10, sizes={"first": 5, "second": 5}),
    pattern="pair_wise",
    cross=True,
)(everything)
latent_reads = formula(
    "vision/dynamic_perceiver",
    case(6, 20, sizes={"y": 4, "x": 5}),
    case(1, 9, sizes={"y": 3, "x": 3}),
    pattern="latent_reads",
    cross=True,
)(everything)
feature_reads = formula(
    "vision/dynamic_perceiver",
    case(20, 6, sizes={"y": 4, "x": 5}),
    case(9, 1, sizes={"y": 3, "x": 3}),
    pattern="feature_reads",
    cross=True,
)(everything)
efficient_probing = formula(
    "vision/efficient_probing",
    case(2, 20, sizes={"y": 4, "x": 5}),
    case(1, 21, sizes={"y": 3, "x": 7}),
    pattern="efficient_probing",
    cross=True,
)(everything)


POSES = (
    case(5 * 4, sizes={"instance": 5, "kind": 4}),
    case(2 * 18, sizes={"instance": 2, "kind": 18}),
    case(7, sizes={"instance": 7, "kind": 1}),
)


@formula("vision/group_pose", *POSES)
def within_instance(c: Here, q: int, k: int) -> bool:
    start = q - q % c.size("kind")
    return start <= k < start + c.size("kind")


@formula("vision/group_pose", *POSES)
def across_instances(c: Here, q: int, k: int) -> bool:
    return abs(q - k) % c.size("kind") == 0


@formula("vision/group_pose", *POSES[:2])
def either(c: Here, q: int, k: int) -> bool:
    return within_instance.sees(c, q, k) or across_instances.sees(c, q, k)


@formula(
    "vision/hilo",
    case(24, 24 + 6, heads=3, sizes={"y": 4, "x": 6, "v": 2, "u": 3}, high_heads=1),
    case(35, 35 + 6, heads=2, sizes={"y": 5, "x": 7, "v": 2, "u": 3}, high_heads=1, side=3),
    cross=True,
)
def hilo(c: Here, q: int, k: int) -> bool:
    if c.h >= c["high_heads"]:
        return k >= c.nq
    if k >= c.nq:
        return False
    side, (y, x), (v, u) = c.get("side", 2), divide(q, c.size("x")), divide(k, c.size("x"))
    return y // side == v // side and x // side == u // side


CLASS_LAST = (case(12 + 1, sizes={"y": 3, "x": 4, "class": 1}), case(10 + 1, sizes={"y": 2, "x": 5, "class": 1}))


@formula("vision/illama", *CLASS_LAST)
def illama(c: Here, q: int, k: int) -> bool:
    return k <= q


@formula(
    "vision/illama",
    case(12 + 1, sizes={"y": 3, "x": 4, "class": 1}, open=0.5),
    case(10 + 1, sizes={"y": 2, "x": 5, "class": 1}, open=0.0),
    case(10 + 1, sizes={"y": 2, "x": 5, "class": 1}),
    score=lambda c, s, q, k: math.log(math.exp(s) * (1.0 if k <= q else c.get("open", 1.0))),
)
def illama_soft(c: Here, q: int, k: int) -> bool:
    return k <= q or c.get("open", 1.0) > 0


interformer = formula(
    "vision/interformer",
    case(3, 20, sizes={"y": 4, "x": 5}),
    case(1, 21, sizes={"y": 3, "x": 7}),
    pattern="interformer",
    cross=True,
)(everything)


SKELETON = (
    case(3 * 4, sizes={"frame": 3, "joint": 4}, joints=4, affinity=floats(1, 4, 4)),
    case(5 * 3, sizes={"frame": 5, "joint": 3}, joints=3, affinity=floats(2, 3, 3)),
)


@formula("vision/ktpformer", *SKELETON, score=lambda c, s, q, k: s + c["affinity"][q % c["joints"]][k % c["joints"]])
def spatial(c: Here, q: int, k: int) -> bool:
    return q // c.size("joint") == k // c.size("joint")


@formula(
    "vision/ktpformer",
    case(3 * 4, sizes={"frame": 3, "joint": 4}, frames=3, affinity=floats(1, 3, 3)),
    case(5 * 3, sizes={"frame": 5, "joint": 3}, frames=5, affinity=floats(2, 5, 5)),
    score=lambda c, s, q, k: s + c["affinity"][q // c.size("joint")][k // c.size("joint")],
)
def temporal(c: Here, q: int, k: int) -> bool:
    return (q - k) % c.size("joint") == 0


@formula("vision/lamamba_diff", image(6, 6, side=2), image(5, 7, side=3), image(9, 4))
def lamamba_diff(c: Here, q: int, k: int) -> bool:
    side, (y, x), (v, u) = c.get("side", 8), divide(q, c.size("x")), divide(k, c.size("x"))
    return math.floor(y / side) == math.floor(v / side) and math.floor(x / side) == math.floor(u / side)


@formula(
    "vision/multi_hmr",
    case(5, 12, batch=3, sizes={"y": 3, "x": 4}, persons=[2, 0, 5]),
    case(3, 21, sizes={"y": 3, "x": 7}, persons=[1]),
    cross=True,
)
def multi_hmr(c: Here, q: int, k: int) -> bool:
    return q in range(c["persons"][c.b])


condense = formula(
    "vision/multi_lane",
    case(6, 20, sizes={"task": 3, "summary": 2, "y": 4, "x": 5}),
    case(4, 21, sizes={"task": 1, "summary": 4, "y": 3, "x": 7}),
    pattern="condense",
    cross=True,
)(everything)


@formula(
    "vision/multi_lane",
    case(15, sizes={"task": 3, "member": 5}),
    case(14, sizes={"task": 7, "member": 2}),
)
def pathways(c: Here, q: int, k: int) -> bool:
    return divide(q, c.size("member"))[0] == divide(k, c.size("member"))[0]


position = formula("vision/multi_scale_self_guided", *IMAGES[:2], pattern="position")(everything)
channels = formula("vision/multi_scale_self_guided", case(8), case(11), pattern="channels")(everything)
MUTUAL = (case(20, 20, sizes={"y": 4, "x": 5}), case(21, 21, sizes={"y": 3, "x": 7}))
colour_reads_depth = formula("vision/gl_dmnet", *MUTUAL, pattern="colour_reads_depth", cross=True)(everything)
depth_reads_colour = formula("vision/gl_dmnet", *MUTUAL, pattern="depth_reads_colour", cross=True)(everything)
rgb_channels = formula("vision/gl_dmnet", case(8, 8), case(5, 9), pattern="channels", cross=True)(everything)
TWO_GRIDS = (
    case(20, 12, sizes={"y": 4, "x": 5, "v": 3, "u": 4}),
    case(9, 21, sizes={"y": 3, "x": 3, "v": 3, "u": 7}),
)
pama = formula("vision/pama", *TWO_GRIDS, pattern="pama", cross=True)(everything)
restoreformer = formula("vision/restoreformer", *TWO_GRIDS, pattern="restoreformer", cross=True)(everything)
fusion_reads = formula("vision/segmif", *TWO_GRIDS, pattern="fusion_reads", cross=True)(everything)
semantic_reads = formula(
    "vision/segmif",
    case(12, 20, sizes={"y": 4, "x": 5, "v": 3, "u": 4}),
    case(21, 9, sizes={"y": 3, "x": 3, "v": 3, "u": 7}),
    pattern="semantic_reads",
    cross=True,
)(everything)


@formula(
    "vision/rasm",
    image(6, 7, shadow=bools(1, 42), reach=2),
    image(5, 9, shadow=bools(2, 2, 45), reach=1, batch=2, batched=["shadow"]),
)
def rasm(c: Here, q: int, k: int) -> bool:
    if not c["shadow"][q] or c["shadow"][k]:
        return False
    (y, x), (v, u) = divide(q, c.size("x")), divide(k, c.size("x"))
    return max(abs(y - v), abs(x - u)) <= c["reach"]


@formula(
    "vision/region_attention",
    image(6, 7, region=ints(1, 0, 4, 42)),
    image(5, 9, region=ints(2, -2, 30, 2, 45), batch=2, batched=["region"]),
)
def region_attention(c: Here, q: int, k: int) -> bool:
    return k in np.flatnonzero(c["region"] == c["region"][q])


def tcpa_case(height: int, width: int, class_prompts: int, image_prompts: int, groups: int) -> Case:
    nq = 1 + height * width
    sizes = {"class": 1, "image": height * width, "class_prompt": class_prompts, "image_prompt": image_prompts}
    nk = nq + class_prompts + image_prompts
    return case(nq, nk, sizes=sizes, wanted=ints(1, 0, groups, nq), group=ints(2, 0, groups, nk))


@formula("vision/tcpa", tcpa_case(3, 4, 2, 6, 3), tcpa_case(2, 5, 1, 5, 2), cross=True)
def tcpa(c: Here, q: int, k: int) -> bool:
    if k < c.nq:
        return True
    if k < c.nq + c.size("class_prompt"):
        return q == 0
    return q > 0 and c["wanted"][q] == c["group"][k]


transposed = formula("vision/textpromptir", case(8), case(11), pattern="transposed")(everything)
text_guidance = formula(
    "vision/textpromptir",
    case(20, 7, sizes={"y": 4, "x": 5}),
    case(21, 1, sizes={"y": 3, "x": 7}),
    pattern="text_guidance",
    cross=True,
)(everything)


@formula("vision/tic", image(6, 7, half_y=1, half_x=2), image(7, 8, half_y=2, half_x=1, gap_y=2, gap_x=3), image(5, 9))
def msa_conv(c: Here, q: int, k: int) -> bool:
    (y, x), (v, u) = divide(q, c.size("x")), divide(k, c.size("x"))
    taps_y = [y + i * c.get("gap_y", 1) for i in range(-c.get("half_y", 3), c.get("half_y", 3) + 1)]
    taps_x = [x + i * c.get("gap_x", 1) for i in range(-c.get("half_x", 3), c.get("half_x", 3) + 1)]
    return v in taps_y and u in taps_x


@formula(
    "vision/tic",
    image(6, 7, heads=2, half=1, shift_y=[2, -1], shift_x=[0, 3]),
    image(5, 8, heads=3, half=2, shift_y=[0, 5, -7], shift_x=[0, 1, 9]),
)
def cyclic_shift(c: Here, q: int, k: int) -> bool:
    grid = np.arange(c.nk).reshape(c.size("y"), c.size("x"))
    rolled = np.roll(grid, (c["shift_y"][c.h], c["shift_x"][c.h]), axis=(0, 1))
    y, x = divide(q, c.size("x"))
    half = c["half"]
    return k in rolled[max(0, y - half) : y + half + 1, max(0, x - half) : x + half + 1]


inter_pooling = formula(
    "vision/tic",
    case(20, 6, sizes={"y": 4, "x": 5, "v": 2, "u": 3}),
    case(21, 4, sizes={"y": 3, "x": 7, "v": 1, "u": 4}),
    pattern="inter_pooling",
    cross=True,
)(everything)
self_attention = formula("vision/unifying_aggregation", *IMAGES[:2], pattern="self_attention")(everything)
cross_attention = formula(
    "vision/unifying_aggregation",
    case(20, 12, sizes={"y": 4, "x": 5, "v": 3, "u": 4}, cost=floats(1, 20, 12)),
    case(9, 21, sizes={"y": 3, "x": 3, "v": 3, "u": 7}, cost=floats(1, 2, 9, 21), batch=2, batched=["cost"]),
    pattern="cross_attention",
    cross=True,
    score=lambda c, s, q, k: s + c["cost"][q][k],
)(everything)
