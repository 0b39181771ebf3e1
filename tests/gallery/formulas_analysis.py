"""Dense formulas of examples/gallery/analysis."""

from __future__ import annotations

import numpy as np

from gallery.cases import Here, bools, case, divide, formula, image, ints


def everything(c: Here, q: int, k: int) -> bool:
    return True


def past(c: Here, q: int, k: int) -> bool:
    return k in range(q + 1)


STAGES = [["none", "recalling", "reasoning"], ["expression", "identification", "recalling"]]


@formula(
    "analysis/head_survey",
    case(17, heads=3, stage=STAGES),
    case(17, heads=3, stage=STAGES, without="recalling"),
    case(12, heads=3, layer=1, stage=STAGES, without="identification"),
    case(3, 14, heads=3, layer=1, stage=STAGES, without="expression"),
    case(9, heads=3, layer=1, stage=STAGES, without="recalling"),
    case(9, heads=3, layer=1, stage=STAGES, without="reasoning"),
    case(9, heads=3, stage=STAGES, without="reasoning"),
)
def head_survey(c: Here, q: int, k: int) -> bool:
    stage = c["stage"][c.layer][c.h]
    return k <= q and (stage == "none" or stage != c.get("without", "none"))


CAUSAL = (case(20, heads=2), case(5, 17))
language_model = formula("analysis/attention_illuminates", *CAUSAL, pattern="language_model")(past)


@formula("analysis/attention_illuminates", case(20), case(4, 13))
def from_later_tokens(c: Here, q: int, k: int) -> bool:
    return q in range(k + 1, c.nk)


@formula(
    "analysis/chinchilla_circuits",
    case(24, heads=2, layer=1, correct_letter=[[False, False], [False, True]], label=bools(1, 24, p=0.2)),
    case(5, 20, heads=2, correct_letter=[[True, False]], label=bools(2, 2, 20, p=0.3), batch=2, batched=["label"]),
)
def chinchilla_circuits(c: Here, q: int, k: int) -> bool:
    seen = set(range(q + 1))
    if c["correct_letter"][c.layer][c.h]:
        seen &= {int(i) for i in np.flatnonzero(c["label"])}
    return k in seen


@formula(
    "analysis/component_reuse",
    case(20, heads=3, role=[["normal", "forced", "ablated"]], target=ints(1, -1, 20, 20)),
    case(
        4, 17, heads=2, layer=1, role=[["normal"] * 2, ["forced", "normal"]], target=ints(2, 0, 14, 2, 4), batch=2,
        batched=["target"],
    ),
)  # fmt: skip
def component_reuse(c: Here, q: int, k: int) -> bool:
    role = c["role"][c.layer][c.h]
    if role == "forced":
        return k == c["target"][q - (c.nk - c.nq)] and k <= q
    return role == "normal" and k <= q


REWARDS = (case(20, sizes={"prompt": 8, "completion": 12}), case(9, sizes={"prompt": 4, "completion": 5}))
reward_model = formula("analysis/dense_reward", *REWARDS, pattern="reward_model")(past)


@formula(
    "analysis/dense_reward",
    case(1, 20, sizes={"prompt": 8, "completion": 12}),
    case(1, 9, sizes={"prompt": 3, "completion": 6}),
    cross=True,
)
def spread(c: Here, q: int, k: int) -> bool:
    return k >= c.size("prompt")


SPEECH = (
    case(9, 30, received=[2, 2, 8, 8, 8, 20, 20, 30, 30]),
    case(6, 24, received=np.sort(ints(1, 0, 25, 2, 6)), batch=2, batched=["received"]),
)


@formula("analysis/edatt", *SPEECH, cross=True)
def reads_received(c: Here, q: int, k: int) -> bool:
    return k in range(c["received"][q])


@formula("analysis/edatt", *SPEECH, case(5, 12, received=[1, 4, 9, 12, 12], newest=5), cross=True)
def reads_newest(c: Here, q: int, k: int) -> bool:
    return k in list(range(c["received"][q]))[-c.get("newest", 2) :]


SIZES = {"text": 5, "y": 3, "x": 4}
joint = formula(
    "analysis/mmdit_editing", case(17, sizes=SIZES), case(9, sizes={"text": 3, "y": 2, "x": 3}), pattern="joint"
)(everything)
BLOCKS = ("image_to_image", "image_to_text", "text_to_image", "text_to_text")


@formula("analysis/mmdit_editing", case(17, sizes=SIZES), *[case(17, sizes=SIZES, block=block) for block in BLOCKS])
def one_block(c: Here, q: int, k: int) -> bool:
    kind = ["text" if i < c.size("text") else "image" for i in (q, k)]
    return "_to_".join(kind) == c.get("block", "image_to_image")


