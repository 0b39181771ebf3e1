"""Dense formulas of examples/gallery/multimodal, examples/gallery/audio and examples/gallery/graphs."""

from __future__ import annotations

import math

from gallery.cases import Case, Here, bools, case, divide, floats, formula, ints


def everything(c: Here, q: int, k: int) -> bool:
    return True


@formula(
    "multimodal/bottom_up_top_down",
    case(1, 36, batch=3, regions=[10, 36, 0]),
    case(4, 11, batch=2, regions=[11, 5]),
    cross=True,
)
def bottom_up_top_down(c: Here, q: int, k: int) -> bool:
    return k in range(c["regions"][c.b])


command_reads = formula(
    "multimodal/cavg",
    case(5, 12, emphasis=floats(1, 12)),
    case(3, 9, emphasis=floats(2, 2, 9), batch=2, batched=["emphasis"]),
    pattern="command_reads",
    cross=True,
    score=lambda c, s, q, k: s + c["emphasis"][k],
)(everything)


@formula(
    "multimodal/cavg",
    case(5 + 12 + 4, sizes={"text": 5, "image": 12, "context": 4}, sees=bools(1, 3, 3)),
    case(1 + 7 + 9, sizes={"text": 1, "image": 7, "context": 9}, sees=bools(2, 3, 3)),
)
def modalities(c: Here, q: int, k: int) -> bool:
    names = [i for i, name in enumerate(("text", "image", "context")) for _ in range(c.size(name))]
    return bool(c["sees"][names[q]][names[k]])


PRESENT = bools(3, 2, 4, p=0.7)
MASKED = tuple(
    case(n, batch=2, modality=ints(n, 0, 4, n), present=PRESENT, visible=bools(n, 2, n, p=0.6), batched=["visible"])
    for n in (24, 31)
)


@formula("multimodal/egom2p", *MASKED)
def encoder(c: Here, q: int, k: int) -> bool:
    return all(c["visible"][i] and c["present"][c.b][c["modality"][i]] for i in (q, k))


@formula(
    "multimodal/egom2p",
    case(9, 24, batch=2, modality=ints(5, 0, 4, 24), present=PRESENT, visible=bools(6, 24)),
    case(13, 7, batch=2, modality=ints(7, 0, 4, 7), present=PRESENT, visible=bools(8, 2, 7), batched=["visible"]),
    cross=True,
)
def decoder(c: Here, q: int, k: int) -> bool:
    return bool(c["visible"][k] and c["present"][c.b][c["modality"][k]])


fusion_to_enhance = formula(
    "multimodal/fusion_to_enhance", case(16, 25), case(9, 4), pattern="fusion_to_enhance", cross=True
)(everything)


def page(seed: int, *pieces: tuple[str, int]) -> dict[str, list[int]]:
    """Modality (0 text, 1 image) and image number of each token of a page."""
    modality: list[int] = []
    image: list[int] = []
    for number, (kind, length) in enumerate(pieces):
        modality += [kind == "image"] * length
        image += [number + seed] * length
    return {"modality": [int(m) for m in modality], "image": image}


PAGES = (
    case(30, **page(0, ("text", 5), ("image", 8), ("text", 7), ("image", 10))),
    case(23, **page(5, ("image", 4), ("image", 6), ("text", 13))),
)


@formula("multimodal/moda", *PAGES)
def inner_modal(c: Here, q: int, k: int) -> bool:
    if c["modality"][q] == 1:
        return c["modality"][k] == 1 and c["image"][q] == c["image"][k]
    return c["modality"][k] == 0 and k <= q


@formula("multimodal/moda", *(case(p.q_len, modality=p.values["modality"]) for p in PAGES))
def inter_modal(c: Here, q: int, k: int) -> bool:
    return c["modality"][q] + c["modality"][k] == 1 and k < q


@formula("multimodal/moda", *PAGES)
def duplex(c: Here, q: int, k: int) -> bool:
    return (k <= q and c["modality"][q] + c["modality"][k] < 2) or inner_modal.sees(c, q, k)


