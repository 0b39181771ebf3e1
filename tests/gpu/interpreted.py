"""Kernels under Triton's interpreter, in a process of their own: the switch counts when Triton is imported.

Reads one request a line from standard input, a JSON list of a function's name and its arguments, and
answers with one line.
"""

from __future__ import annotations

import importlib
import json
import sys
import traceback
import warnings
from typing import Any

import numpy as np
import torch

from maskc.backends.triton import launch as launch_module
from maskc.backends.triton import masks
from maskc.backends.triton import plans as plans_module
from maskc.backends.triton.configs import Config
from maskc.backends.triton.entry import Entry
from maskc.backends.triton.masks import mask_form
from maskc.backends.triton.spec import Kernel
from maskc.ir.binding import Binding
from maskc.ir.program import Program
from maskc.lower import lower_text
from maskc.reference.attention import attention
from maskc.tiles.binding import bind
from tests.gpu.cases import CASES, Case
from tests.gpu.faster import hurry
from tests.gpu.older import mend

Tensor = torch.Tensor


def differences(name: str) -> dict[str, float]:
    """The largest difference from the reference in float64 of everything a call of the case gives."""
    case = CASES[name]
    given = _given(case)
    entry, q, k, v, floats, scale = given
    out, lse, plain = entry.forward(q, k, v, list(floats.values()), scale)
    exact = _exact(entry, q, k, v, floats, scale)
    found = {"out": _difference(out, exact["out"])}
    if exact["lse"] is not None:
        found["lse"] = _difference(lse, exact["lse"])
    generator = torch.Generator().manual_seed(7)
    grad = torch.randn(out.shape, generator=generator).to(q.dtype)
    live = None if exact["lse"] is None else exact["lse"] > -torch.inf
    grad_lse = None if live is None else torch.randn(lse.shape, generator=generator) * live
    result = out if entry.plain_output else plain
    grads = entry.backward(q, k, v, list(floats.values()), result, lse, grad, grad_lse, scale)
    # Only sums can differ from time to time: those of float inputs, and atomic ones, which are never written.
    assert not any("atomic" in x.text for x in entry._memory.values() if isinstance(x, Kernel))
    again = entry.backward(q, k, v, list(floats.values()), result, lse, grad, grad_lse, scale) if floats else grads
    loss = (exact["out"] * grad.double()).sum()
    if live is not None and grad_lse is not None:
        loss = loss + (torch.where(live, exact["lse"], 0.0) * grad_lse.double()).sum()
    wanted = torch.autograd.grad(loss, exact["leaves"], allow_unused=True)
    names = ["dq", "dk", "dv", *(f"d {n}" for n in floats)]
    for each, a, b, same in zip(names, [*grads[:3], *grads[3]], wanted, [*again[:3], *again[3]], strict=True):
        found[each] = _difference(a, torch.zeros_like(a).double() if b is None else b)
        found["not deterministic"] = found.get("not deterministic", 0.0) + float(not torch.equal(a, same))
    return found


def flat_differences(name: str) -> dict[str, float]:
    """``differences`` where a grid has no room for all heads and batch entries along axes of their own."""
    most, launch_module._MOST = launch_module._MOST, 1
    try:
        return differences(name)
    finally:
        launch_module._MOST = most


def joined_kernels(name: str) -> list[list[bool]]:
    """Of the kernels of a case whose full and partial tiles are one sequence: whether it is by keys, and whether tiles
    are a list."""
    entry = _given(CASES[name])[0]
    found = []
    for stage in ("forward", "dq", "dkv"):
        plan, form = entry._device_plan(stage, entry.configs[stage], torch.device("cpu"), 32)
        if form.joined:
            found.append([stage == "dkv", not plan.arguments["ONE_RUN"]])
    return found


