"""The autotuner: measures a few configurations of a kernel on the tensors of a call, in bounded time.

The default is measured first and wins unless another one is clearly faster, so that noise changes nothing. What was
found is kept (see ``records``) and taken for all calls alike: see ``Situation`` for what that means.
"""

from __future__ import annotations

import contextlib
import hashlib
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import torch
import triton

import maskc
from maskc.backends.triton.ahead import side_by_side
from maskc.backends.triton.configs import LONG_ROWS, Config, Rows, candidates
from maskc.backends.triton.launch import capturing, pad, target_of
from maskc.backends.triton.masks import pair_values
from maskc.backends.triton.records import Record, Situation, recall, store
from maskc.backends.triton.spelling import ascii_text
from maskc.diagnostics import MaskcError
from maskc.ir.nodes import Symbol, postorder
from maskc.ir.text import print_program
from maskc.tiles.cost import plan_cost, row_costs
from maskc.tiles.tiling import PARTIAL

if TYPE_CHECKING:
    from maskc.backends.triton.problem import Problem

__all__ = [
    "Ahead",
    "Choice",
    "Trial",
    "best",
    "choose",
    "compare",
    "device_timer",
    "predicted_cost",
    "rows_of",
    "situation_of",
]

Tensor = torch.Tensor
#: Seconds that what it is given takes on the device.
Timer = Callable[[Callable[[], None]], float]

#: Compiles what starting some configurations takes.
Ahead = Callable[[Sequence[Config]], None]

_ROUNDS = 9
_KERNELS = 2  # that a configuration has mostly: as many processors as that compile one
_HOPELESS = 1.5  # times the fastest, each at its best: not measured again
_MOSTLY_PARTIAL = 0.4  # the share of partial tiles from which on smaller tiles were faster on an H100
_CLEARLY = 0.98  # of the default's time: only then is another configuration taken


@dataclass(frozen=True)
class Trial:
    """A configuration and the median of its ``times`` in seconds; ``why``: why it has none."""

    config: Config
    times: tuple[float, ...] = ()
    why: str = ""

    @property
    def seconds(self) -> float:
        """Infinite if it was not measured."""
        return statistics.median(self.times) if self.times else float("inf")


@dataclass(frozen=True)
class Choice:
    """The configuration of a stage, and how it came about: ``source`` is "default", "stored" or "measured"."""

    stage: str
    config: Config
    source: str
    trials: tuple[Trial, ...] = ()
    record: Record | None = None