scene = formula(
    "multimodal/oat",
    case(9, row=floats(1, 9), column=floats(2, 9), falloff=2.0),
    case(7, row=floats(3, 2, 7), column=floats(4, 2, 7), batch=2, batched=["row", "column"]),
    pattern="scene",
    score=lambda c, s, q, k: (
        s - math.hypot(c["row"][q] - c["row"][k], c["column"][q] - c["column"][k]) / c.get("falloff", 1.0)
    ),
)(everything)


@formula("multimodal/oat", case(12), case(2, 9))
def fixations(c: Here, q: int, k: int) -> bool:
    return k <= q


reads_scene = formula("multimodal/oat", case(12, 9), case(1, 20), pattern="reads_scene", cross=True)(everything)


@formula(
    "multimodal/wikiweb2m",
    case(40, batch=2, globals=[5, 0], reach=3),
    case(37, globals=[8], reach=2, reads_all=False),
    case(37, globals=[8], reach=2, read_by_all=False),
    case(150, globals=[4]),
)
def wikiweb2m(c: Here, q: int, k: int) -> bool:
    first = c["globals"][c.b]
    if (q < first and c.get("reads_all", True)) or (k < first and c.get("read_by_all", True)):
        return True
    return abs(q - k) <= c.get("reach", 127)


SPECTROGRAMS = (
    case(20, sizes={"time": 5, "frequency": 4}),
    case(21, sizes={"time": 3, "frequency": 7}),
)


@formula("audio/mambattention", *SPECTROGRAMS)
def along_time(c: Here, q: int, k: int) -> bool:
    return (q - k) % c.size("frequency") == 0


@formula("audio/mambattention", *SPECTROGRAMS)
def along_frequency(c: Here, q: int, k: int) -> bool:
    return divide(q, c.size("frequency"))[0] == divide(k, c.size("frequency"))[0]


full_rate = formula("audio/squeezeformer", case(20), case(31), pattern="full_rate")(everything)
half_rate = formula("audio/squeezeformer", case(10), case(16), pattern="half_rate")(everything)


def graph_case(n: int, heads: int, batch: int = 1) -> Case:
    shape = (n, n) if batch == 1 else (batch, n, n)
    inputs = {"linked": bools(n, *shape, p=0.3), "distance": floats(n, *shape)}
    extra = {"screening": floats(1, heads), "power": floats(2, heads)}
    return case(n, heads=heads, batch=batch, batched=inputs if batch > 1 else (), **inputs, **extra)


def coulomb(c: Here, s: float, q: int, k: int) -> float:
    r = c["distance"][q][k]
    return math.log(math.exp(s) * math.exp(-r / c["screening"][c.h]) / r ** c["power"][c.h])


@formula("graphs/coulgat", graph_case(14, 2), graph_case(9, 1, batch=3), score=coulomb)
def coulgat(c: Here, q: int, k: int) -> bool:
    return bool(c["linked"][q][k])


@formula(
    "graphs/quadrotor_swarm",
    case(1, 10, batch=2, sizes={"robot": 6, "obstacle": 4}, neighbours=[6, 2], obstacles=[0, 3]),
    case(3, 7, batch=1, sizes={"robot": 2, "obstacle": 5}, neighbours=[1], obstacles=[5]),
    cross=True,
)
def quadrotor_swarm(c: Here, q: int, k: int) -> bool:
    robots = c.size("robot")
    return k < c["neighbours"][c.b] if k < robots else k - robots < c["obstacles"][c.b]


@formula(
    "graphs/multi_agent_control",
    case(8, 11, batch=2, agents=[8, 3], targets=[4, 11]),
    case(5, 3, agents=[4], targets=[2]),
    cross=True,
)
def multi_agent_control(c: Here, q: int, k: int) -> bool:
    return q in range(c["agents"][c.b]) and k in range(c["targets"][c.b])


@formula(
    "graphs/ultra3d",
    case(40, part_label=ints(1, 0, 5, 40)),
    case(33, part_label=ints(2, 0, 3, 2, 33), batch=2, batched=["part_label"]),
)
def ultra3d(c: Here, q: int, k: int) -> bool:
    return c["part_label"][q] == c["part_label"][k]
