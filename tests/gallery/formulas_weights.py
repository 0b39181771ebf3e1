"""Dense formulas of examples/gallery/weights: normalisers, sinks, and what becomes of outputs."""

from __future__ import annotations

import math

import numpy as np

from gallery.cases import Case, Here, bools, case, divide, floats, formula, image, ints, normals
from gallery.formulas_scores import everything, made_to_sum_to_1, row, the_past


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def scaled_case(name: str, n_q: int, n: int, heads: int, batch: int, seed: int) -> Case:
    return case(n_q, n, heads=heads, batch=batch, batched=[name], **{name: normals(seed, batch, n_q, heads)})


affine_scaled = formula(
    "weights/affine_scaled",
    scaled_case("scale", 12, 12, 2, 2, 1),
    scaled_case("scale", 2, 9, 1, 1, 2),
    pattern="scaled",
    output=lambda c, o, q: float(c["scale"][row(c, q)][c.h]) * o,
)(the_past)

# The weight of every key is the shift, which does not depend on the key: times the sum of the values.
affine_shifted = formula(
    "weights/affine_scaled",
    scaled_case("shift", 12, 12, 2, 2, 1),
    scaled_case("shift", 2, 9, 1, 1, 2),
    pattern="shifted",
    weights=lambda c, s, q, k: np.ones(len(k)),
    output=lambda c, o, q: float(c["shift"][row(c, q)][c.h]) * o,
)(the_past)


magnitudes = formula(
    "weights/cog_attention",
    case(12, heads=2),
    case(2, 9),
    pattern="magnitudes",
    score=lambda c, s, q, k: math.sqrt(s * s),
)(the_past)


def sums_of_magnitudes(c: Case, s: np.ndarray) -> dict[str, np.ndarray]:
    return {"total": np.log((np.exp(abs(s)) * np.tri(c.q_len, c.k_len, c.k_len - c.q_len)).sum(axis=3))}


def of_sign(sign: int, s: np.ndarray) -> np.ndarray:
    return np.where(np.sign(s) == sign, np.exp(abs(s)) / np.exp(abs(s)).sum(), 0)


added = formula(
    "weights/cog_attention",
    case(12, heads=2, total=np.zeros((1, 2, 12)), batched=["total"]),
    case(2, 9, batch=2, total=np.zeros((2, 1, 2)), batched=["total"]),
    pattern="added",
    weights=lambda c, s, q, k: of_sign(1, s),
    before=sums_of_magnitudes,
)(the_past)

deleted = formula(
    "weights/cog_attention",
    case(12, heads=2, total=np.zeros((1, 2, 12)), batched=["total"]),
    case(2, 9, batch=2, total=np.zeros((2, 1, 2)), batched=["total"]),
    pattern="deleted",
    weights=lambda c, s, q, k: of_sign(-1, s),
    before=sums_of_magnitudes,
)(the_past)


sending = formula("weights/dependency_vit", image(3, 4), image(5, 2), pattern="sending")(everything)


def sums_of_senders(c: Case, s: np.ndarray) -> dict[str, np.ndarray]:
    """``s`` has receivers in rows: a sender's exponentials are those of a column."""
    return {"sent": np.log(np.exp(s).sum(axis=2))}


def no_sums(height: int, width: int, heads: int, batch: int) -> Case:
    sent = np.zeros((batch, heads, height * width))
    return image(height, width, heads=heads, batch=batch, sent=sent, batched=["sent"])


receiving = formula(
    "weights/dependency_vit",
    no_sums(3, 4, 2, 2),
    no_sums(5, 2, 1, 1),
    pattern="receiving",
    weights=lambda c, s, q, k: np.exp(s) / np.exp(c["sent"][c.h][k]),
    before=sums_of_senders,
)(everything)


sparse_global = formula(
    "weights/dlgsanet",
    case(12, heads=2, sizes={"channel": 12}, temperature=floats(1, 2)),
    case(7, heads=1, sizes={"channel": 7}, temperature=normals(2, 1)),
    pattern="sparse_global",
    weights=lambda c, s, q, k: np.where(c["temperature"][c.h] * s > 0, c["temperature"][c.h] * s, 0),
)(everything)


def filtered(c: Here, s: float, q: int, k: int) -> float:
    (qy, qx), (ky, kx) = divide(q, c.size("x")), divide(k, c.size("x"))
    return float(c["filter"][c.h][q][3 + ky - qy, 3 + kx - qx])


@formula(
    "weights/dlgsanet",
    image(5, 9, heads=2, filter=normals(1, 2, 45, 7, 7)),
    image(9, 4, filter=normals(2, 1, 36, 7, 7)),
    score=filtered,
)
def dynamic_local(c: Here, q: int, k: int) -> bool:
    (qy, qx), (ky, kx) = divide(q, c.size("x")), divide(k, c.size("x"))
    return max(abs(qy - ky), abs(qx - kx)) <= 7 // 2


gated_attention = formula(
    "weights/gated_attention",
    scaled_case("gate", 12, 12, 2, 2, 1),
    scaled_case("gate", 1, 9, 3, 2, 2),
    pattern="gated_attention",
    output=lambda c, o, q: o * sigmoid(c["gate"][row(c, q)][c.h]),
)(the_past)


def drawn_case(height: int, width: int, text: int, layer: int, seed: int) -> Case:
    strength = np.random.default_rng(seed).random((3, 2))
    return case(
        text + height * width, heads=2, layer=layer, sizes={"text": text, "y": height, "x": width}, strength=strength
    )


head_map = formula(
    "weights/headhunter",
    drawn_case(3, 4, 5, 1, 1),
    drawn_case(4, 2, 1, 2, 2),
    pattern="map",
    output=lambda c, o, q: o - float(c["strength"][c.layer][c.h]) * o,
)(everything)


