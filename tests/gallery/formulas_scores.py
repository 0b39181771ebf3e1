"""Dense formulas of examples/gallery/scores: what becomes of scores, mostly by place."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gallery.cases import Case, Here, bools, case, divide, floats, formula, image, normals


def everything(c: Here, q: int, k: int) -> bool:
    return True


def the_past(c: Here, q: int, k: int) -> bool:
    return k in range(q + 1)


def made_to_sum_to_1(weights: Any) -> np.ndarray:
    return np.asarray(weights) / np.sum(weights)


def row(c: Here, q: int) -> int:
    """Which of the queries stands at position ``q``; the last query is the last key."""
    return q - (c.nk - c.nq)


def robust_weights(c: Here, s: np.ndarray, q: int, k: np.ndarray) -> np.ndarray:
    """A key's state is carried on to the query's time: it fades, and its variance nears that of the process."""
    faded = math.exp(-c["decay"][c.h]) ** (c["time"][q] - c["time"][k])
    variance = c["process"][c.h] + (c["measurement"][c.h] - c["process"][c.h]) * faded**2
    # |q - faded k|^2, of which s is the product of q and k.
    residual = c["q_square"][c.h][row(c, q)] - 2 * faded * s + faded**2 * c["k_square"][c.h][k]
    precision = 1 / variance
    return made_to_sum_to_1(precision / (1 + precision * np.maximum(residual, 0) / c["robustness"][c.h]))


def filter_case(n_q: int, n: int, heads: int, batch: int, seed: int) -> Case:
    return case(
        n_q,
        n,
        heads=heads,
        batch=batch,
        batched=("time", "q_square", "k_square"),
        time=np.cumsum(floats(seed, batch, n), axis=1),
        # Longer than what the test draws, so that most residuals are above 0, as those of real vectors are.
        q_square=4 * floats(seed + 1, batch, heads, n_q),
        k_square=4 * floats(seed + 2, batch, heads, n),
        decay=floats(seed + 3, heads),
        measurement=floats(seed + 4, heads),
        process=floats(seed + 5, heads),
        robustness=floats(seed + 6, heads),
    )


adaptive_filter = formula(
    "scores/adaptive_filter",
    filter_case(12, 12, 2, 2, 1),
    filter_case(3, 10, 1, 1, 9),
    pattern="adaptive_filter",
    weights=robust_weights,
)(the_past)


def steps(c: Here, q: int, k: int) -> tuple[int, int]:
    """Rows down and columns right from the query to the key."""
    (qy, qx), (ky, kx) = divide(q, c.size("x")), divide(k, c.size("x"))
    return ky - qy, kx - qx


def lattice_score(c: Here, s: float, q: int, k: int) -> float:
    down, right = steps(c, q, k)
    # Negative indices of NumPy count from the end: the lattice is periodic.
    return float(c["table"][c.h][down, right])


def lattice_case(height: int, width: int, heads: int, seed: int) -> Case:
    return image(height, width, heads=heads, rows=height, columns=width, table=normals(seed, heads, height, width))


wave_functions = formula(
    "scores/wave_functions",
    lattice_case(4, 5, 2, 1),
    lattice_case(3, 3, 1, 2),
    pattern="wave_functions",
    score=lattice_score,
)(everything)


def map_case(height: int, width: int, heads: int, seed: int) -> Case:
    tall, wide = 2 * height - 1, 2 * width - 1
    return image(height, width, heads=heads, tall=tall, wide=wide, bias=normals(seed, heads, tall, wide))


def offset_bias(c: Here, s: float, q: int, k: int) -> float:
    down, right = steps(c, q, k)
    return s + float(c["bias"][c.h][c.size("y") - 1 - down][c.size("x") - 1 - right])


astroformer = formula(
    "scores/astroformer",
    map_case(4, 5, 2, 1),
    map_case(5, 3, 1, 2),
    pattern="astroformer",
    score=offset_bias,
)(everything)


attention_buckets = formula("scores/attention_buckets", case(17), case(3, 20), pattern="attention_buckets")(the_past)

complexformer = formula("scores/complexformer", case(16, heads=2), case(2, 10), pattern="complexformer")(the_past)

knocking_heads = formula("scores/knocking_heads", case(19, heads=2), case(1, 12), pattern="knocking_heads")(the_past)

dual_attention_transformer = formula(
    "scores/dual_attention_transformer", case(18, heads=2), case(4, 9), pattern="dual_attention_transformer"
)(the_past)

minimum_transformer = formula("scores/minimum_transformer", image(4, 5), image(7, 3), pattern="minimum_transformer")(
    everything
)


def gpsa_case(height: int, width: int, heads: int, seed: int, places: bool) -> Case:
    more: dict[str, np.ndarray] = {}
    if places:
        more = {
            "locality": floats(seed, heads),
            "down": np.round(normals(seed + 1, heads)),
            "across": np.round(normals(seed + 2, heads)),
        }
    return image(height, width, heads=heads, gate=normals(seed + 3, heads), **more)


def share_of_place(c: Here) -> float:
    return float(1 / (1 + math.exp(-c["gate"][c.h])))


by_content = formula(
    "scores/convit",
    gpsa_case(3, 5, 3, 1, places=False),
    gpsa_case(4, 4, 1, 5, places=False),
    pattern="by_content",
    output=lambda c, o, q: o - share_of_place(c) * o,
)(everything)


def nearness_to_peak(c: Here, s: float, q: int, k: int) -> float:
    peak = np.array([c["down"][c.h], c["across"][c.h]])
    return float(-c["locality"][c.h] * np.linalg.norm(np.array(steps(c, q, k)) - peak) ** 2)


by_place = formula(
    "scores/convit",
    gpsa_case(3, 5, 3, 1, places=True),
    gpsa_case(4, 4, 1, 5, places=True),
    pattern="by_place",
    score=nearness_to_peak,
    output=lambda c, o, q: share_of_place(c) * o,
)(everything)


def interpolated(c: Here, s: float, q: int, k: int) -> float:
    i, last = row(c, q), c["positions"] - 1
    return float(s + np.interp(c["place"][c.h][i, k], np.arange(last + 1), c["relative"][c.h][i]))


def cope_case(n_q: int, n: int, heads: int, batch: int, positions: int, seed: int) -> Case:
    """Gates between 0 and 1, summed from each key to the query."""
    gates = np.random.default_rng(seed).random((batch, heads, n_q, n))
    seen = np.tri(n_q, n, n - n_q)
    return case(
        n_q,
        n,
        heads=heads,
        batch=batch,
        batched=("place", "relative"),
        place=np.cumsum((gates * seen)[..., ::-1], axis=-1)[..., ::-1].copy(),
        positions=positions,
        relative=normals(seed + 1, batch, heads, n_q, positions),
    )


cope = formula(
    "scores/cope", cope_case(12, 12, 2, 2, 4, 1), cope_case(3, 14, 1, 1, 9, 2), pattern="cope", score=interpolated
)(the_past)


standard = formula("scores/deconstructing_attention", case(14), case(3, 11), pattern="standard")(the_past)


@formula("scores/deconstructing_attention", case(14), case(3, 11))
def no_mixing(c: Here, q: int, k: int) -> bool:
    return k == q


uniform = formula(
    "scores/deconstructing_attention",
    case(14, batch=2),
    case(3, 11),
    pattern="uniform",
    weights=lambda c, s, q, k: np.full(len(k), 1 / (q + 1)),
)(the_past)


def learned_case(n: int, heads: int, layer: int, seed: int) -> Case:
    table = normals(seed, heads, n, n)
    return case(n, heads=heads, layer=layer, length=n, learned=table, standard=[True, False, False])


sequence_independent = formula(
    "scores/deconstructing_attention",
    learned_case(10, 2, 1, 1),
    learned_case(9, 2, 0, 2),
    learned_case(12, 1, 2, 3),
    pattern="sequence_independent",
    score=lambda c, s, q, k: s if c.layer == 0 else float(c["learned"][c.h][q][k]),
)(the_past)


matrix = formula(
    "scores/flashbias",
    case(13, heads=2, bias=normals(1, 2, 13, 13)),
    case(10, heads=1, bias=normals(2, 1, 10, 10)),
    pattern="matrix",
    score=lambda c, s, q, k: s + float(c["bias"][c.h][q][k]),
)(everything)

factors = formula(
    "scores/flashbias",
    case(13, heads=2, of_query=normals(1, 2, 13, 4), of_key=normals(2, 2, 13, 4)),
    case(10, heads=1, batch=2, of_query=normals(3, 1, 10, 4), of_key=normals(4, 1, 10, 4)),
    pattern="factors",
    score=lambda c, s, q, k: s + float((c["of_query"][c.h] @ c["of_key"][c.h].T)[q, k]),
)(everything)


def feature_case(n: int, heads: int, seed: int) -> Case:
    return case(
        n,
        heads=heads,
        feature=normals(seed, heads, n),
        mean=normals(seed + 1, heads),
        deviation=floats(seed + 2, heads) + 0.3,
    )


def densities(c: Here, k: np.ndarray) -> np.ndarray:
    mean, deviation = c["mean"][c.h], c["deviation"][c.h]
    return np.asarray(np.exp(-((c["feature"][c.h][k] - mean) ** 2) / (2 * deviation**2)))


gaussian = formula(
    "scores/gaussian_adaptive",
    feature_case(12, 2, 1),
    feature_case(9, 1, 5),
    pattern="gaussian",
    weights=lambda c, s, q, k: made_to_sum_to_1(densities(c, k)),
)(everything)

beside_dot_products = formula(
    "scores/gaussian_adaptive",
    feature_case(12, 2, 1),
    feature_case(9, 1, 5),
    pattern="beside_dot_products",
    weights=lambda c, s, q, k: made_to_sum_to_1(densities(c, k) * np.exp(s)),
)(everything)


hybrid_words = formula(
    "scores/hybridnet",
    case(12, heads=2, memory=normals(1, 2, 12, 12)),
    case(1, 8, memory=normals(2, 1, 1, 8)),
    pattern="words",
    score=lambda c, s, q, k: s + float(c["memory"][c.h][row(c, q), k]),
)(the_past)

hybrid_features = formula(
    "scores/hybridnet",
    case(5, 12, sizes={"video": 8, "text": 4}),
    case(1, 9, sizes={"video": 3, "text": 6}),
    pattern="features",
    cross=True,
)(everything)


def mixture_case(n_q: int, n: int, seed: int) -> Case:
    return case(
        n_q,
        n,
        weight=floats(seed, n_q, 5),
        mean=np.cumsum(floats(seed + 1, n_q, 5), axis=0),
        spread=floats(seed + 2, n_q, 5) + 0.5,
    )


mixture = formula(
    "scores/location_relative",
    mixture_case(12, 9, 1),
    mixture_case(5, 14, 4),
    pattern="mixture",
    cross=True,
    weights=lambda c, s, q, k: sum(
        w * np.exp(-((k - m) ** 2) / (2 * d**2))
        for w, m, d in zip(c["weight"][q], c["mean"][q], c["spread"][q], strict=True)
    ),
)(everything)


@formula(
    "scores/marginal_probability",
    case(12, edge=bools(1, 12, 12), prior=floats(2, 12, 12)),
    case(9, batch=2, edge=bools(3, 2, 9, 9), prior=floats(4, 9, 9), batched=["edge"]),
    weights=lambda c, s, q, k: made_to_sum_to_1(c["prior"][q][k] * np.exp(s)),
)
def marginal_probability(c: Here, q: int, k: int) -> bool:
    return bool(c["edge"][q][k])


def relative_case(n_q: int, n: int, heads: int, batch: int, reach: int, seed: int) -> Case:
    relative = normals(seed, batch, heads, n_q, reach)
    return case(n_q, n, heads=heads, batch=batch, reach=reach, relative=relative, batched=["relative"])


music_transformer = formula(
    "scores/music_transformer",
    relative_case(12, 12, 2, 2, 12, 1),
    relative_case(14, 14, 1, 1, 5, 2),
    relative_case(2, 9, 2, 1, 9, 3),
    pattern="music_transformer",
    score=lambda c, s, q, k: s + float(c["relative"][c.h][row(c, q)][min(q - k, c["reach"] - 1)]),
)(the_past)


def rcmha_case(n: int, heads: int, batch: int, reach: int, seed: int) -> Case:
    return case(
        n,
        heads=heads,
        batch=batch,
        batched=("content", "relative"),
        reach=reach,
        distances=2 * reach + 1,
        content=normals(seed, batch, heads, n),
        relative=normals(seed + 1, batch, heads, n, 2 * reach + 1),
    )


def with_distance(c: Here, s: float, q: int, k: int) -> float:
    named = dict(zip(range(-c["reach"], c["reach"] + 1), c["relative"][c.h][q], strict=True))
    return s + float(c["content"][c.h][k]) + float(named[int(np.clip(q - k, -c["reach"], c["reach"]))])


rcmha = formula(
    "scores/rcmha", rcmha_case(11, 2, 2, 10, 1), rcmha_case(13, 1, 1, 3, 2), pattern="rcmha", score=with_distance
)(everything)


def own_temperature(c: Here, s: float, q: int, k: int) -> float:
    by_position = 1 + math.log(q + 1) / (1 + math.exp(-c["growth"][c.h]))
    return s * (float(c["of_query"][c.h][row(c, q)]) + by_position)


selective_self_attention = formula(
    "scores/selective_self_attention",
    case(12, heads=2, batch=2, of_query=normals(1, 2, 2, 12), growth=normals(2, 2), batched=["of_query"]),
    case(2, 15, heads=1, of_query=normals(3, 1, 1, 2), growth=normals(4, 1), batched=["of_query"]),
    pattern="selective_self_attention",
    score=own_temperature,
)(the_past)


@formula(
    "scores/iterative_forward_tuning",
    case(8, 6 + 8, sizes={"stored": 6, "current": 8}),
    case(5, 12 + 5, sizes={"stored": 12, "current": 5}),
    cross=True,
)
def iterative_forward_tuning(c: Here, q: int, k: int) -> bool:
    return k < c.size("stored") + q + 1
