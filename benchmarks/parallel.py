"""How evenly a sequence is divided among ranks, and what is sent, beside the load balancers of PyTorch.

    python benchmarks/parallel.py [--write docs/benchmarks/parallel.md]

Work is counted in pairs that the mask keeps, by formulas of NumPy's, and not by maskc's model: the rank that has most
over the mean. PyTorch's context parallelism gathers all keys on every rank, whoever needs them. Its balancers are those
of ``torch.distributed.tensor.experimental._context_parallel`` (head and tail, its default; round-robin by processing
time, from the same tiles). Times are medians after one warm-up, one thread.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from plan import median_ms
from torch.distributed.tensor.experimental._context_parallel import _load_balancer as peers

import maskc
from maskc.backends.flex import block_mask
from maskc.parallel import partition

Array = np.ndarray
LENGTH, RANKS = 131_072, (8, 64)
HEADS = 8


@dataclass(frozen=True)
class Case:
    """A pattern, and how many keys each query keeps."""

    name: str
    text: str
    kept: Callable[[Array], Array]
    inputs: dict[str, Any] = field(default_factory=dict)


def _lengths(seed: int, least: int) -> Array:
    """Documents as unlike in length as those of a corpus, 131,072 tokens in all."""
    drawn = np.random.default_rng(seed).lognormal(8, 1.2, 400).astype(np.int64) + least
    ends = np.cumsum(drawn)
    count = int(np.searchsorted(ends, LENGTH))
    return np.append(drawn[:count], LENGTH - (ends[count - 1] if count else 0))


SIZES = _lengths(1, 64)
DOC = np.repeat(np.arange(SIZES.size), SIZES)
START = np.repeat(np.cumsum(SIZES) - SIZES, SIZES)
OWN = SIZES[DOC]
AT = np.arange(LENGTH) - START
# A question, a quarter of its document, and four answers to it.
ASKED = OWN // 4
ANSWER = np.where(AT < ASKED, 0, 1 + np.minimum(3, (AT - ASKED) * 4 // np.maximum(OWN - ASKED, 1)))
_FIRST = np.append(True, (np.diff(ANSWER) != 0) | (np.diff(DOC) != 0))
SINCE = np.arange(LENGTH) - np.maximum.accumulate(np.where(_FIRST, np.arange(LENGTH), 0))

_PACKED = "pattern p(doc: int[token]) {{ attend same(doc){} }}"
CASES = (
    Case("full", "k >= 0", lambda q: np.full(q.size, LENGTH)),
    Case("causal", "k <= q", lambda q: q + 1),
    Case("window of 4,096", "causal & sliding_window(4096)", lambda q: np.minimum(q + 1, 4096)),
    Case(
        "window of both sides, 2,048",
        "abs(q - k) <= 2048",
        lambda q: np.minimum(q + 2048, LENGTH - 1) - np.maximum(q - 2048, 0) + 1,
    ),
    Case(
        "64 sinks and a window",
        "causal & (sinks(64) | sliding_window(4096))",
        lambda q: np.minimum(q + 1, 4096) + np.clip(q - 4095, 0, 64),
    ),
    Case("prefix of 32,768", "causal | k < 32768", lambda q: np.maximum(q + 1, 32768)),
    Case("documents", _PACKED.format(""), lambda q: OWN, {"doc": DOC}),
    Case("documents, causal", _PACKED.format(" & causal"), lambda q: AT + 1, {"doc": DOC}),
    Case(
        "documents, causal by blocks",
        "pattern p(doc: int[token], at: int[token]) { attend same(doc) & at[k] // 1024 <= at[q] // 1024 }",
        lambda q: np.minimum(OWN, (AT // 1024 + 1) * 1024),
        {"doc": DOC, "at": AT},
    ),
    Case(
        "documents with prefixes",
        "pattern p(doc: int[token], before: bool[token]) { attend same(doc) & (causal | before[k]) }",
        lambda q: np.maximum(AT + 1, ASKED),
        {"doc": DOC, "before": AT < ASKED},
    ),
    Case(
        "questions with four answers",
        "pattern p(doc: int[token], part: int[token]) { attend causal & same(doc) & (part[k] == 0 | same(part)) }",
        lambda q: np.where(ANSWER == 0, AT + 1, ASKED + SINCE + 1),
        {"doc": DOC, "part": ANSWER},
    ),
)


def imbalance(pairs: Array, index: list[Array]) -> float:
    each = np.array([pairs[i].sum() for i in index], np.float64)
    return float(each.max() / each.mean())


def of_peer(indices: torch.Tensor, ranks: int) -> list[Array]:
    return np.split(indices.reshape(-1).numpy(), ranks)


def rows(ranks: int) -> Iterator[str]:
    shares = ("busiest", "at any price", "in a row", "head and tail", "round-robin")
    yield f"| mask | chunks | {' | '.join(shares)} | keys received | of all | ms |"
    yield "|---|" + "--:|" * 9
    everything = LENGTH - LENGTH // ranks
    for case in CASES:
        op = maskc.compile(case.text, heads=HEADS)
        pairs = np.asarray(case.kept(np.arange(LENGTH)), np.int64)
        found = partition(op, LENGTH, ranks, **case.inputs)
        ours = imbalance(pairs, [found.index(r) for r in range(ranks)])
        even = partition(op, LENGTH, ranks, method="balanced", exchange=0, **case.inputs)
        dear = imbalance(pairs, [even.index(r) for r in range(ranks)])
        straight = imbalance(pairs, np.split(np.arange(LENGTH), ranks))
        tail = peers._HeadTailLoadBalancer(LENGTH, ranks, "cpu")._generate_indices()
        # The same tiles as a BlockMask, which that one takes.
        one = maskc.compile(case.text, heads=1)
        blocks = block_mask(one.program, one.bind(LENGTH, LENGTH, **case.inputs))
        robin = peers._PTRRLoadBalancer(blocks, ranks)._generate_indices()
        ms = median_ms(lambda op=op, case=case: partition(op, LENGTH, ranks, **case.inputs), 5)
        chunks = max(len(c) for c in found.chunks)
        received = int(found.received.max())
        theirs = [imbalance(pairs, of_peer(x, ranks)) for x in (tail, robin)]
        each = " | ".join(f"{x:.3f}" for x in (ours, dear, straight, *theirs))
        yield f"| {case.name} | {chunks} | {each} | {received:,} | {100 * received / everything:.0f} % | {ms:.0f} |"


def report() -> Iterator[str]:
    load = os.getloadavg()[0]
    yield "# Dividing a sequence among ranks\n"
    yield "Written by `python benchmarks/parallel.py --write docs/benchmarks/parallel.md`: 131,072 tokens,"
    yield f"{SIZES.size} documents of {SIZES.min():,} to {SIZES.max():,} tokens, medians of 5, one thread;"
    yield f"{platform.machine()}, {os.cpu_count()} cores (load {load:.1f} when started), torch {torch.__version__}.\n"
    yield "Kept pairs of the rank that has most, over the mean: **busiest** as `maskc.parallel.partition` divides"
    yield "by default, which weighs what is received; **at any price** with `exchange=0`, which does not; **in a"
    yield "row**: one stretch for each rank; **head and tail**, **round-robin**: PyTorch's balancers. Keys received:"
    yield "by the rank that receives most, by default; PyTorch gathers all (of all) on every rank. ms: planning and"
    yield "dividing."
    for ranks in RANKS:
        yield f"\n## {ranks} ranks\n"
        yield from rows(ranks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, help="write the tables here, too")
    given = parser.parse_args()
    torch.set_num_threads(1)
    lines = []
    for line in report():
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
        lines.append(line)
    if given.write:
        given.write.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
