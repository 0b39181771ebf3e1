"""Dense formulas of examples/gallery/steering: what is looked at more, and what less, as somebody wishes."""

from __future__ import annotations

from typing import Any

import numpy as np

from gallery.cases import Case, Here, bools, case, divide, floats, formula, image, ints, normals
from gallery.formulas_scores import everything, made_to_sum_to_1, the_past


def words_case(height: int, width: int, words: int, **more: Any) -> Case:
    """An image reads words."""
    return case(height * width, words, sizes={"y": height, "x": width}, **more)


def frames_case(frames: int, height: int, width: int, words: int, **more: Any) -> Case:
    """A video reads words."""
    return case(frames * height * width, words, sizes={"frame": frames, "y": height, "x": width}, **more)


def multiplied(c: Here, s: np.ndarray, q: int, k: np.ndarray) -> np.ndarray:
    """Each key's weight is multiplied, and all are made to sum to 1 again."""
    return made_to_sum_to_1(np.exp(s) * c["weight"][k])


attention_regulation = formula(
    "steering/attention_regulation",
    words_case(4, 5, 6, heads=2, edit=normals(1, 2, 20, 6)),
    words_case(3, 3, 9, edit=normals(2, 1, 9, 9)),
    pattern="attention_regulation",
    cross=True,
    score=lambda c, s, q, k: s + float(c["edit"][c.h][q][k]),
)(everything)

cut_and_paste = formula(
    "steering/cut_and_paste", frames_case(2, 3, 3, 5), frames_case(3, 2, 2, 8), pattern="cut_and_paste", cross=True
)(everything)


def trajectory_case(text: int, frames: int, height: int, width: int, seed: int) -> Case:
    n = text + frames * height * width
    return case(n, sizes={"text": text, "frame": frames, "y": height, "x": width}, side=ints(seed, 0, 2, n))


@formula("steering/ditraj", trajectory_case(6, 2, 3, 3, 1), trajectory_case(9, 3, 2, 2, 2))
def ditraj(c: Here, q: int, k: int) -> bool:
    text = c.size("text")
    if (q < text) != (k < text):
        return bool(c["side"][q] == c["side"][k])
    return True


fixing_imbalanced = formula(
    "steering/fixing_imbalanced",
    case(12, heads=2, layer=1, selected=bools(1, 12), gain=floats(2, 2, 2)),
    case(2, 11, heads=2, batch=2, selected=bools(3, 2, 11), batched=["selected"], gain=2 * floats(4, 1, 2)),
    pattern="fixing_imbalanced",
    weights=lambda c, s, q, k: made_to_sum_to_1(np.exp(s) * np.where(c["selected"][k], c["gain"][c.layer][c.h], 1)),
)(the_past)


def moved_query(c: Here, s: np.ndarray, q: int, k: np.ndarray) -> np.ndarray:
    """(q + strength d) k = q k + strength d k, in contextual heads."""
    strength = c["strength"][c.h] if c["contextual"][c.h] else 0.0
    return made_to_sum_to_1(np.exp(s) * np.exp(c["along"][c.h][k]) ** strength)


def focus_case(n_q: int, n: int, batch: int, seed: int) -> Case:
    return case(
        n_q,
        n,
        heads=2,
        batch=batch,
        contextual=[False, True],
        strength=floats(seed, 2),
        along=normals(seed + 1, batch, 2, n),
        batched=["along"],
    )


focus_directions = formula(
    "steering/focus_directions",
    focus_case(12, 12, 2, 1),
    focus_case(2, 9, 1, 3),
    pattern="focus_directions",
    weights=moved_query,
)(the_past)


one_image = formula("steering/freecontrol", image(4, 5), image(3, 3), pattern="one_image")(everything)


@formula(
    "steering/freecontrol",
    words_case(4, 5, 18, region=ints(1, 0, 3, 20), reference=np.repeat(np.arange(3), 6)),
    words_case(3, 3, 8, region=ints(2, 0, 2, 9), reference=np.repeat(np.arange(2), 4)),
    cross=True,
)
def composed(c: Here, q: int, k: int) -> bool:
    return k in np.flatnonzero(c["reference"] == c["region"][q])


IMAGE, QUESTION = range(2)


def gaze_weights(c: Here, s: np.ndarray, q: int, k: np.ndarray) -> np.ndarray:
    role = c["role"][k]
    visual = np.where(role == IMAGE, 1 + c.get("boost", 1.0) * c["saliency"][k], 1.0)
    return made_to_sum_to_1(np.exp(s) * visual * np.where(role == QUESTION, c.get("emphasis", 1.0), 1.0))