def compare(
    configs: Sequence[Config],
    start: Callable[[Config], None],
    seconds_of: Timer,
    *,
    budget: float,
    clock: Callable[[], float] = time.monotonic,
    rounds: int = _ROUNDS,
    ahead: Ahead | None = None,
) -> tuple[Trial, ...]:
    """Measure configurations in turns, so that a device that grows slower or faster does so for all of them.

    The first is the default: what it raises is raised. Others that cannot be started are left out. No round starts
    once ``budget`` seconds have passed, nor is another configuration tried then. ``ahead``: compiles some.
    """
    end, batch = clock() + budget, max(1, side_by_side() // _KERNELS)
    times: dict[Config, list[float]] = {}
    why: dict[Config, str] = {}
    for i, each in enumerate(configs):
        if times and clock() >= end:
            why[each] = "no time left"
            continue
        if ahead is not None and i and (i - 1) % batch == 0:
            ahead(configs[i : i + batch])
        try:
            start(each)  # compiles it
            times[each] = [seconds_of(_bound(start, each))]
        except Exception as error:  # whatever compilers raise of a configuration that a chip cannot take
            if not times:
                raise
            why[each] = f"{type(error).__name__}: {error}".split("\n")[0][:200]
    for _ in range(rounds - 1):
        fastest = min(min(t) for t in times.values())
        for each, found in times.items():
            if clock() >= end:
                break
            if len(found) < 2 or min(found) <= _HOPELESS * fastest:
                found.append(seconds_of(_bound(start, each)))
    return tuple(Trial(c, tuple(times.get(c, ())), why.get(c, "")) for c in configs)


def _bound(start: Callable[[Config], None], chosen: Config) -> Callable[[], None]:
    return lambda: start(chosen)


def best(trials: Sequence[Trial]) -> Trial:
    """The fastest, or the first if none is clearly faster than it."""
    fastest = min(trials, key=lambda t: t.seconds)
    return fastest if fastest.seconds < _CLEARLY * trials[0].seconds else trials[0]


def choose(
    entry: Problem,
    stage: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    start: Callable[[Config], None],
    *,
    timer: Timer | None = None,
    clock: Callable[[], float] = time.monotonic,
    ahead: Ahead | None = None,
) -> Choice:
    """The configuration for a stage of a call, as ``entry.autotune`` says. ``start``, ``ahead``: as for ``compare``.

    "off": the default; "cached": what was measured before, if anything; "on": it is measured now unless it was
    before; "again": in any case. Nothing is measured while a CUDA graph is captured.
    """
    values = pair_values(entry.text_program, None)
    name = str(q.dtype).removeprefix("torch.")
    name = "tf32" if name == "float32" and entry.precision == "tf32" else name
    target = target_of(q.device)
    dims = pad(q.shape[3]), pad(v.shape[3])
    kinds: tuple[Rows, ...] = ("usual",) if stage in ("decode", "pairs") else get_args(Rows)
    by_kind = {kind: candidates(stage, target, *dims, name, values, kind) for kind in kinds}
    configs = by_kind["usual"]
    if len({configs[0] for configs in by_kind.values()}) > 1:
        configs = by_kind[rows_of(entry, stage, configs[0])]
    if entry.autotune == "off" or len(configs) == 1:
        return Choice(stage, configs[0], "default")
    situation = situation_of(entry, stage, q, k, v)
    known = None if entry.autotune == "again" else recall(situation)
    if known is not None and known.config in configs:
        return Choice(stage, known.config, "stored", record=known)
    if entry.autotune == "cached" or capturing(q.device):
        return Choice(stage, configs[0], "default")
    began = clock()
    ordered = _ordered(entry, stage, configs, q.device, clock, began + entry.budget / 4)
    seconds_of = timer or device_timer(q.device)
    rest = max(0.0, entry.budget - (clock() - began))
    trials = compare(ordered, start, seconds_of, budget=rest, clock=clock, ahead=ahead)
    found = best(trials)
    record = Record(situation, found.config, found.seconds, trials[0].seconds)
    store([record])
    return Choice(stage, found.config, "measured", trials, record)


def rows_of(entry: Problem, stage: str, chosen: Config) -> Rows:
    """What the plan's rows are like for a stage."""
    plan = entry.plan(chosen.q_tile, chosen.k_tile, entry.layout)
    tiles = partial = rows = 0
    for g in plan.groups:
        lengths, copies = g.runs.end - g.runs.start, len(g.heads) * len(g.batches)
        tiles += copies * int(lengths.sum())
        partial += copies * int(lengths[g.runs.kind == PARTIAL].sum())
        rows += copies * (g.runs.offsets.size - 1)
    if partial > _MOSTLY_PARTIAL * tiles:
        return "masked"
    if plan.q_order.index is not None or plan.k_order.index is not None:
        return "placed"
    return "long" if tiles * chosen.k_tile >= LONG_ROWS * rows else "short"


def situation_of(entry: Problem, stage: str, q: Tensor, k: Tensor, v: Tensor) -> Situation:
    """What a result measured with these tensors holds for."""
    b, target = entry.binding, target_of(q.device)
    layer = b.layer if Symbol("layer") in postorder(entry.text_program.roots()) else None
    said = (print_program(entry.text_program, name="p", docs=False), sorted(b.sizes.items()), layer, entry.layout)
    device = torch.cuda.get_device_name(q.device) if q.device.type == "cuda" else "interpreter"
    return Situation(
        pattern=hashlib.sha256(repr(said).encode()).hexdigest(),
        stage=stage,
        q_len=_rounded(b.q_len),
        k_len=_rounded(b.k_len),
        rows=_rounded(q.shape[0] * q.shape[1]),
        head_dim=q.shape[3],
        value_dim=v.shape[3],
        dtype=str(q.dtype).removeprefix("torch."),
        group=q.shape[1] // k.shape[1],
        precision=entry.precision,
        device=_word(device),
        target=_word("interpreter" if target is None else str(target)),
        triton=_word(triton.__version__),
        maskc=_word(maskc.__version__),
    )


def _rounded(n: int) -> int:
    return max(16, 1 << (n - 1).bit_length())


def _word(text: str) -> str:
    return ascii_text(text)[:100] or "?"


def predicted_cost(entry: Problem, q_tile: int, k_tile: int, workers: int) -> float:
    """What a stage would take with these tiles, in units of the planner's cost model: either all that there is to
    do shared by ``workers``, or the longest row, which one of them must do alone."""
    plan = entry.plan(q_tile, k_tile, entry.layout)
    longest = max((float(row_costs(g.runs, q_tile, k_tile).max(initial=0.0)) for g in plan.groups), default=0.0)
    return max(plan_cost(plan) / workers, longest)


def _ordered(
    entry: Problem,
    stage: str,
    configs: tuple[Config, ...],
    device: torch.device,
    clock: Callable[[], float],
    end: float,
) -> list[Config]:
    """The default, then the others as the model expects them; those that there is no time to plan come last."""
    workers = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
    costs: dict[tuple[int, int], float] = {}

    def cost(chosen: Config) -> float:
        size = chosen.q_tile, chosen.k_tile
        if size not in costs:
            costs[size] = float("inf")
            if clock() < end:
                with contextlib.suppress(MaskcError):  # too many tiles of this size to plan
                    costs[size] = predicted_cost(entry, *size, workers)
        return costs[size]

    others = configs[1:] if stage == "decode" else sorted(configs[1:], key=cost)
    return [configs[0], *others]


def device_timer(device: torch.device) -> Timer:
    """Times by events on the current stream, or by the clock where there is no GPU.

    Before each run a buffer larger than the cache is filled: runs meet a cold cache, as in a model, and are put
    in the queue while the device still fills, so that their starting costs nothing.
    """
    if device.type != "cuda":
        return _seconds_by_clock
    cache = getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 1 << 26)
    buffer = torch.empty(max(2 * int(cache), 1 << 26), dtype=torch.int8, device=device)

    def seconds(run: Callable[[], None]) -> float:
        with torch.cuda.device(device):
            event: Any = torch.cuda.Event
            first, last = event(enable_timing=True), event(enable_timing=True)
            for _ in range(8):
                buffer.zero_()
            first.record()
            run()
            last.record()
            last.synchronize()
            return float(first.elapsed_time(last)) / 1e3

    return seconds


def _seconds_by_clock(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began
