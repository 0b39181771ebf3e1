"""Dense formulas of examples/gallery/selection: what is selected is an input."""

from __future__ import annotations

import numpy as np

from gallery.cases import Case, Here, bools, case, divide, floats, formula, image, ints, video


def row_of(c: Here, q: int) -> int:
    """The row of query ``q``, at an absolute position, in inputs by query."""
    return q - (c.nk - c.nq)


@formula(
    "selection/acmil",
    case(3, 30, hidden=bools(1, 3, 30, p=0.2)),
    case(5, 23, hidden=bools(2, 2, 5, 23, p=0.1), batch=2, batched=["hidden"]),
    case(2, 9, hidden=np.zeros((2, 9), bool)),
    cross=True,
)
def acmil(c: Here, q: int, k: int) -> bool:
    return k not in np.flatnonzero(c["hidden"][q])


@formula(
    "selection/adaptive_long_context",
    case(37, heads=3, layer=1, always_local=bools(1, 2, 3), needs_long=bools(2, 37, 3), width=5),
    case(
        4, 33, heads=2, always_local=[[True, False]], needs_long=bools(3, 2, 4, 2), width=9, batch=2,
        batched=["needs_long"],
    ),
)  # fmt: skip
def adaptive_long_context(c: Here, q: int, k: int) -> bool:
    is_long = c["needs_long"][row_of(c, q)][c.h] and not c["always_local"][c.layer][c.h]
    return k in (range(q + 1) if is_long else range(q - c["width"] + 1, q + 1))


@formula(
    "selection/stya2k",
    case(20, 6, sizes={"y": 4, "x": 5, "row": 2, "column": 3}),
    case(9, 8, sizes={"y": 3, "x": 3, "row": 4, "column": 2}),
    cross=True,
)
def distributed(c: Here, q: int, k: int) -> bool:
    return True


@formula(
    "selection/stya2k",
    case(20, 42, sizes={"y": 4, "x": 5, "row": 6, "column": 7}, region=ints(1, 0, 6, 20), side=3),
    case(
        12, 40, sizes={"y": 3, "x": 4, "row": 5, "column": 8}, region=ints(2, 0, 6, 2, 12), side=4, batch=2,
        batched=["region"],
    ),
    case(6, 30, sizes={"y": 2, "x": 3, "row": 3, "column": 10}, region=[0, 1, 1, 0, 2, 3]),
    cross=True,
)  # fmt: skip
def progressive(c: Here, q: int, k: int) -> bool:
    rows, columns, side = c.size("row"), c.size("column"), c.get("side", 8)
    corners = [(i, j) for i in range(0, rows, side) for j in range(0, columns, side)]
    if c["region"][q] >= len(corners):
        return False
    top, left = corners[c["region"][q]]
    i, j = divide(k, columns)
    return top <= i < top + side and left <= j < left + side


@formula(
    "selection/attencraft",
    case(20, 9, sizes={"y": 4, "x": 5}, region=bools(1, 3, 20), concept=[-1, 0, 0, -1, 1, 2, 2, 2, -1]),
    case(
        18, 7, sizes={"y": 3, "x": 6}, concepts=2, region=bools(2, 2, 18), concept=ints(3, -1, 2, 2, 7), batch=2,
        batched=["concept"],
    ),
    cross=True,
)  # fmt: skip
def attencraft(c: Here, q: int, k: int) -> bool:
    concept = c["concept"][k]
    return concept == -1 or bool(c["region"][concept][q])