def nan_reaches(text: str, length: int, tile: int) -> bool:
    """Whether NaN in what no kept pair needs (the tokens from ``length`` on) reaches a result."""
    program = lower_text(text)[0]
    binding = bind(program, 40, 40, heads=1, layer=0, batch=1, sizes={}, values={})
    generator = torch.Generator().manual_seed(0)
    q, k, v, grad = (torch.randn(1, 1, 40, 32, generator=generator) for _ in range(4))
    k[:, :, length:], v[:, :, length:] = torch.nan, torch.inf
    if "q < " in text:
        q[:, :, length:], grad[:, :, length:] = torch.nan, torch.nan
    names = tuple(p.name for p in program.params)
    floats = [torch.randn(40, generator=generator) for _ in names]
    entry = Entry(program, binding, names, configs={s: Config(tile, tile, 4, 1) for s in ("forward", "dq", "dkv")})
    out, lse, _ = entry.forward(q, k, v, floats, 0.2)
    *grads, rest = entry.backward(q, k, v, floats, out, lse, grad, None, 0.2)
    return not all(bool(x.isfinite().all()) for x in (out, *grads, *rest)) or bool(lse.isnan().any())


def other_strides() -> dict[str, float]:
    """How much results and gradients differ for tensors (token, batch, head, dim) from those for contiguous ones; the
    texts of kernels differ, too."""
    program = lower_text("pattern p(bias: float[head, 9]) { attend sliding_window(9)\n score s + bias[h, q - k] }")[0]
    generator = torch.Generator().manual_seed(0)
    bias = torch.randn(2, 9, generator=generator)
    plain = [torch.randn(3, 2, 37, 32, generator=generator) for _ in range(4)]
    moved = [x.permute(2, 0, 1, 3).contiguous().permute(1, 2, 0, 3) for x in plain]
    results, texts = [], []
    for q, k, v, grad in (plain, moved):
        binding = bind(program, 37, 37, heads=2, layer=0, batch=3, sizes={}, values={})
        stages = ("forward", "dq", "dkv", "pairs")
        entry = Entry(program, binding, ("bias",), configs={s: Config(16, 16, 4, 1) for s in stages})
        out, lse, _ = entry.forward(q, k, v, [bias], 0.2)
        *grads, more = entry.backward(q, k, v, [bias], out, lse, grad, None, 0.2)
        results.append([out, lse, *grads, *more])
        texts.append({key[0]: value.text for key, value in entry._memory.items() if key[0] in stages})
    assert all(texts[0][stage] != texts[1][stage] for stage in texts[0])
    names = ("out", "lse", "dq", "dk", "dv", "bias")
    return {n: float((a - b).abs().max()) for n, a, b in zip(names, *results, strict=True)}


def random_masks(count: int) -> int:
    """Try ``count`` random programs of ``tests.strategies``, forward and decoding; the number that could be written."""
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st

    from maskc.backends.triton.expressions import Unsupported
    from maskc.diagnostics import MaskcError
    from tests.strategies import bindings, programs

    written = [0]

    @settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def one(data: Any) -> None:
        program, binding = data.draw(programs(scores=False)), data.draw(bindings())
        try:
            _same_forward(program, binding)
            written[0] += 1
        except Unsupported:
            pass
        except MaskcError as error:
            if error.codes[0] not in ("E801", "E507", "E508"):
                raise

    one()
    return written[0]


