"""What runs in each of several processes: attention over a divided sequence, beside a formula of the whole one."""

from __future__ import annotations

import copy
import itertools
import os
import pickle
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import maskc
from maskc.parallel import Chunk, ContextParallel, Partition, partition
from maskc.parallel.exchange import _Shipment

from .masks import MASKS, Case

__all__ = ["run"]

Tensor = torch.Tensor
HEADS, KV_HEADS, DIM, VALUE_DIM = 4, 2, 16, 24


def run(ranks: int, folder: str) -> None:
    """Every check below, in ``ranks`` processes. Raises what fails in one."""
    mp.spawn(_process, args=(ranks, folder), nprocs=ranks)


def _process(rank: int, ranks: int, folder: str) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=ranks, timeout=timedelta(seconds=120)
    )
    checks: list[Callable[[int, int], None]] = [
        masks,
        halves,
        layers,
        chunks_that_swap,
        module,
        learned,
        under_way,
        by_hand,
        normalised,
        graphs,
        nothing_but_needed,
        mistakes,
        unlike_calls,
    ]
    for check in checks:
        check(rank, ranks)
        dist.barrier()
    dist.destroy_process_group()


def attended(q: Tensor, k: Tensor, v: Tensor, kept: Tensor, bias: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp by the book."""
    k, v = (x.repeat_interleave(HEADS // KV_HEADS, 1) for x in (k, v))
    scores = (q @ k.transpose(-1, -2) / DIM**0.5 + bias).masked_fill(~kept, -torch.inf)
    return scores.softmax(-1).nan_to_num(0.0) @ v, scores.logsumexp(-1)


def drawn(length: int, dtype: torch.dtype = torch.float64) -> tuple[list[Tensor], Tensor, Tensor]:
    """Queries, keys and values of a whole sequence, and weights of the output and the log-sum-exp."""
    generator = torch.Generator().manual_seed(3)

    def draw(heads: int, dim: int) -> Tensor:
        return torch.randn(2, heads, length, dim, generator=generator, dtype=torch.float64).to(dtype)

    qkv = [draw(HEADS, DIM).requires_grad_(), draw(KV_HEADS, DIM).requires_grad_(), draw(KV_HEADS, VALUE_DIM)]
    return [*qkv[:2], qkv[2].requires_grad_()], draw(HEADS, VALUE_DIM), draw(HEADS, 1)[..., 0]


def kept_of(case: Case) -> Tensor:
    n, b, h = np.arange(case.length), np.arange(2)[:, None, None, None], np.arange(HEADS)[None, :, None, None]
    found = np.broadcast_to(case.kept(b, h, n[:, None], n[None, :]), (2, HEADS, case.length, case.length))
    return torch.from_numpy(found.copy())


def of_rank(whole: list[Tensor], division: Partition, rank: int) -> list[Tensor]:
    return [division.shard(x.detach(), rank).clone().requires_grad_() for x in whole]


def masks(rank: int, ranks: int) -> None:
    """Outputs, log-sum-exps and gradients of every mask, however the sequence is divided."""
    for name, case in MASKS.items():
        op = maskc.compile(case.text, heads=HEADS, sizes=case.sizes, **case.arguments)
        kept = kept_of(case)
        qkv, weight, lse_weight = drawn(case.length)
        out, lse = attended(*qkv, kept)
        seen = torch.isfinite(lse)
        wanted = torch.autograd.grad((out * weight).sum() + (lse * lse_weight)[seen].sum(), qkv)
        for options, overlap in (({}, 1), ({"method": "balanced", "parts": 3}, 2)):
            attend = ContextParallel(op, overlap=overlap)
            division = attend.partition(case.length, **options, **case.inputs)
            mine = of_rank(qkv, division, rank)
            got, got_lse = attend(*mine, division, return_lse=True, **case.inputs)
            live = division.shard(seen, rank, -1)
            loss = (got * division.shard(weight, rank)).sum()
            (loss + (got_lse * division.shard(lse_weight, rank, -1))[live].sum()).backward()
            close = {"atol": 1e-11, "rtol": 1e-10, "msg": lambda m, n=name: f"{n}: {m}"}
            torch.testing.assert_close(got, division.shard(out, rank), **close)
            torch.testing.assert_close(got_lse, division.shard(lse, rank, -1), **close)
            for x, grad in zip(mine, wanted, strict=True):
                torch.testing.assert_close(x.grad, division.shard(grad, rank), **close)


def halves(rank: int, ranks: int) -> None:
    """In bfloat16, and under autocast, no more is lost than by the op over the whole sequence."""
    case = MASKS["documents"]
    attend = ContextParallel(maskc.compile(case.text, heads=HEADS))
    division = attend.partition(case.length, method="balanced", parts=2, **case.inputs)
    exact = [x.detach() for x in drawn(case.length, torch.bfloat16)[0]]
    wanted = division.shard(attended(*(x.double() for x in exact), kept_of(case))[0], rank)
    out = attend(*of_rank(exact, division, rank), division, **case.inputs)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), wanted, atol=0.03, rtol=0.03)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again = attend(*of_rank([x.float() for x in exact], division, rank), division, **case.inputs)
    torch.testing.assert_close(again, out, atol=0, rtol=0)


def layers(rank: int, ranks: int) -> None:
    """One division serves layers of other masks, which see more than the one that it was made for, and other inputs."""
    case, wide = MASKS["documents"], MASKS["causal"]
    division = ContextParallel(maskc.compile("causal & sliding_window(5)", heads=HEADS)).partition(case.length)
    qkv, _, _ = drawn(case.length)
    packed, whole = (ContextParallel(maskc.compile(x.text, heads=HEADS)) for x in (case, wide))
    for doc in (case.inputs["doc"], np.zeros(case.length, int), np.arange(case.length) // 9):
        kept = torch.from_numpy(doc[:, None] == doc[None, :])
        out = packed(*of_rank(qkv, division, rank), division, doc=torch.from_numpy(doc))
        torch.testing.assert_close(out, division.shard(attended(*qkv, kept)[0], rank), atol=1e-11, rtol=1e-10)
    out = whole(*of_rank(qkv, division, rank), division)
    torch.testing.assert_close(out, division.shard(attended(*qkv, kept_of(wide))[0], rank), atol=1e-11, rtol=1e-10)
    assert len(division.memory) == 4
    again = ContextParallel(maskc.compile(wide.text, heads=HEADS, layer=7))
    again(*of_rank(qkv, division, rank), division)
    assert len(division.memory) == 4  # the same mask in another layer is planned once


def chunks_that_swap(rank: int, ranks: int) -> None:
    """Ranks that need the same keys as before, but each for others of its chunks."""
    attend, length = ContextParallel(maskc.compile(MASKS["documents"].text, heads=HEADS)), 128 * ranks
    causal = maskc.compile("causal", heads=HEADS)
    division = partition(causal, length, ranks, method="balanced", parts=2)  # head and tail
    qkv, chunk = drawn(length)[0], np.arange(length) // 64
    for doc in (chunk, np.minimum(chunk, chunk[::-1]), chunk):
        kept = torch.from_numpy(doc[:, None] == doc[None, :])
        out = attend(*of_rank(qkv, division, rank), division, doc=doc)
        torch.testing.assert_close(out, division.shard(attended(*qkv, kept)[0], rank), atol=1e-11, rtol=1e-10)


def module(rank: int, ranks: int) -> None:
    """``maskc.nn.Attention`` over its share of a sequence."""
    from maskc.nn import Attention

    torch.manual_seed(0)
    attention = Attention(32, HEADS, MASKS["documents"].text, kv_heads=KV_HEADS).double()
    x, doc = torch.randn(2, 384, 32, dtype=torch.float64), MASKS["documents"].inputs["doc"]
    division = attention.parallel.partition(384, doc=doc)
    mine = attention(division.shard(x, rank), division=division, doc=doc)
    torch.testing.assert_close(mine, division.shard(attention(x, doc=doc), rank), atol=1e-11, rtol=1e-10)
    _raises(maskc.MaskcError, "one sequence is divided", lambda: attention(x, x, division=division, doc=doc))
    assert copy.deepcopy(attention).parallel.op is not attention.op


def learned(rank: int, ranks: int) -> None:
    """Float inputs of the whole sequence: what the ranks' gradients add up to."""
    text = """pattern p(slope: float[head], own: float[q], of: float[token]) {
        attend causal & sliding_window(60)
        score s + slope[h] * (k - q) + own[q] + of[k]
        output o * (1.0 + of[q])
    }"""
    attend, length = ContextParallel(maskc.compile(text, heads=HEADS), overlap=2), 200
    (q, k, v), weight, _ = drawn(length)
    given = {
        n: torch.linspace(-1, 1, size, dtype=torch.float64) for n, size in (("slope", 4), ("own", 200), ("of", 200))
    }
    given = {n: x.requires_grad_() for n, x in given.items()}
    i = torch.arange(length)
    distance = i[:, None] - i[None, :]
    bias = given["slope"][:, None, None] * -distance + given["own"][:, None] + given["of"]
    out = attended(q, k, v, (distance >= 0) & (distance < 60), bias)[0] * (1 + given["of"][:, None])
    wanted = torch.autograd.grad((out * weight).sum(), list(given.values()))
    division = attend.partition(length, method="balanced", parts=2)
    got = attend(*of_rank([q, k, v], division, rank), division, inputs=given)
    torch.testing.assert_close(got, division.shard(out, rank), atol=1e-11, rtol=1e-10)
    (got * division.shard(weight, rank)).sum().backward()
    for x, grad in zip(given.values(), wanted, strict=True):
        dist.all_reduce(x.grad)
        torch.testing.assert_close(x.grad, grad, atol=1e-10, rtol=1e-9)


def under_way(rank: int, ranks: int) -> None:
    """Keys of all groups of heads are sent before any is computed, and gradients of each when they are known."""
    said: list[str] = []

    def saying(what: str, call: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **options: (said.append(what), call(*args, **options))[1]

    op, length = maskc.compile("causal", heads=HEADS), 256
    attend = ContextParallel(op, overlap=2)
    division = attend.partition(length, method="contiguous")
    mine = of_rank(drawn(length)[0], division, rank)
    with (
        mock.patch.object(dist, "all_to_all_single", saying("send", dist.all_to_all_single)),
        mock.patch.object(_Shipment, "arrived", saying("wait", _Shipment.arrived)),
        mock.patch.object(maskc.Op, "__call__", saying("attend", maskc.Op.__call__)),
    ):
        out = attend(*mine, division)
        assert said == ["send", "send", "wait", "attend", "wait", "attend"]
        said.clear()
        # Each group's gradients leave before those of the groups before it are computed.
        last = out.grad_fn.next_functions[1][0]
        last.register_prehook(lambda grads: said.append("last"))
        out.grad_fn.next_functions[0][0].register_prehook(lambda grads: said.append("first"))
        out.sum().backward()
        assert said == ["last", "send", "first", "send", "wait", "wait"], said


def by_hand(rank: int, ranks: int) -> None:
    """Any chunks in any order; a rank that holds nothing takes part, in the backward pass too."""
    draw = np.random.default_rng(5)
    for name in ("window", "sinks", "documents by batch entry", "windows by head", "grid", "ragged"):
        case = MASKS[name]
        op, kept = maskc.compile(case.text, heads=HEADS, sizes=case.sizes, **case.arguments), kept_of(case)
        cuts = [0, *sorted(draw.choice(np.arange(1, case.length), 6, replace=False).tolist()), case.length]
        chunks = [Chunk(*c) for c in itertools.pairwise(cuts)]
        owner = draw.integers(0, max(1, ranks - 1), len(chunks))  # nothing for the last rank
        held = [[chunks[i] for i in draw.permutation(len(chunks)) if owner[i] == r] for r in range(ranks)]
        none = np.zeros(ranks, np.int64)
        division = Partition(case.length, tuple(map(tuple, held)), np.ones(ranks), none, "by hand")
        qkv, weight, _ = drawn(case.length)
        out = attended(*qkv, kept)[0]
        wanted = torch.autograd.grad((out * weight).sum(), qkv)
        mine = of_rank(qkv, division, rank)
        got = ContextParallel(op, overlap=2)(*mine, division, **case.inputs)
        torch.testing.assert_close(got, division.shard(out, rank), atol=1e-11, rtol=1e-10)
        (got * division.shard(weight, rank)).sum().backward()
        for x, grad in zip(mine, wanted, strict=True):
            torch.testing.assert_close(x.grad, division.shard(grad, rank), atol=1e-11, rtol=1e-10)


def normalised(rank: int, ranks: int) -> None:
    """What could not be put together from parts of the keys: sinks, and weights that are no softmax's."""
    length, i = 200, torch.arange(200)
    kept = (i[:, None] >= i) & (i[:, None] - i < 60)
    (q, k, v), weight, _ = drawn(length)
    sink = torch.linspace(-1, 1, HEADS, dtype=torch.float64).requires_grad_()
    ones = torch.ones(2, 1, length, 1, dtype=torch.float64)
    scores = q @ k.repeat_interleave(2, 1).transpose(-1, -2) / DIM**0.5
    with_sink = torch.cat([scores.masked_fill(~kept, -torch.inf), sink[:, None, None] * ones], -1).softmax(-1)[..., :-1]
    for text, weights in {
        "softmax(sink = sink[h])": with_sink,
        "sigmoid": scores.sigmoid() * kept,
        "relu": scores.relu() * kept,
    }.items():
        given = {"sink": sink} if "sink" in text else {}
        signature = "(sink: float[head])" if given else ""
        op = maskc.compile(f"pattern p{signature} {{ attend causal & q - k < 60\n normalize {text} }}", heads=HEADS)
        attend = ContextParallel(op, overlap=2)
        division = attend.partition(length, method="balanced", parts=2)
        out = weights @ v.repeat_interleave(2, 1)
        wanted = torch.autograd.grad((out * weight).sum(), [q, k, v, *given.values()], retain_graph=True)
        mine = of_rank([q, k, v], division, rank)
        got = attend(*mine, division, **given)
        torch.testing.assert_close(got, division.shard(out, rank), atol=1e-11, rtol=1e-10)
        grads = torch.autograd.grad((got * division.shard(weight, rank)).sum(), [*mine, *given.values()])
        for x, grad in zip(grads, wanted, strict=False):
            if x.ndim == 4:
                torch.testing.assert_close(x, division.shard(grad, rank), atol=1e-11, rtol=1e-10)
        if given:
            dist.all_reduce(grads[-1])
            torch.testing.assert_close(grads[-1], wanted[-1], atol=1e-10, rtol=1e-9)


def graphs(rank: int, ranks: int) -> None:
    """Compilers leave the call alone, and gradients of gradients are refused."""
    attend = ContextParallel(maskc.compile("causal & sliding_window(40)", heads=HEADS))
    qkv, _, _ = drawn(256)
    division = attend.partition(256)
    mine = of_rank(qkv, division, rank)
    compiled = torch.compile(lambda q, k, v: attend(q * 2, k, v, division) + 1, backend="aot_eager")
    torch.testing.assert_close(compiled(*mine), attend(mine[0] * 2, *mine[1:], division) + 1)
    (first,) = torch.autograd.grad(attend(*mine, division).sum(), mine[1], create_graph=True)
    _raises(RuntimeError, "once_differentiable", lambda: first.sum().backward())


def nothing_but_needed(rank: int, ranks: int) -> None:
    """Keys that no query of a rank sees may be anything at all: they are not sent to it."""
    case = MASKS["window"]
    attend = ContextParallel(maskc.compile(case.text, heads=HEADS))
    division = attend.partition(case.length, method="contiguous")
    qkv, _, _ = drawn(case.length)
    if rank != 1:  # queries of rank 1 alone see these
        for x in qkv[1:]:
            x.data[:, :, division.length - 1] = torch.nan
    out = attend(*of_rank(qkv, division, rank), division)
    first_two = division.index(0).size + division.index(1).size
    assert torch.isfinite(out).all() == (division.index(rank)[-1] < first_two)


def mistakes(rank: int, ranks: int) -> None:
    """What is wrong is said in every process, before any waits for another."""
    case = MASKS["documents"]
    op = maskc.compile(case.text, heads=HEADS)
    attend, doc = ContextParallel(op), case.inputs["doc"]
    division = attend.partition(case.length, doc=doc)
    q, k, v = of_rank(drawn(case.length)[0], division, rank)
    _raises(maskc.MaskcError, "this rank holds", lambda: attend(q[:, :, 1:], k, v, division, doc=doc))
    _raises(maskc.MaskcError, "this rank holds", lambda: attend(q, k[:, :, 1:], v[:, :, 1:], division, doc=doc))
    _raises(maskc.MaskcError, "whole sequence of 384", lambda: attend(q, k, v, division, doc=doc[1:]))
    _raises(maskc.MaskcError, "needs the input 'doc'", lambda: attend(q, k, v, division))
    other = partition(op, case.length, ranks + 1, doc=doc)
    _raises(maskc.MaskcError, f"among {ranks + 1} ranks", lambda: attend(q, k, v, other, doc=doc))
    _raises(TypeError, "a partition", lambda: attend(q, k, v, case.length, doc=doc))
    # Inputs that differ between processes would send keys to where nobody waits for them.
    mine = attend.partition(case.length, method="balanced", parts=1 + rank % 2, exchange=0, doc=doc)
    q, k, v = of_rank(drawn(case.length)[0], mine, rank)
    _raises(RuntimeError, "divide the sequence otherwise", lambda: attend(q, k, v, mine, doc=doc))
    # In check mode also where a process remembers its own, and another does not.
    q, k, v = of_rank(drawn(case.length)[0], division, rank)
    checked = ContextParallel(maskc.compile(case.text, heads=HEADS, check=True))
    checked(q, k, v, division, doc=doc)
    other_doc = doc if rank == 0 else doc[::-1].copy()
    _raises(RuntimeError, "have another mask", lambda: checked(q, k, v, division, doc=other_doc))
    cross = maskc.compile("pattern p over decoder -> encoder { attend k <= q }", heads=1)
    _raises(maskc.MaskcError, "two sequences", lambda: ContextParallel(cross))


def unlike_calls(rank: int, ranks: int) -> None:
    """What one process alone does otherwise is said in all of them, and nobody waits."""
    op = maskc.compile("pattern p(doc: int[token]) { attend same(doc) & causal }", heads=HEADS)
    doc, length = np.arange(256) // 30, 256
    odd = rank == ranks - 1
    changes: dict[str, Callable[..., Any]] = {
        "1 batch entries": lambda q, k, v: (q[:1], k[:1], v[:1]),
        "4 of keys": lambda q, k, v: (q, *(x.repeat_interleave(2, 1) for x in (k, v))),
        "16 and 12 channels": lambda q, k, v: (q, k, v[..., :12]),
        "float32": lambda *qkv: [x.float() for x in qkv],
        "without gradients": lambda *qkv: [x.detach() for x in qkv],
        "does not make the call: error[E510]": lambda q, k, v: (q[:, :, 1:], k, v),
        "does not make the call: error[E511]": lambda q, k, v: (q, k.float(), v),
    }
    for says, change in changes.items():
        # Every other time it is something else that was known.
        attend, length = ContextParallel(op), length + 1
        doc = np.append(doc, 9)
        division = attend.partition(length, doc=doc)
        qkv = of_rank(drawn(length)[0], division, rank)
        own = "E51" in says and odd
        kind, text = (maskc.MaskcError, says[-5:-1]) if own else (RuntimeError, says)
        given = change(*qkv) if odd else qkv
        _raises(kind, text, lambda: attend(*given, division, doc=doc))  # noqa: B023
        again = attend(*qkv, division, doc=doc)
        assert again.shape == (2, HEADS, division.tokens[rank], VALUE_DIM)
    # What all agree on is remembered for all layers, by what divisions are and not by which objects.
    for layer in (0, 1):
        attend = ContextParallel(maskc.compile(op.pattern, heads=HEADS, layer=layer))
        with mock.patch.object(dist, "all_gather", side_effect=AssertionError("agreed on before")):
            attend(*qkv, pickle.loads(pickle.dumps(division)), doc=doc)
    division = attend.partition(length + 1, doc=np.append(doc, 9))
    qkv = of_rank(drawn(length + 1)[0], division, rank)
    other = ContextParallel(maskc.compile("causal", heads=HEADS)) if odd else ContextParallel(op)
    given = {} if odd else {"doc": np.append(doc, 9)}
    _raises(RuntimeError, "another pattern", lambda: other(*qkv, division, inputs=given))
    kind, given = (maskc.MaskcError, {}) if odd else (RuntimeError, {"doc": np.append(doc, 9)})
    _raises(kind, "needs the input", lambda: ContextParallel(op)(*qkv, division, inputs=given))


def _raises(kind: type[Exception], says: str, call: Callable[[], Any]) -> None:
    try:
        call()
    except kind as error:
        assert says in str(error), error
    else:
        raise AssertionError(f"nothing was raised that says {says!r}")
