"""Dense formulas of examples/gallery/generation and examples/gallery/video."""

from __future__ import annotations

import itertools
import math

import numpy as np

from gallery.cases import Case, Here, bools, case, divide, floats, formula, ints, neighbours


def everything(c: Here, q: int, k: int) -> bool:
    return True


TEXT = (case(20, 6, sizes={"y": 4, "x": 5}), case(21, 1, sizes={"y": 3, "x": 7}))
text_module = formula("generation/autostudio", *TEXT, pattern="text_module", cross=True)(everything)


def boxes(seed: int, height: int, width: int, *shape: int) -> dict[str, np.ndarray]:
    top, left = ints(seed, 0, height, *shape), ints(seed + 1, 0, width, *shape)
    tall, wide = ints(seed + 2, 1, height + 1, *shape), ints(seed + 3, 1, width + 1, *shape)
    return {"top": top, "left": left, "bottom": top + tall, "right": left + wide}


@formula(
    "generation/autostudio",
    case(20, 6, sizes={"y": 4, "x": 5}, **boxes(1, 4, 5, 6)),
    case(42, 9, sizes={"y": 6, "x": 7}, batch=2, batched=("top", "left", "bottom", "right"), **boxes(9, 6, 7, 2, 9)),
    cross=True,
)
def subject_module(c: Here, q: int, k: int) -> bool:
    return in_box(c, q, k)


def in_box(c: Here, token: int, owner: int) -> bool:
    y, x = divide(token, c.size("x"))
    return y in range(c["top"][owner], c["bottom"][owner]) and x in range(c["left"][owner], c["right"][owner])


def upscale_case(height: int, width: int, regions: int, words: int, regional: int) -> Case:
    return case(
        height * width,
        words + regional,
        sizes={"y": height, "x": width, "prompt": words, "regional": regional},
        regions=regions,
        words=words,
        region=ints(1, 0, regions, height * width),
        screened=bools(2, regions, words),
        owner=ints(3, 0, regions, words + regional),
    )


@formula("generation/c_upscale", upscale_case(4, 5, 3, 6, 8), upscale_case(3, 7, 2, 1, 4), cross=True)
def c_upscale(c: Here, q: int, k: int) -> bool:
    region = c["region"][q]
    return bool(c["screened"][region][k]) if k < c["words"] else c["owner"][k] == region


consistedit = formula(
    "generation/consistedit",
    case(5 + 24, sizes={"text": 5, "t": 2, "y": 3, "x": 4}),
    case(1 + 15, sizes={"text": 1, "t": 1, "y": 3, "x": 5}),
    pattern="consistedit",
)(everything)


def design_case(height: int, width: int, conditions: int, each: int, seed: int) -> Case:
    """``each`` tokens a condition; all tokens of a condition share its box."""
    n = height * width
    owner = np.concatenate([np.zeros(n, dtype=int), np.repeat(np.arange(conditions), each)])
    of_condition = boxes(seed, height, width, conditions)
    return case(
        n + conditions * each,
        sizes={"y": height, "x": width, "condition": conditions * each},
        condition_id=owner,
        **{name: values[owner] for name, values in of_condition.items()},
    )


@formula("generation/creatidesign", design_case(4, 5, 3, 4, 1), design_case(3, 7, 2, 1, 8), design_case(5, 5, 1, 6, 4))
def creatidesign(c: Here, q: int, k: int) -> bool:
    n = c.size("y") * c.size("x")
    if q < n and k < n:
        return True
    if q >= n and k >= n:
        return c["condition_id"][q] == c["condition_id"][k]
    return in_box(c, q, k) if q < n else in_box(c, k, q)