@formula(
    "weights/headhunter",
    drawn_case(3, 4, 5, 1, 1),
    drawn_case(4, 2, 1, 2, 2),
    output=lambda c, o, q: float(c["strength"][c.layer][c.h]) * o,
)
def identity(c: Here, q: int, k: int) -> bool:
    return k == q


in_context_brush = formula(
    "weights/in_context_brush",
    case(3 + 4 + 12, heads=2, sizes={"text": 3, "v": 2, "u": 2, "y": 3, "x": 4}, importance=floats(1, 2)),
    case(1 + 3 + 4, heads=3, sizes={"text": 1, "v": 3, "u": 1, "y": 2, "x": 2}, importance=floats(2, 3)),
    pattern="in_context_brush",
    output=lambda c, o, q: o * float(c["importance"][c.h]),
)(everything)


limitations_of_normalization = formula(
    "weights/limitations_of_normalization",
    case(13, heads=2, temperature=0.25),
    case(3, 12),
    pattern="limitations_of_normalization",
    weights=lambda c, s, q, k: made_to_sum_to_1(np.exp(s) ** (1 / c.get("temperature", 1.0))),
)(the_past)


soft_injection = formula(
    "weights/soft_injection",
    case(12, heads=2, layer=1, share=floats(1, 2, 2)),
    case(1, 9, heads=3, layer=0, batch=2, share=floats(2, 4, 3)),
    pattern="soft_injection",
    output=lambda c, o, q: o * (1 - float(c["share"][c.layer][c.h])),
)(the_past)


def softplus_weights(c: Here, s: np.ndarray, q: int, k: np.ndarray) -> np.ndarray:
    weights = np.logaddexp(0, np.log(q + 1) * s)
    return made_to_sum_to_1(made_to_sum_to_1(weights) ** c.get("sharpness", 1.0))


softplus_reweighting = formula(
    "weights/softplus_reweighting",
    case(14, heads=2, sharpness=3.0),
    case(3, 12),
    # Scores of many thousand tokens, some of them below -15.
    case(2, 4000),
    pattern="softplus_reweighting",
    weights=softplus_weights,
)(the_past)


@formula(
    "weights/tab",
    case(3, 20, sizes={"y": 4, "x": 5}, nothing=normals(1, 3), shown=bools(2, 20)),
    case(1, 9, sizes={"y": 3, "x": 3}, nothing=normals(3, 1), shown=np.zeros(9, dtype=bool)),
    case(2, 6, sizes={"y": 2, "x": 3}, batch=2, nothing=normals(4, 2), shown=bools(5, 2, 6), batched=["shown"]),
    cross=True,
    weights=lambda c, s, q, k: np.exp(s) / (np.exp(s).sum() + np.exp(c["nothing"][q])),
)
def tab(c: Here, q: int, k: int) -> bool:
    return bool(c["shown"][k])


reinforced = formula(
    "weights/vhr",
    case(12, heads=2, layer=1, gain=floats(1, 3, 2)),
    case(1, 9, heads=3, layer=0, gain=floats(2, 1, 3)),
    pattern="reinforced",
    output=lambda c, o, q: float(c["gain"][c.layer][c.h]) * o,
)(the_past)


@formula(
    "weights/vhr", case(15, picture=bools(1, 15)), case(3, 12, batch=2, picture=bools(2, 2, 12), batched=["picture"])
)
def without_picture(c: Here, q: int, k: int) -> bool:
    return k <= q and not c["picture"][k]


TEXT, SINK, VISUAL = range(3)


@formula("weights/visual_attention_sink", case(14, kind=ints(1, 0, 3, 14)), case(3, 12, kind=ints(2, 0, 3, 12)))
def sinks_only(c: Here, q: int, k: int) -> bool:
    return k <= q and c["kind"][k] == SINK


@formula("weights/visual_attention_sink", case(14, kind=ints(1, 0, 3, 14)), case(3, 12, kind=ints(2, 0, 3, 12)))
def visual_only(c: Here, q: int, k: int) -> bool:
    return k <= q and c["kind"][k] == VISUAL


def sinks_over_visual(c: Case, s: np.ndarray) -> dict[str, np.ndarray]:
    seen = np.exp(s) * np.tri(c.q_len, c.k_len, c.k_len - c.q_len)
    kind = c.values["kind"]
    return {"ratio": seen[..., kind == SINK].sum(-1) / seen[..., kind == VISUAL].sum(-1)}


def moved_weights(c: Here, s: np.ndarray, q: int, k: np.ndarray) -> np.ndarray:
    """What the sinks lose is what the visual tokens get, each its share."""
    weights, kind = made_to_sum_to_1(np.exp(s)), c["kind"][k]
    if not c["image_centric"][c.h]:
        return weights
    moved = c.get("moved", 0.5) * weights[kind == SINK].sum()
    visual = weights * (kind == VISUAL)
    kept = np.where(kind == SINK, (1 - c.get("moved", 0.5)) * weights, weights)
    return np.asarray(kept + moved * visual / visual.sum())


def sink_case(n_q: int, n: int, batch: int, seed: int, **more: float) -> Case:
    return case(
        n_q,
        n,
        heads=2,
        batch=batch,
        kind=np.concatenate([[VISUAL], ints(seed, 0, 3, n - 1)]),
        image_centric=[True, False],
        ratio=np.zeros((batch, 2, n_q)),
        batched=["ratio"],
        **more,
    )


redistributed = formula(
    "weights/visual_attention_sink",
    sink_case(14, 14, 2, 1),
    sink_case(3, 12, 1, 2, moved=0.9),
    pattern="redistributed",
    weights=moved_weights,
    before=sinks_over_visual,
)(the_past)