gift = formula(
    "steering/gift",
    case(1, 14, heads=2, role=ints(1, 0, 3, 14), saliency=floats(2, 14), boost=3.0, emphasis=2.0),
    case(12, batch=2, role=ints(3, 0, 3, 2, 12), saliency=floats(4, 2, 12), batched=["role", "saliency"]),
    pattern="gift",
    weights=gaze_weights,
)(the_past)


def around_group_bias(c: Here, s: float, q: int, k: int) -> float:
    """The product with bias + scale (key - bias), where ``toward`` is that with the bias and s that with the key."""
    text, pixels = c.size("text"), c.size("y") * c.size("x")
    group = int(np.searchsorted([text, text + pixels], k, side="right"))
    bias = float(c["toward"][c.h][q][group])
    return bias + float(c["scale"][group]) * (s - bias)


def grag_case(text: int, y: int, x: int, v: int, u: int, heads: int, batch: int, seed: int) -> Case:
    n = text + y * x + v * u
    return case(
        n,
        heads=heads,
        batch=batch,
        sizes={"text": text, "y": y, "x": x, "v": v, "u": u},
        scale=2 * floats(seed, 3),
        toward=normals(seed + 1, batch, heads, n, 3),
        batched=["toward"],
    )


grag = formula(
    "steering/grag",
    grag_case(3, 2, 3, 2, 2, 2, 2, 1),
    grag_case(1, 3, 2, 1, 4, 1, 1, 3),
    pattern="grag",
    score=around_group_bias,
)(everything)


locatedit_words = formula("steering/locatedit", words_case(4, 5, 6), words_case(3, 3, 9), pattern="words", cross=True)(
    everything
)
locatedit_patches = formula("steering/locatedit", image(4, 5), image(3, 3), pattern="patches")(everything)


motion_frames = formula(
    "steering/motionclr", case(14, sizes={"frame": 14}), case(9, sizes={"frame": 9}), pattern="frames"
)(everything)
motion_words = formula(
    "steering/motionclr",
    case(12, 5, heads=2, sizes={"frame": 12, "word": 5}, weight=2 * floats(1, 5)),
    case(7, 9, sizes={"frame": 7, "word": 9}, batch=2, weight=floats(2, 2, 9), batched=["weight"]),
    pattern="words",
    cross=True,
    weights=multiplied,
)(everything)


def played_down(c: Here, s: np.ndarray, q: int, k: np.ndarray) -> np.ndarray:
    weights = made_to_sum_to_1(np.exp(s))
    if c["steered"][c.h]:
        weights = np.where(c["marked"][k], weights, c.get("alpha", 0.01) * weights)
    return made_to_sum_to_1(weights)


pasta = formula(
    "steering/pasta",
    case(12, heads=2, steered=[True, False], marked=bools(1, 12, p=0.3)),
    case(2, 14, heads=2, batch=2, steered=[False, True], marked=bools(2, 2, 14), batched=["marked"], alpha=0.2),
    pattern="pasta",
    weights=played_down,
)(the_past)


def layout_case(height: int, width: int, words: int, objects: int, seed: int, described: bool) -> Case:
    more = {"described": ints(seed + 1, 0, objects, words)} if described else {}
    regions = ints(seed, -1, objects, height * width)
    return words_case(
        height, width, words, heads=2, objects=objects, object=regions, blend=floats(seed + 2, objects) / 2, **more
    )


global_description = formula(
    "steering/layout_blend",
    layout_case(4, 5, 6, 3, 1, described=False),
    layout_case(3, 3, 9, 2, 4, described=False),
    pattern="global_description",
    cross=True,
    output=lambda c, o, q: o - (float(c["blend"][c["object"][q]]) * o if c["object"][q] != -1 else 0.0),
)(everything)


@formula(
    "steering/layout_blend",
    layout_case(4, 5, 6, 3, 1, described=True),
    layout_case(3, 3, 9, 2, 4, described=True),
    cross=True,
    # Without an object nothing is read, and o is 0.
    output=lambda c, o, q: o * float(c["blend"][max(0, c["object"][q])]),
)
def local_description(c: Here, q: int, k: int) -> bool:
    return c["object"][q] != -1 and c["described"][k] == c["object"][q]


modulated_self = formula(
    "steering/attention_modulation",
    image(4, 5, heads=2, early=True, temperature=2.5),
    image(3, 3, early=False, temperature=2.5),
    image(3, 4, early=True),
    pattern="self_attention",
    weights=lambda c, s, q, k: made_to_sum_to_1(np.exp(s) ** (1 / c.get("temperature", 1.0) if c["early"] else 1)),
)(everything)