def backend_call() -> dict[str, Any]:
    """The backend by its name, through the op: refusals, fallbacks, graphs."""
    import maskc
    from maskc.diagnostics import MaskcError

    q, k, v = (torch.randn(1, h, 24, 32).requires_grad_() for h in (4, 2, 2))
    slope = torch.randn(4).requires_grad_()
    op = maskc.compile(_ALIBI, heads=4, backend="triton", check=True)
    out, lse = op(q, k, v, slope=slope, return_lse=True)
    (out.sum() + lse.sum()).backward()
    exact = maskc.compile(_ALIBI, heads=4, backend="reference")
    leaves = [x.detach().double().requires_grad_() for x in (q, k, v, slope)]
    wanted, wanted_lse = exact(*leaves[:3], slope=leaves[3], return_lse=True)
    (wanted.sum() + wanted_lse.sum()).backward()
    answers: dict[str, Any] = {
        "gradients": [_difference(a.grad, b.grad) for a, b in zip((q, k, v, slope), leaves, strict=True)]
    }
    pairs = maskc.compile(_BY_SCORE, heads=4, backend="triton")
    bias = torch.randn(4, 9).requires_grad_()
    try:
        pairs(q, k, v, bias=bias)
    except MaskcError as error:
        answers["refusal"] = str(error)
    with torch.no_grad():
        answers["frozen"] = list(pairs(q, k, v, bias=bias).shape)
    causal = maskc.compile("causal", heads=4, backend="triton")
    graph = torch.compile(lambda a, b, c: causal(a, b, c).sum(), fullgraph=True, backend="aot_eager")
    answers["graph"] = _difference(graph(q, k, v), causal(q, k, v).sum().double())
    try:
        causal(*(x.bfloat16() for x in (q, k, v)))
    except MaskcError as error:
        answers["bfloat16"] = str(error)
    return answers


def few_queries_at(start: int) -> list[float]:
    """The differences of output and log-sum-exp from a formula, for four queries that are anywhere in a sequence, and
    are decoded."""
    import maskc
    from maskc.backends.triton.decode import decodes

    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, n, 16, generator=generator) for n in (4, 1030, 1030))
    op = maskc.compile("abs(q - k) <= 20 | k < 3", heads=2, backend="triton")
    assert decodes(Entry(op.program, op.bind(4, 1030, q_start=start), ()))
    found, keys = op(q, k, v, q_start=start, return_lse=True), torch.arange(1030)
    keep = ((start + torch.arange(4)[:, None] - keys).abs() <= 20) | (keys < 3)
    scores = (q.double() @ k.double().mT / 4).masked_fill(~keep, -torch.inf)
    return [
        _difference(a, b) for a, b in zip(found, (scores.softmax(-1) @ v.double(), scores.logsumexp(-1)), strict=True)
    ]


def empty_calls() -> None:
    """Calls with no batch entry, query or key, and decoding with none."""
    from tests.op import empty

    for name in empty.TEXTS:
        for shape in empty.SHAPES:
            if empty.possible(name, shape):
                empty.call("triton", name, shape)
    empty.call("triton", "sink", (2, 4, 0), traced=True)
    for paged in (False, True):
        empty.decode("triton", paged)


_ALIBI = "pattern p(slope: float[head]) { attend causal & window(9)\n score s + slope[h] * (k - q) }"
_BY_SCORE = "pattern p(bias: float[head, 9]) { attend causal\n score s + bias[h, floor(s)] }"


def _same_forward(program: Program, binding: Binding) -> None:
    heads, batch = binding.heads, binding.batch
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(batch, heads, n, 16, generator=generator) for n in (binding.q_len, binding.k_len, binding.k_len)
    )
    wanted, wanted_lse = attention(program, binding, q.double(), k.double(), v.double(), scale=0.25)
    # Some lengths are multiples of the forward kernel's tile: full and partial tiles are one sequence there.
    configs = {"forward": Config(8, 8, 4, 1), "decode": Config(16, 16, 4, 1)}
    for splits in (0, 2):
        out, lse, _ = Entry(program, binding, (), configs=configs, splits=splits).forward(q, k, v, [], 0.25)
        assert _difference(out, wanted) < 1e-5, (program, splits)
        assert wanted_lse is None or _difference(lse, wanted_lse) < 1e-5, (program, splits)