@formula(
    "selection/bam",
    case(17, heads=4, gate=floats(1, 17, 4)),
    case(3, 21, heads=6, experts=2, gate=floats(2, 2, 3, 2), batch=2, batched=["gate"]),
    output=lambda c, o, q: o * c["gate"][row_of(c, q)][c.h // (c.heads // c.get("experts", 4))],
)
def bam(c: Here, q: int, k: int) -> bool:
    return k <= q


@formula("selection/efficient_attention_survey", case(40, sink=3, width=6), case(5, 30, sink=0, width=4), case(9))
def fixed(c: Here, q: int, k: int) -> bool:
    return k <= q and (k < c.get("sink", 4) or k > q - c.get("width", 512))


def block_table(seed: int, heads: int, rows: int, columns: int, batch: int = 1, p: float = 0.4) -> np.ndarray:
    return bools(seed, batch, heads, rows, columns, p=p)


@formula(
    "selection/efficient_attention_survey",
    case(40, heads=2, block=8, blocks=5, routed=block_table(1, 2, 5, 5), batched=["routed"]),
    case(7, 33, block=4, blocks=9, routed=block_table(2, 1, 9, 9, batch=2), batch=2, batched=["routed"]),
)
def routed_blocks(c: Here, q: int, k: int) -> bool:
    row, column = q // c["block"], k // c["block"]
    return k <= q and (row == column or bool(c["routed"][c.h][row][column]))


@formula(
    "selection/efficient_attention_survey",
    case(40, heads=3, cluster=ints(1, 0, 4, 40, 3)),
    case(6, 31, heads=2, cluster=ints(2, 0, 3, 2, 31, 2), batch=2, batched=["cluster"]),
)
def clustered(c: Here, q: int, k: int) -> bool:
    of_head = c["cluster"][:, c.h]
    return k in [i for i in range(q + 1) if of_head[i] == of_head[q]]


@formula(
    "selection/efficient_attention_survey",
    case(30, layer=0, is_global=[True, False], width=5),
    case(30, layer=1, is_global=[True, False], width=5),
    case(3, 20, layer=2, is_global=[True, False, False], width=7),
)
def hybrid(c: Here, q: int, k: int) -> bool:
    return k in range(0 if c["is_global"][c.layer] else q - c["width"] + 1, q + 1)


@formula(
    "selection/flux_attention",
    case(32, heads=2, layer=0, is_full=[[True, False], [False, True]], sink=2, width=5, batch=2, batched=["is_full"]),
    case(4, 37, layer=1, is_full=[[True, False]], sink=4, width=9, batched=["is_full"]),
)
def flux_attention(c: Here, q: int, k: int) -> bool:
    if k > q:
        return False
    return bool(c["is_full"][c.layer]) or k < c["sink"] or q - k < c["width"]


def ranks(seed: int, *shape: int) -> np.ndarray:
    """A ranking along the last axis."""
    return np.random.default_rng(seed).random(shape).argsort(axis=-1).argsort(axis=-1)


@formula(
    "selection/hess",
    case(
        36, heads=3, layer=1, sizes={"view": 3, "y": 3, "x": 4}, budget=[[9, 9, 9], [0, 2, 9]], block=4, blocks=9,
        rank=ranks(1, 1, 3, 9, 9), batched=["rank"],
    ),
    case(
        30, heads=2, sizes={"view": 2, "y": 3, "x": 5}, budget=[[1, 3]], block=8, blocks=4, rank=ranks(2, 2, 2, 4, 4),
        batch=2, batched=["rank"],
    ),
)  # fmt: skip
def hess(c: Here, q: int, k: int) -> bool:
    order = np.argsort(c["rank"][c.h][q // c["block"]])  # the blocks of keys, best first
    return k // c["block"] in order[: c["budget"][c.layer][c.h]]


@formula(
    "selection/hip",
    case(40, heads=2, q_block=8, k_block=4, rows=5, count=3, found=ints(1, -1, 10, 1, 2, 5, 3), batched=["found"]),
    case(
        9, 37, q_block=4, k_block=5, rows=10, count=2, found=ints(2, -1, 8, 2, 1, 10, 2), batch=2, batched=["found"]
    ),
)  # fmt: skip
def hip(c: Here, q: int, k: int) -> bool:
    size = c["k_block"]
    keys = {i for f in c["found"][c.h][q // c["q_block"]] if f >= 0 for i in range(f * size, f * size + size)}
    return k in keys and k <= q


@formula(
    "selection/hylra",
    case(30, layer=0, is_full=[True, False], count=4, reused=ints(1, -1, 30, 30, 4)),
    case(30, heads=2, layer=1, is_full=[True, False], count=4, reused=ints(2, -1, 30, 30, 4)),
    case(3, 28, is_full=[False], count=6, reused=ints(3, 0, 28, 2, 3, 6), batch=2, batched=["reused"]),
)
def hylra(c: Here, q: int, k: int) -> bool:
    return k <= q and (c["is_full"][c.layer] or k in c["reused"][row_of(c, q)])


key_driven_gqa = formula("selection/key_driven_gqa", case(17, heads=2), case(5, 9), pattern="key_driven_gqa")(
    lambda c, q, k: True
)


@formula(
    "selection/longheads",
    case(40, heads=2, chunk_size=4, count=2, chosen=ints(1, -1, 10, 40, 2, 2)),
    case(5, 39, chunk_size=6, count=1, chosen=ints(2, 0, 7, 2, 5, 1, 1), batch=2, batched=["chosen"]),
)
def longheads(c: Here, q: int, k: int) -> bool:
    chunks = [range(start, start + c["chunk_size"]) for start in range(0, c.nk, c["chunk_size"])]
    own = next(i for i, chunk in enumerate(chunks) if q in chunk)
    visible = {0, own, *c["chosen"][row_of(c, q)][c.h]} - {-1}
    return k <= q and any(k in chunks[i] for i in visible)


@formula(
    "selection/mamo",
    case(20, frame=ints(1, -1, 4, 20)),
    case(13, frame=ints(2, -1, 2, 2, 13), batch=2, batched=["frame"]),
)
def within_memory(c: Here, q: int, k: int) -> bool:
    used = [i for i, frame in enumerate(c["frame"]) if frame != -1]
    return q in used and k in used


@formula(
    "selection/mamo",
    case(12, 20, sizes={"y": 3, "x": 4}, now=[3], frame=ints(1, -1, 4, 20), batched=["now"]),
    case(
        10, 16, sizes={"y": 2, "x": 5}, now=[0, 5], frame=ints(2, -1, 7, 2, 16), batch=2, batched=["now", "frame"]
    ),
    cross=True,
)  # fmt: skip
def reads_memory(c: Here, q: int, k: int) -> bool:
    return c["frame"][k] in range(c["now"])


@formula(
    "selection/moba",
    case(40, heads=2, layer=1, mode=["full", "sparse"], block=8, blocks=5, chosen=bools(1, 40, 2, 5, p=0.3)),
    case(40, heads=2, layer=0, mode=["full", "sparse"], block=8, blocks=5, chosen=bools(1, 40, 2, 5, p=0.3)),
    case(6, 35, mode=["sparse"], block=4, blocks=9, chosen=bools(2, 2, 6, 1, 9, p=0.3), batch=2, batched=["chosen"]),
)
def moba(c: Here, q: int, k: int) -> bool:
    if c["mode"][c.layer] == "full":
        return k <= q
    block = k // c["block"]
    if block == q // c["block"]:
        return k <= q
    return block < q // c["block"] and bool(c["chosen"][row_of(c, q)][c.h][block])


@formula(
    "selection/moh",
    case(17, heads=4, picked=bools(1, 17, 4), weight=floats(2, 17, 4)),
    case(3, 20, heads=3, shared=1, picked=bools(3, 3, 3), weight=floats(4, 3, 3), autoregressive=True),
    case(
        19, heads=2, shared=0, picked=bools(5, 2, 19, 2), weight=floats(6, 2, 19, 2), batch=2,
        batched=["picked", "weight"],
    ),
    output=lambda c, o, q: o * c["weight"][row_of(c, q)][c.h],
)  # fmt: skip
def moh(c: Here, q: int, k: int) -> bool:
    runs = {*range(c.get("shared", 2)), *np.flatnonzero(c["picked"][row_of(c, q)])}
    return c.h in runs and (k <= q or not c.get("autoregressive", False))


LEVELS = ("fine", "pooled_2", "pooled_4", "dropped")


def pyramid(seed: int, queries: int, keys: int, q_block: int, k_block: int, heads: int = 1, batch: int = 1) -> Case:
    rows, columns = -(-queries // q_block), -(-keys // k_block)
    return case(
        queries, keys + keys // 2 + keys // 4, heads=heads, batch=batch,
        sizes={"single": keys, "pairs": keys // 2, "fours": keys // 4},
        q_block=q_block, k_block=k_block, rows=rows, columns=columns,
        level=np.array(LEVELS)[ints(seed, 0, 4, batch, heads, rows, columns)].tolist(), batched=["level"],
    )  # fmt: skip


@formula("selection/psa", pyramid(1, 24, 32, 8, 8, heads=2), pyramid(2, 21, 24, 4, 4, batch=2), cross=True)
def psa(c: Here, q: int, k: int) -> bool:
    single, pairs = c.size("single"), c.size("pairs")
    if k < single:
        name, covers = "fine", [k]
    elif k < single + pairs:
        name, covers = "pooled_2", [2 * (k - single) + i for i in range(2)]
    else:
        name, covers = "pooled_4", [4 * (k - single - pairs) + i for i in range(4)]
    (column,) = {i // c["k_block"] for i in covers}  # a pooled key is of one block
    return c["level"][c.h][q // c["q_block"]][column] == name


@formula(
    "selection/routing_transformer",
    case(40, heads=3, width=6, cluster=ints(1, 0, 4, 40, 3)),
    case(5, 33, heads=2, local_heads=0, width=6, cluster=ints(2, 0, 3, 2, 33, 2), batch=2, batched=["cluster"]),
)
def routing_transformer(c: Here, q: int, k: int) -> bool:
    if c.h < c.get("local_heads", 1):
        return k in range(q - c["width"] + 1, q + 1)
    return k <= q and c["cluster"][k][c.h] == c["cluster"][q][c.h]


@formula(
    "selection/selective_attention",
    case(30, taken=floats(1, 30, 30), last=ints(2, 0, 40, 30)),
    case(4, 25, heads=2, taken=floats(3, 2, 4, 25), last=ints(4, 15, 30, 2, 25), batch=2, batched=["taken", "last"]),
    score=lambda c, s, q, k: s - c["taken"][row_of(c, q)][k],
)
def selective_attention(c: Here, q: int, k: int) -> bool:
    return k == q or (k < q and not q > c["last"][k])


@formula(
    "selection/spa",
    case(40, image=[0] * 7 + [1] * 18 + [2] * 11 + [-1] * 4),
    case(29, image=np.sort(ints(1, 0, 4, 2, 29)), batch=2, batched=["image"]),
)
def packed(c: Here, q: int, k: int) -> bool:
    return c["image"][q] == c["image"][k] != -1


@formula(
    "selection/spa",
    image(5, 6, selected=bools(1, 30)),
    image(4, 7, selected=bools(2, 2, 28, p=0.8), batch=2, batched=["selected"]),
)
def in_place(c: Here, q: int, k: int) -> bool:
    return {q, k} <= set(np.flatnonzero(c["selected"]).tolist())


@formula(
    "selection/sparsed",
    case(
        40, heads=2, step=[3, 4], full_steps=4, block=8, blocks=5, chosen=block_table(1, 2, 5, 5, batch=2), batch=2,
        batched=["step", "chosen"],
    ),
    case(33, step=[1000], block=4, blocks=9, chosen=block_table(2, 1, 9, 9), batched=["step", "chosen"]),
)  # fmt: skip
def sparsed(c: Here, q: int, k: int) -> bool:
    return c["step"] in range(c.get("full_steps", 200)) or c["chosen"][c.h][q // c["block"]][k // c["block"]]


@formula(
    "selection/sparsifiner",
    case(20, heads=2, connected=bools(1, 2, 20, 20, p=0.2), kept=bools(2, 20, p=0.8)),
    case(
        17, connected=bools(3, 2, 1, 17, 17, p=0.3), kept=bools(4, 2, 17, p=0.7), batch=2,
        batched=["connected", "kept"],
    ),
)  # fmt: skip
def sparsifiner(c: Here, q: int, k: int) -> bool:
    tokens = np.flatnonzero(c["kept"])
    return q in tokens and k in tokens and c["connected"][c.h][q][k]


@formula(
    "selection/dma",
    case(20, heads=4, kv_heads=2, kept=bools(1, 2, 20, 20), bias=floats(2, 2, 20, 20)),
    case(
        4, 23, heads=2, kept=bools(3, 2, 1, 4, 23), bias=floats(4, 2, 1, 4, 23), batch=2, batched=["kept", "bias"]
    ),
    score=lambda c, s, q, k: s + c["bias"][c.h // (c.heads // c.get("kv_heads", 1))][row_of(c, q)][k],
)  # fmt: skip
def dma(c: Here, q: int, k: int) -> bool:
    return k <= q and c["kept"][c.h // (c.heads // c.get("kv_heads", 1))][row_of(c, q)][k]


@formula(
    "selection/uoe",
    case(40, heads=8, patch=4, patches=10, routed=bools(1, 1, 10, 4), batched=["routed"]),
    case(
        33, heads=2, experts=2, patch=8, patches=5, routed=bools(2, 2, 5, 2, p=0.7), autoregressive=True, batch=2,
        batched=["routed"],
    ),
)  # fmt: skip
def uoe(c: Here, q: int, k: int) -> bool:
    expert = c.h // (c.heads // c.get("experts", 4))
    here = [i for i in range(c.nk) if c["routed"][i // c["patch"]][expert]]
    return q in here and k in here and (k <= q or not c.get("autoregressive", False))


@formula(
    "selection/visual_perception_token",
    case(30, sizes={"image": 12, "question": 6, "region": 8, "answer": 4}),
    case(19, sizes={"image": 9, "question": 4, "region": 0, "answer": 6}),
)
def visual_perception_token(c: Here, q: int, k: int) -> bool:
    return k in range(q + 1)


SHAPES = {"frames": 2, "rows": 2, "columns": 3}


@formula(
    "selection/vmoba",
    video(4, 3, 5, heads=2, layer=0, blocks=2, chosen=bools(1, 60, 2, 2, p=0.3), **SHAPES),
    video(3, 4, 5, layer=4, blocks=4, chosen=bools(2, 60, 1, 4, p=0.3), **SHAPES),
    video(3, 3, 4, layer=2, blocks=8, chosen=bools(3, 2, 36, 1, 8, p=0.3), batch=2, batched=["chosen"], **SHAPES),
)
def vmoba(c: Here, q: int, k: int) -> bool:
    extents = c.size("t"), c.size("y"), c.size("x")
    shape = [c["frames"], c["rows"], c["columns"]]
    if c.layer % 3 == 0:
        shape[1:] = extents[1:]
    elif c.layer % 3 == 1:
        shape[0] = extents[0]
    starts = [range(0, n, size) for n, size in zip(extents, shape, strict=True)]
    corners = [(t, y, x) for t in starts[0] for y in starts[1] for x in starts[2]]  # of the blocks, in order

    def block(token: int) -> int:
        at = divide(token, *extents[1:])
        return corners.index(tuple(i - i % size for i, size in zip(at, shape, strict=True)))  # type: ignore[arg-type]

    return block(q) == block(k) or bool(c["chosen"][q][c.h][block(k)])