@formula(
    "generation/dreamtuner",
    case(20, 12 + 20, sizes={"y": 4, "x": 5, "v": 3, "u": 4}, foreground=bools(1, 32), gain=0.5),
    case(9, 21 + 9, sizes={"y": 3, "x": 3, "v": 3, "u": 7}, foreground=bools(2, 30)),
    cross=True,
    score=lambda c, s, q, k: math.log(math.exp(s) * (c.get("gain", 1.0) if k < c.nk - c.nq else 1.0)),
)
def dreamtuner(c: Here, q: int, k: int) -> bool:
    return k >= c.nk - c.nq or bool(c["foreground"][k])


far_attention = formula("generation/far", *TEXT, pattern="attention", cross=True)(everything)


@formula(
    "generation/far",
    case(20, 3, sizes={"y": 4, "x": 5}, region=ints(1, -1, 3, 20)),
    case(21, 2, sizes={"y": 3, "x": 7}, region=ints(2, -1, 2, 2, 21), batch=2, batched=["region"]),
    cross=True,
)
def target(c: Here, q: int, k: int) -> bool:
    return c["region"][q] == k


CUSTOM = tuple(
    case(
        own,
        own + refs * area,
        sizes={"y": own // x, "x": x, "reference": refs, "v": area // u, "u": u},
        concept=bools(own, own + refs * area),
        weight=floats(own, own + refs * area),
    )
    for own, x, refs, area, u in ((20, 5, 2, 12, 4), (9, 3, 3, 7, 7))
)


@formula(
    "generation/freecustom",
    *CUSTOM,
    cross=True,
    score=lambda c, s, q, k: math.log(math.exp(s) * (1.0 if k < c.nq else c["weight"][k])),
)
def freecustom(c: Here, q: int, k: int) -> bool:
    return k < c.nq or bool(c["concept"][k])


freecustom_scaled = formula(
    "generation/freecustom",
    *CUSTOM,
    pattern="freecustom_scaled",
    cross=True,
    score=lambda c, s, q, k: s * (1.0 if k < c.nq else c["weight"][k]),
)(freecustom.sees)


fulldit = formula(
    "generation/fulldit",
    case(6 + 24, sizes={"condition": 6, "t": 2, "y": 3, "x": 4}),
    case(1 + 15, sizes={"condition": 1, "t": 1, "y": 3, "x": 5}),
    pattern="fulldit",
)(everything)
first_text = formula("generation/imagine_yourself", *TEXT, pattern="first_text", cross=True)(everything)
second_text = formula("generation/imagine_yourself", *TEXT, pattern="second_text", cross=True)(everything)
third_text = formula("generation/imagine_yourself", *TEXT, pattern="third_text", cross=True)(everything)
vision = formula("generation/imagine_yourself", *TEXT, pattern="vision", cross=True)(everything)
union = formula(
    "generation/imagine_yourself",
    case(20, 14, sizes={"y": 4, "x": 5, "text_1": 3, "text_2": 4, "text_3": 5, "vision_token": 2}),
    case(9, 4, sizes={"y": 3, "x": 3, "text_1": 1, "text_2": 1, "text_3": 1, "vision_token": 1}),
    pattern="union",
    cross=True,
)(everything)


@formula(
    "generation/ir_diffusion",
    case(20, sizes={"y": 4, "x": 5}, subject=ints(1, 0, 4, 20)),
    case(21, sizes={"y": 3, "x": 7}, subject=ints(2, 0, 3, 2, 21), batch=2, batched=["subject"]),
)
def isolation(c: Here, q: int, k: int) -> bool:
    return len({int(c["subject"][q]), int(c["subject"][k])} - {0}) < 2


@formula(
    "generation/ir_diffusion",
    case(
        20,
        20 + 24,
        sizes={"y": 4, "x": 5, "image": 2, "v": 3, "u": 4},
        subject=ints(1, 0, 4, 20),
        label=ints(2, 0, 4, 44),
    ),
    case(
        9, 9 + 21, sizes={"y": 3, "x": 3, "image": 1, "v": 3, "u": 7}, subject=ints(3, 0, 3, 9), label=ints(4, 0, 3, 30)
    ),
    cross=True,
)
def reference(c: Here, q: int, k: int) -> bool:
    mine, other = int(c["subject"][q]), int(c["label"][k])
    if k < c.nq:
        return len({mine, other} - {0}) < 2
    return mine != 0 and mine == other


@formula(
    "generation/parts2whole",
    case(20, 20 + 24, sizes={"y": 4, "x": 5, "reference": 2, "v": 3, "u": 4}, subject_mask=bools(1, 44)),
    case(9, 9 + 21, sizes={"y": 3, "x": 3, "reference": 3, "v": 1, "u": 7}, subject_mask=bools(2, 30)),
    cross=True,
)
def parts2whole(c: Here, q: int, k: int) -> bool:
    return k in range(c.nq) or bool(c["subject_mask"][k])


def scales(*sides: int) -> list[int]:
    return [level for level, side in enumerate(sides) for _ in range(side * side)]


@formula(
    "generation/scaleweaver",
    case(6 + 14, sizes={"condition": 6, "image": 14}, scale=[0] * 6 + scales(1, 2, 3)),
    case(3 + 21, sizes={"condition": 3, "image": 21}, scale=[7] * 3 + scales(1, 2, 4)),
)
def scaleweaver(c: Here, q: int, k: int) -> bool:
    n = c.size("condition")
    if k < n:
        return True
    return q >= n and c["scale"][k] <= c["scale"][q]


video_full = formula(
    "video/ditctrl",
    case(5 + 24, sizes={"text": 5, "t": 2, "y": 3, "x": 4}),
    case(1 + 15, sizes={"text": 1, "t": 1, "y": 3, "x": 5}),
    pattern="full",
)(everything)


@formula(
    "video/ditctrl",
    case(
        2 + 12, 2 + 12 + 18, sizes={"text": 2, "t": 2, "y": 2, "x": 3, "r": 3, "v": 2, "u": 3}, foreground=bools(1, 32)
    ),
    case(1 + 8, 1 + 8 + 8, sizes={"text": 1, "t": 2, "y": 2, "x": 2, "r": 2, "v": 2, "u": 2}, foreground=bools(2, 17)),
    cross=True,
)
def shared(c: Here, q: int, k: int) -> bool:
    return k < c.nq or bool(c["foreground"][k])


def boxed(c: Here, s: float, q: int, k: int) -> float:
    t, y, x = divide(q, c.size("y"), c.size("x"))
    top, left, bottom, right = c["box"][t]
    held = k < c.size("v") * c.size("u") and not (top <= y < bottom and left <= x < right)
    return math.log(math.exp(s) * (c.get("outside", 0.5) if held else 1.0))


dreamvideo_2 = formula(
    "video/dreamvideo_2",
    case(24, 6 + 24, sizes={"t": 2, "y": 3, "x": 4, "v": 2, "u": 3}, frames=2, box=[[0, 1, 2, 3], [1, 0, 3, 4]]),
    case(30, 4 + 30, sizes={"t": 3, "y": 2, "x": 5, "v": 2, "u": 2}, frames=3, box=ints(1, 0, 5, 3, 4), outside=0.1),
    pattern="dreamvideo_2",
    cross=True,
    score=boxed,
)(everything)


@formula(
    "video/freeswim",
    case(60, sizes={"t": 3, "y": 4, "x": 5}, frames=2, height=3, width=3),
    case(70, sizes={"t": 5, "y": 2, "x": 7}, frames=3, height=2, width=4),
)
def freeswim(c: Here, q: int, k: int) -> bool:
    at, other = divide(q, c.size("y"), c.size("x")), divide(k, c.size("y"), c.size("x"))
    shape = zip("tyx", (c["frames"], c["height"], c["width"]), strict=True)
    return all(other[i] in neighbours(c.size(axis), at[i], size) for i, (axis, size) in enumerate(shape))


VIDEOS = (case(60, sizes={"t": 3, "y": 4, "x": 5}), case(42, sizes={"t": 7, "y": 2, "x": 3}))
freeswim_full = formula("video/freeswim", *VIDEOS, pattern="full")(everything)


@formula(
    "video/puppet_master",
    case(60, sizes={"frame": 3, "y": 4, "x": 5}),
    case(42, sizes={"frame": 7, "y": 2, "x": 3}),
)
def puppet_master(c: Here, q: int, k: int) -> bool:
    return k < c.size("y") * c.size("x")


words = formula(
    "video/realcraft",
    case(24, 5, sizes={"frame": 2, "y": 3, "x": 4}, gain=floats(1, 5)),
    case(30, 7, sizes={"frame": 3, "y": 2, "x": 5}, gain=floats(2, 2, 7), batch=2, batched=["gain"]),
    pattern="words",
    cross=True,
    score=lambda c, s, q, k: math.log(math.exp(s) * c["gain"][k]),
)(everything)


@formula(
    "video/realcraft",
    case(60, sizes={"frame": 5, "y": 3, "x": 4}),
    case(42, sizes={"frame": 7, "y": 2, "x": 3}, reach=2),
)
def spatial_temporal(c: Here, q: int, k: int) -> bool:
    area = c.size("y") * c.size("x")
    return abs(q // area - k // area) <= c.get("reach", 0)


KINDS = ["full", "diagonal", "multi_diagonal", "stripes", "skip"]


@formula(
    "video/sparse_vdit",
    case(48, heads=5, sizes={"t": 4, "y": 3, "x": 4}, kind=[[0, 1, 2, 3, 4]], column=bools(1, 48, p=0.2), width=1),
    case(50, heads=2, layer=1, sizes={"t": 5, "y": 2, "x": 5}, kind=[[0, 0], [2, 1]], column=bools(2, 50), width=3),
    case(24, heads=1, sizes={"t": 4, "y": 2, "x": 3}, kind=[[2]], column=bools(2, 24), width=0),
)
def sparse_vdit(c: Here, q: int, k: int) -> bool:
    kind, width, frame = KINDS[c["kind"][c.layer][c.h]], c["width"], c.size("y") * c.size("x")
    if kind == "multi_diagonal":
        return any(abs(q - k - frame * i) <= width for i in range(-c.size("t"), c.size("t") + 1))
    if kind == "stripes":
        return bool(c["column"][k])
    return kind == "full" or (kind == "diagonal" and abs(q - k) <= width)


@formula(
    "video/trajectory_attention",
    case(60, sizes={"t": 5, "y": 3, "x": 4}, track=ints(1, -1, 8, 60)),
    case(42, sizes={"t": 7, "y": 2, "x": 3}, track=ints(2, -1, 5, 2, 42), batch=2, batched=["track"]),
)
def along_track(c: Here, q: int, k: int) -> bool:
    return c["track"][q] != -1 and c["track"][q] == c["track"][k]


@formula("video/trajectory_attention", *VIDEOS)
def temporal(c: Here, q: int, k: int) -> bool:
    return (q - k) % (c.size("y") * c.size("x")) == 0


def in_frame(c: Here, position: int) -> tuple[int, int]:
    """The frame, and the place within it."""
    return divmod(position, c.size("y") * c.size("x"))


@formula(
    "video/sparse_videogen",
    case(
        3 + 40, heads=2, batch=2, sizes={"text": 3, "t": 4, "y": 2, "x": 5}, width=1,
        temporal=[[True, False], [False, False]], batched=["temporal"],
    ),
    case(
        1 + 36, heads=2, sizes={"text": 1, "t": 6, "y": 3, "x": 2}, near=2, width=0,
        temporal=[[False, True]], batched=["temporal"],
    ),
)  # fmt: skip
def sparse_videogen(c: Here, q: int, k: int) -> bool:
    text = c.size("text")
    if q < text or k < text + c.size("y") * c.size("x"):
        return True
    (frame, place), (other, there) = in_frame(c, q - text), in_frame(c, k - text)
    return abs(place - there) <= c["width"] if c["temporal"][c.h] else abs(frame - other) <= c.get("near", 1)


@formula(
    "video/radial_attention",
    case(88, sizes={"t": 11, "y": 2, "x": 4}),
    case(54, sizes={"t": 18, "y": 1, "x": 3}, sink=False),
    case(40, sizes={"t": 40, "y": 1, "x": 1}, sink=False),
    case(72, sizes={"t": 36, "y": 2, "x": 1}),
)
def radial_attention(c: Here, q: int, k: int) -> bool:
    (frame, place), (other, there) = in_frame(c, q), in_frame(c, k)
    tokens, apart = c.size("y") * c.size("x"), abs(frame - other)
    decay = 2 ** int(math.log2(max(apart, 1)))
    near = decay <= tokens and abs(place - there) + 1 <= tokens / decay
    diagonal = apart % math.ceil(decay / tokens) == 0 and place == there
    return near or diagonal or (other == 0 and c.get("sink", True))


@formula(
    "video/vsa",
    case(
        5 * 4 * 6, heads=2, batch=2, sizes={"t": 5, "y": 4, "x": 6}, cubes=4, chosen=bools(1, 2, 2, 4, 4),
        batched=["chosen"],
    ),
    case(
        3 * 4 * 5, sizes={"t": 3, "y": 4, "x": 5}, cubes=12, chosen=bools(2, 1, 1, 12, 12),
        batched=["chosen"], cube_t=2, cube_y=2, cube_x=2,
    ),
)  # fmt: skip
def vsa(c: Here, q: int, k: int) -> bool:
    def number(position: int) -> int:
        steps = [c.get(f"cube_{axis}", 4) for axis in "tyx"]
        at = divide(position, c.size("y"), c.size("x"))
        cubes = [[range(i, i + n) for i in range(0, c.size(axis), n)] for axis, n in zip("tyx", steps, strict=True)]
        every = list(itertools.product(*cubes))
        return next(i for i, cube in enumerate(every) if all(p in r for p, r in zip(at, cube, strict=True)))

    return bool(c["chosen"][c.h][number(q)][number(k)])


def scales(*sides: int) -> list[int]:
    return [i for i, side in enumerate(sides) for _ in range(side * side)]


@formula(
    "generation/var",
    case(55, level=scales(1, 2, 3, 4, 5)),
    case(25, 55, level=scales(1, 2, 3, 4, 5)),
    case(40, batch=2, level=[scales(1, 2, 3, 1, 5), scales(2, 6)], batched=["level"]),
)
def var(c: Here, q: int, k: int) -> bool:
    return k < sum(level <= c["level"][q] for level in c["level"])  # a prefix that ends with the query's scale


@formula(
    "generation/mar",
    case(4 + 30, sizes={"start": 4, "y": 5, "x": 6}, known=bools(1, 34)),
    case(1 + 28, sizes={"start": 1, "y": 4, "x": 7}, known=bools(2, 2, 29), batch=2, batched=["known"]),
)
def encoder(c: Here, q: int, k: int) -> bool:
    return k < c.size("start") or bool(c["known"][k])


@formula(
    "generation/mar",
    case(4 + 30, sizes={"start": 4, "y": 5, "x": 6}, rank=np.random.default_rng(1).permutation(34)),
    case(1 + 28, sizes={"start": 1, "y": 4, "x": 7}, rank=ints(2, 0, 6, 2, 29), batch=2, batched=["rank"]),
)
def random_order(c: Here, q: int, k: int) -> bool:
    start = c.size("start")
    return k < start or (q >= start and c["rank"][k] <= c["rank"][q])