@formula(
    "analysis/vit_analytics",
    image(4, 5, heads=2, kept=[[True, False]]),
    image(3, 4, heads=2, layer=1, kept=[[True, True], [False, True]]),
)
def pruned(c: Here, q: int, k: int) -> bool:
    return c["kept"][c.layer][c.h]


@formula("analysis/vit_analytics", image(5, 6), image(6, 4, distance=0), image(5, 7, distance=3))
def at_distance(c: Here, q: int, k: int) -> bool:
    (y, x), (v, u), d = divide(q, c.size("x")), divide(k, c.size("x")), c.get("distance", 1)
    square = [(y + i, x + j) for i in range(-d, d + 1) for j in range(-d, d + 1)]
    inner = [(y + i, x + j) for i in range(1 - d, d) for j in range(1 - d, d)]
    return (v, u) in square and (v, u) not in inner


@formula(
    "analysis/factual_recall",
    case(1, 20, heads=2, is_task=[[True, False]], topic=bools(1, 20, p=0.2)),
    case(1, 13, layer=1, is_task=[[False], [True]], topic=bools(2, 2, 13, p=0.3), batch=2, batched=["topic"]),
    cross=True,
)
def factual_recall(c: Here, q: int, k: int) -> bool:
    return k in np.flatnonzero(c["topic"]) or not c["is_task"][c.layer][c.h]


@formula(
    "analysis/deceive",
    case(1, 20, impermissible=bools(1, 20, p=0.2)),
    case(4, 13, impermissible=bools(2, 2, 13, p=0.3), batch=2, batched=["impermissible"]),
    cross=True,
)
def deceive(c: Here, q: int, k: int) -> bool:
    return k in np.flatnonzero(np.logical_not(c["impermissible"]))


@formula(
    "analysis/notice",
    case(7, 12, sizes={"y": 3, "x": 4}, heads=3, ablated=[[False, True, False]]),
    case(5, 10, sizes={"y": 2, "x": 5}, heads=2, layer=1, ablated=[[False, False], [True, False]]),
    cross=True,
)
def notice(c: Here, q: int, k: int) -> bool:
    return not c["ablated"][c.layer][c.h]


KINDS = [["other", "retrieval", "other"], ["drawn", "other", "retrieval"]]


@formula(
    "analysis/retrieval_head",
    case(17, heads=3, kind=KINDS),
    case(14, heads=3, kind=KINDS, without="retrieval"),
    case(3, 14, heads=3, layer=1, kind=KINDS, without="drawn"),
    case(9, heads=3, layer=1, kind=KINDS, without="retrieval"),
)
def retrieval_head(c: Here, q: int, k: int) -> bool:
    return k <= q and c["kind"][c.layer][c.h] != c.get("without", "nothing")


def zero_where_ablated(c: Here, s: float, q: int, k: int) -> float:
    return 0.0 if c["ablated"][c.layer][c.h] else s


@formula(
    "analysis/safety_heads",
    case(17, heads=2, ablated=[[True, False]]),
    case(12, heads=2, layer=1, ablated=[[True, True], [True, False]], how="uniform"),
    case(4, 15, heads=2, ablated=[[False, True]], how="uniform"),
    case(9, heads=2, layer=1, ablated=[[True, True], [True, False]]),
    score=zero_where_ablated,
)
def safety_heads(c: Here, q: int, k: int) -> bool:
    removed = c["ablated"][c.layer][c.h] and c.get("how", "zero") == "zero"
    return not removed and k <= q


SINKS = {"first": [2, 3, 3], "end": [4, 4, 9], "width": 5}


@formula(
    "analysis/secondary_sinks",
    case(30, layer=1, level=ints(1, -1, 3, 30), **SINKS),
    case(30, layer=3, level=ints(2, -1, 3, 30), **SINKS),
    case(30, layer=2, level=ints(6, -1, 3, 30), **SINKS),
    case(30, layer=4, level=ints(5, -1, 3, 30), **SINKS),
    case(5, 33, layer=6, level=ints(3, -1, 3, 2, 33), batch=2, batched=["level"], **SINKS),
    case(20, levels=1, first=[0], end=[1], level=ints(4, -1, 1, 20), width=2),
)
def secondary_sinks(c: Here, q: int, k: int) -> bool:
    now = [i for i, layers in enumerate(zip(c["first"], c["end"], strict=True)) if c.layer in range(*layers)]
    return k <= q and (k == 0 or c["level"][k] in now or q - k < c["width"])


interactions = formula("analysis/vitgaze", image(4, 5), image(3, 3), pattern="interactions")(everything)


@formula(
    "analysis/vitgaze",
    image(4, 5, person=bools(1, 20, p=0.2)),
    image(3, 6, person=bools(2, 2, 18, p=0.3), batch=2, batched=["person"]),
)
def sampled(c: Here, q: int, k: int) -> bool:
    return bool(c["person"][q])