@formula(
    "steering/attention_modulation",
    words_case(4, 5, 8, object=ints(1, -1, 3, 20), entity=ints(2, -1, 3, 8), weight=np.array([1.7])),
    words_case(3, 3, 9, object=ints(3, -1, 2, 9), entity=ints(4, -1, 2, 9), weight=np.array([0.4])),
    pattern="cross_attention",
    cross=True,
    weights=lambda c, s, q, k: made_to_sum_to_1(np.exp(s) * np.where(c["entity"][k] < 0, 1, c["weight"][0])),
)
def modulated_cross(c: Here, q: int, k: int) -> bool:
    return c["entity"][k] in (-1, c["object"][q])


astigmatism = formula(
    "steering/astigmatism",
    image(4, 5, object=normals(1, 20), background=normals(2, 20), pull=2.0, push=0.5),
    image(3, 3, heads=2, object=normals(3, 9), background=normals(4, 9)),
    pattern="astigmatism",
    score=lambda c, s, q, k: (
        s + float(c["object"][k]) * c.get("pull", 1.0) - float(c["background"][k]) * c.get("push", 1.0)
    ),
)(everything)


def answer_case(answers: int, rows: int, columns: int, **more: Any) -> Case:
    return case(answers, rows * columns, sizes={"y": rows, "x": columns}, **more)


v2p_attention = formula("steering/v2p", answer_case(3, 4, 5), answer_case(1, 6, 3), pattern="attention", cross=True)(
    everything
)


def box_case(answers: int, rows: int, columns: int, seed: int, **more: float) -> Case:
    box = {name: 3 * floats(seed + i, answers) for i, name in enumerate(("top", "left", "height", "width"))}
    return answer_case(answers, rows, columns, **box, **more)


def gaussian_on_box(c: Here, s: np.ndarray, q: int, k: np.ndarray) -> np.ndarray:
    """The density at the middle of every patch, of a Gaussian around the middle of the box."""
    y, x = np.array([divide(int(i), c.size("x")) for i in k]).T + 0.5
    middle_y, middle_x = c["top"][q] + c["height"][q] / 2, c["left"][q] + c["width"][q] / 2
    variance_y, variance_x = (np.square(c.get("spread", 0.25) * c[side][q]) for side in ("height", "width"))
    # Less the nearest patch's exponent, so that those of a small box are above 0 at all.
    exponent = (y - middle_y) ** 2 / (2 * variance_y) + (x - middle_x) ** 2 / (2 * variance_x)
    return made_to_sum_to_1(np.exp(exponent.min() - exponent))


v2p_target = formula(
    "steering/v2p",
    box_case(3, 4, 5, 1, spread=0.5),
    box_case(2, 6, 6, 5),
    pattern="target",
    cross=True,
    weights=gaussian_on_box,
)(everything)


video_p2p = formula(
    "steering/video_p2p",
    frames_case(2, 3, 3, 5, heads=2, weight=3 * floats(1, 5)),
    frames_case(3, 2, 2, 8, batch=2, weight=floats(2, 2, 8), batched=["weight"]),
    pattern="video_p2p",
    cross=True,
    weights=multiplied,
)(everything)


def within_region(c: Here, s: float, q: int, k: int) -> float:
    if c["region"][q] == c["region"][k]:
        return s + float(c.get("raised", 1.0))
    return s - float(c.get("lowered", 1.0))


grain_case = {"frame": 2, "y": 3, "x": 3}
videograin_self = formula(
    "steering/videograin",
    case(18, sizes=grain_case, region=ints(1, 0, 3, 18), raised=0.5, lowered=2.0),
    case(18, sizes=grain_case, heads=2, batch=2, region=ints(2, 0, 2, 2, 18), batched=["region"]),
    pattern="self_attention",
    score=within_region,
)(everything)


def with_own_prompt(c: Here, s: float, q: int, k: int) -> float:
    if c["prompt"][k] == -1:
        return s
    own = c["prompt"][k] == c["region"][q]
    return s + float(c.get("raised", 1.0)) if own else s - float(c.get("lowered", 1.0))


videograin_cross = formula(
    "steering/videograin",
    frames_case(2, 3, 3, 7, region=ints(1, 0, 3, 18), prompt=ints(2, -1, 3, 7), raised=0.5, lowered=2.0),
    frames_case(3, 2, 2, 8, heads=2, region=ints(3, 0, 2, 12), prompt=ints(4, -1, 2, 8)),
    pattern="cross_attention",
    cross=True,
    score=with_own_prompt,
)(everything)


zero_to_hero = formula(
    "steering/zero_to_hero",
    case(12, 8 + 12, sizes={"y": 3, "x": 4, "v": 2, "u": 4}),
    case(9, 9 + 9, sizes={"y": 3, "x": 3, "v": 3, "u": 3}),
    pattern="zero_to_hero",
    cross=True,
)(everything)