def _given(case: Case) -> tuple[Entry, Tensor, Tensor, Tensor, dict[str, Tensor], float]:
    program = lower_text(case.text)[0]
    binding = bind(
        program,
        case.q_len,
        case.k_len,
        heads=case.heads,
        layer=case.layer,
        batch=case.batch,
        sizes=case.sizes,
        values={n: np.asarray(x) for n, x in case.inputs.items()},
        q_start=case.q_start,
    )
    generator = torch.Generator().manual_seed(1)
    floats = {n: torch.randn(shape, generator=generator) for n, shape in case.floats.items()}
    extra = {n for n, x in floats.items() if x.ndim > len(program.parameter(n).domain)}
    binding = binding.replace(batched=binding.batched | extra)
    dtype = getattr(torch, case.dtype)

    def tensor(heads: int, length: int, dim: int) -> Tensor:
        shape = (case.batch, length, heads, dim) if case.strided else (case.batch, heads, length, dim)
        x = torch.randn(shape, generator=generator).to(dtype)
        return x.transpose(1, 2) if case.strided else x

    configs = {s: Config(case.tile, case.tile, 4, 1) for s in ("forward", "dq", "dkv", "pairs", "decode")}
    entry = Entry(program, binding, tuple(floats), configs=configs, splits=case.splits, layout=case.layout)
    plan = entry.plan(case.tile, case.tile, case.layout)
    assert (plan.q_order.index is None) == (case.layout == "none")
    form = mask_form(entry.text_program, plan)
    if not case.boxed:  # by intervals, or by the mask itself
        cost = masks.mask_cost(entry.text_program)
        form = None if case.clauses is None else masks._clauses(plan, cost), None
    assert (form[0], form[1] is not None) == (case.clauses, case.boxed)
    plans_module.mask_form = lambda program, plan: form  # type: ignore[assignment]
    if case.pack is not None:
        assert entry._forward_pack(configs["forward"], case.heads // case.kv_heads) == case.pack
    q = tensor(case.heads, case.q_len, case.dim)
    k, v = (tensor(case.kv_heads, case.k_len, d) for d in (case.dim, case.value_dim))
    return entry, q, k, v, floats, case.dim**-0.5 if case.scale is None else case.scale


def _exact(entry: Entry, q: Tensor, k: Tensor, v: Tensor, floats: dict[str, Tensor], scale: float) -> dict[str, Any]:
    leaves = [x.double().requires_grad_() for x in (q, k, v, *floats.values())]
    tables = dict(zip(floats, leaves[3:], strict=True))
    out, lse = attention(entry.program, entry.binding, *leaves[:3], scale=scale, floats=tables)
    return {"out": out, "lse": lse, "leaves": leaves}


def _difference(found: Tensor, wanted: Tensor) -> float:
    """Relative to the size of ``wanted`` where that is above 1; infinite where something is NaN or only one is."""
    assert found.shape == wanted.shape, (found.shape, wanted.shape)
    if found.numel() == 0:
        return 0.0
    a, b = found.detach().double(), wanted.detach()
    error = torch.where(a == b, 0.0, (a - b).abs()).nan_to_num(torch.inf, torch.inf)
    size = b.masked_fill(~b.isfinite(), 0.0).abs().max().clamp(min=1.0)
    return float(error.max() / size)


def _elsewhere(name: str) -> Any:
    """A function of another module beside this one, as in ``tuned.tune_everything``."""
    module, _, function = name.rpartition(".")
    return getattr(importlib.import_module(f"tests.gpu.{module}"), function)


def main() -> None:
    torch.set_num_threads(1)
    hurry()
    mend()
    warnings.simplefilter("ignore")
    here = (differences, flat_differences, joined_kernels, nan_reaches, other_strides, random_masks, backend_call)
    functions = {f.__name__: f for f in (*here, empty_calls, few_queries_at)}
    for line in sys.stdin:
        name, *args = json.loads(line)
        try:
            answer: dict[str, Any] = {"answer": (functions.get(name) or _elsewhere(name))(*args)}
        except Exception:
            answer = {"error": traceback.format_exc()}
        plans_module.mask_form = mask_form  # a case may have replaced it
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
