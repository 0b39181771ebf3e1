"""Functions for the interpreter's process: whole calls, forward and backward, against the reference in float64."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

import maskc
from maskc.backends.triton.configs import Config
from maskc.backends.triton.entry import Entry
from maskc.ir.binding import Binding
from maskc.ir.nodes import Type
from maskc.ir.program import Program
from maskc.lower import lower_text
from maskc.reference.attention import attention
from maskc.tiles.binding import bind
from tests.gpu.interpreted import _difference

Tensor = torch.Tensor
_CONFIGS = {stage: Config(16, 16, 4, 1) for stage in ("forward", "dq", "dkv", "pairs", "decode")}
MODELS = Path(__file__).parents[2] / "examples" / "models"


def worst(program: Program, binding: Binding, floats: dict[str, Tensor], dim: int = 16, value_dim: int = 16) -> float:
    """The largest difference of output, log-sum-exp and every gradient, relative to the largest element.

    0 where the reference itself is not finite or its scores are out of proportion, which 32 bits do not hold.
    """
    generator = torch.Generator().manual_seed(0)
    shapes = ((binding.q_len, dim), (binding.k_len, dim), (binding.k_len, value_dim))
    q, k, v = (torch.randn(binding.batch, binding.heads, n, d, generator=generator) for n, d in shapes)
    leaves = [x.double().requires_grad_() for x in (q, k, v, *floats.values())]
    tables = dict(zip(floats, leaves[3:], strict=True))
    out, lse = attention(program, binding, *leaves[:3], scale=0.25, floats=tables)
    grad = torch.randn(out.shape, generator=generator)
    wanted = torch.autograd.grad(out, leaves, grad.double(), allow_unused=True)
    exact = [out, *(torch.zeros_like(x) if g is None else g for x, g in zip(leaves, wanted, strict=True))]
    large = lse is not None and bool(torch.where(lse > -torch.inf, lse.abs(), 0.0).max() > 30)
    if large or not all(bool(x.isfinite().all()) and float(x.abs().max()) < 1e3 for x in exact if x.numel()):
        return 0.0
    entry = Entry(program, binding, tuple(floats), configs=_CONFIGS)
    given = list(floats.values())
    found, found_lse, plain = entry.forward(q, k, v, given, 0.25)
    before = found if entry.plain_output else plain
    *grads, rest = entry.backward(q, k, v, given, before, found_lse, grad, None, 0.25)
    errors = [_difference(a, b) for a, b in zip([found, *grads, *rest], exact, strict=True)]
    return max(*errors, 0.0 if lse is None else _difference(found_lse, lse))


def random_programs(count: int) -> int:
    """Try ``count`` random programs with scores, forward and backward; how many were compared."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st

    from maskc.backends.triton.expressions import Unsupported
    from maskc.diagnostics import MaskcError
    from tests.strategies import bindings, programs

    compared = [0]

    # Without shrinking, which would take longer than all else.
    options: dict[str, Any] = {"phases": [Phase.generate], "suppress_health_check": list(HealthCheck)}

    @settings(max_examples=count, deadline=None, derandomize=True, database=None, **options)
    @given(st.data())
    def one(data: Any) -> None:
        program, binding = data.draw(programs()), data.draw(bindings())
        slope = torch.from_numpy(np.asarray(binding.tables["slope"])).float()
        binding = binding.replace(tables={**binding.tables, "slope": slope.double().numpy()})
        try:
            error = worst(program, binding, {"slope": slope})
            assert error < 1e-3, (error, program)
            compared[0] += error > 0
        except Unsupported:
            pass
        except MaskcError as refused:
            if refused.codes[0] not in ("E801", "E507", "E508"):
                raise

    one()
    return compared[0]


def gallery(share: int, shares: int) -> dict[str, float]:
    """The differences of a share of the gallery's patterns, by name."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from gallery.test_gallery import FORMULAS, PROGRAMS

    from maskc.backends import Request
    from maskc.backends.triton import supports
    from maskc.tiles.binding import make_binding

    found = {}
    for formula in FORMULAS[share::shares]:
        program, case = PROGRAMS[formula.key], formula.cases[0]
        if supports(program, Request(device="cpu", needs_grad=True)) is not None:
            continue
        binding = make_binding(
            program,
            case.q_len,
            case.k_len,
            heads=case.heads,
            layer=case.layer,
            batch=case.batch,
            sizes=case.sizes,
            **case.values,
        )
        names = [p.name for p in program.params if p.type is Type.FLOAT and p.when == "call" and p.name in case.values]
        floats = {name: torch.from_numpy(np.asarray(case.values[name])).float() for name in names}
        found[formula.key] = worst(program, binding, floats)
    return found


def models(names: list[str], layers: list[int]) -> dict[str, float]:
    """The differences of models' patterns, with small numbers for large ones, so that 40 tokens tell windows apart."""
    from maskc.backends import Request
    from maskc.backends.triton import supports
    from maskc.setting import make_setting

    found = {}
    for name in names:
        program = lower_text((MODELS / f"{name}.mask").read_text(encoding="utf-8"))[0]
        assert supports(program, Request(device="cpu", needs_grad=True)) is None, name
        numbers = {p.name: p.default for p in program.params if p.is_scalar and p.type is Type.INT}
        small = {n: 4 if x is None else 9 for n, x in numbers.items() if x is None or x.value > 9}
        for layer in layers:
            made = make_setting([program], heads=4, layer=layer, length=40, values=small, seed=3)
            binding = made.bind(program)
            inputs = [p.name for p in program.params if p.type is Type.FLOAT and p.when == "call"]
            floats = {n: torch.from_numpy(np.asarray(made.values[n])).float() for n in inputs}
            found[f"{name}, layer {layer}"] = worst(program, binding, floats)
    return found


def dimension(dim: int, value_dim: int) -> float:
    """The difference for dimensions of keys and values."""
    from maskc.lower import lower_text

    text = "pattern p(bias: float[head, 9]) { attend sliding_window(9)\n score s + bias[h, q - k] }"
    floats = {"bias": torch.randn(2, 9, generator=torch.Generator().manual_seed(3))}
    return worst(lower_text(text)[0], Binding(21, 33, heads=2), floats, dim, value_dim)


def opcheck(text: str, floats: dict[str, list[int]]) -> None:
    """torch's own checks of the operator; raises where one fails."""
    from maskc.backends import handles, library
    from maskc.lower import lower_text

    generator = torch.Generator().manual_seed(0)
    entry = Entry(lower_text(text)[0], Binding(20, 20, heads=2), tuple(floats), configs=_CONFIGS)
    q, k, v = (torch.randn(1, heads, 20, 16, generator=generator, requires_grad=True) for heads in (2, 1, 1))
    inputs = [torch.randn(shape, generator=generator, requires_grad=True) for shape in floats.values()]
    torch.library.opcheck(library.attention, (q, k, v, inputs, handles.handle_of(entry), None, 0.25))


def broken(was: str, becomes: str, stage: str = "forward") -> str:
    """What check mode says of a causal kernel in which one text is replaced by another."""
    import dataclasses

    import maskc
    from maskc.backends.triton import stages

    def write(spec: Any) -> Any:
        kernel = right(spec)
        assert was in kernel.text
        return dataclasses.replace(kernel, text=kernel.text.replace(was, becomes))

    right = stages.STAGES[stage]
    stages.STAGES[stage] = write
    stages.kernel_of.cache_clear()
    try:
        q, k, v = (torch.randn(1, 2, 40, 16, requires_grad=stage != "forward") for _ in range(3))
        out = maskc.compile("causal", heads=2, backend="triton", check=True)(q, k, v)
        if out.requires_grad:
            out.square().sum().backward()
    except RuntimeError as error:
        return str(error)
    finally:
        stages.STAGES[stage] = right
        stages.kernel_of.cache_clear()
    return ""


def only_wanted() -> list[bool]:
    """Whether inputs that need no gradient cost no kernel, and get none."""
    import maskc

    text = "pattern p(gain: float[head], bias: float[head, 9]) { attend causal\n score s * gain[h] + bias[h, q - k] }"
    op = maskc.compile(text, heads=2, backend="triton")
    q, k, v = (torch.randn(1, 2, 20, 16, requires_grad=True) for _ in range(3))
    gain, bias = torch.randn(2, requires_grad=True), torch.randn(2, 9)
    op(q, k, v, gain=gain, bias=bias).sum().backward()
    found, _ = op.entry_of(q, k, v, {"gain": gain, "bias": bias}, {})
    none = not any(key[0] == "pairs" for key in found._memory)
    alone = None if gain.grad is None else gain.grad.clone()
    op(q, k, v, gain=gain, bias=bias.requires_grad_()).sum().backward()
    some = any(key[0] == "pairs" for key in found._memory)
    assert alone is not None
    return [none, some, bool(torch.equal(alone * 2, gain.grad if gain.grad is not None else alone))]


def distance_error(dtype: str) -> float:
    """The error of the gradient of a slope by which far keys weigh most, relative to the gradient."""
    program = lower_text("pattern p(slope: float[head]) { attend causal\n score s + slope[h] * (k - q) }")[0]
    slope = torch.tensor([-0.4, 0.02])
    binding = bind(program, 160, 160, heads=2, layer=0, batch=2, sizes={}, values={})
    generator = torch.Generator().manual_seed(4)
    q, k, v, grad = (torch.randn(2, 2, 160, 16, generator=generator).to(getattr(torch, dtype)) for _ in range(4))
    entry = Entry(program, binding, ("slope",), configs=_CONFIGS, splits=0)
    out, lse, _ = entry.forward(q, k, v, [slope], 0.25)
    found = entry.backward(q, k, v, [slope], out, lse, grad, None, 0.25)[3][0]
    leaf = slope.double().requires_grad_()
    wanted, _ = attention(program, binding, q.double(), k.double(), v.double(), scale=0.25, floats={"slope": leaf})
    (exact,) = torch.autograd.grad(wanted, leaf, grad.double())
    return float(((found - exact).abs() / exact.abs()).max())


def beside_sinks() -> dict[str, float]:
    """How far gradients are from the reference's beside sinks of minus infinity, far above all scores, and far above
    them with a gradient of the log-sum-exp, where some queries keep nothing; relative to the largest element."""
    text = "pattern p(sink: float[head]) {{ attend {} & causal\n normalize softmax(sink = sink[h]) }}"
    found: dict[str, float] = {}
    for name, (keep, sinks, factor) in {
        "minus infinity": ("q % 5 > 0", [0.3, -torch.inf], 1.0),
        "above all scores": ("q > 0", [0.0, 25.0], -2.0),
        "below all scores": ("q > 0", [-20.0, -1000.0], 1.0),
    }.items():
        results = []
        for backend in ("reference", "triton"):
            op = maskc.compile(text.format(keep), heads=2, backend=backend)
            generator = torch.Generator().manual_seed(1)
            q, k, v = (torch.rand(1, 2, 20, 16, generator=generator) for _ in range(3))
            leaves = [2.0 * q, factor * 2.0 * k, v, torch.tensor(sinks)]
            for x in leaves:
                x.requires_grad_()
            out, lse = op(*leaves[:3], sink=leaves[3], return_lse=True)
            live = lse > -torch.inf
            grads = torch.autograd.grad(out.sum() + torch.where(live, lse, 0.0).sum(), leaves)
            results.append([out, torch.where(live, lse, 0.0), *grads])
        found[name] = max(_difference(b, a.double()) for a, b in zip(*results, strict=True))
    return found


def negated_views() -> dict[str, float]:
    """How far results are from the reference's for tensors that mean the negative of what is in memory, as the
    imaginary part of a conjugate does: in a call, of its gradients, and in decoding."""
    text = "pattern p(slope: float[head]) { attend causal\n score s + slope[h] * (k - q) }"
    generator = torch.Generator().manual_seed(1)
    q, k, v, grad = (torch.randn(1, 2, 20, 16, generator=generator, dtype=torch.complex64).conj() for _ in range(4))
    slope = torch.tensor([0.1j, -0.2j]).conj().imag
    found: list[dict[str, Tensor]] = []
    for backend in ("reference", "triton"):
        op = maskc.compile(text, heads=2, backend=backend)
        leaves = [x.imag.detach().requires_grad_() for x in (q, k, v)]
        out = op(*leaves, slope=slope)
        dq, dk, dv = torch.autograd.grad(out, leaves, grad.imag)
        cached = op.decode(q.imag[:, :, -1:], k.imag, v.imag, [20], slope=slope)
        found.append({"out": out, "dq": dq, "dk": dk, "dv": dv, "cached": cached})
    return {name: _difference(found[1][name], x.double()) for name, x in found[0].items()}


def numbers_in_masks() -> list[str]:
    """Masks in which a kernel compares a float with a number, or with 64 bits, otherwise than the reference."""
    some = [0.1 if i % 2 else 0.7 for i in range(16)]
    near = torch.tensor(some, dtype=torch.float64) + 1e-10
    x = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    wrong = []
    for given in (some, torch.tensor(some), near):
        for mask in ("g[k] > 0.1", "g[k] <= 0.1", "0.7 <= g[q]", "g[k] < min(g[q], 0.7)"):
            text = f"pattern p(g: float[token]) {{ attend {mask} & causal }}"
            ops = [maskc.compile(text, heads=1, backend=b) for b in ("reference", "triton")]
            calls = [[op(x, x, x, g=given)[:, :, -1:], op.decode(x[:, :, -1:], x, x, [16], g=given)] for op in ops]
            if not torch.allclose(torch.cat(calls[0]), torch.cat(calls[1]), atol=1e-5):
                wrong.append(f"{mask} of {given}")
    return wrong


def sinks_of_padding() -> dict[str, float]:
    """How far gradients are from the reference's where queries that keep nothing, and hold no numbers, have the sink's
    logit for a log-sum-exp that has a gradient; relative to the largest element."""
    text = "pattern p(sink: float[head]) { attend causal & q < 12\n normalize softmax(sink = sink[h]) }"
    results = []
    for backend in ("reference", "triton"):
        op = maskc.compile(text, heads=2, backend=backend)
        generator = torch.Generator().manual_seed(1)
        q, k, v, grad_lse = (torch.randn(1, 2, 20, 16, generator=generator) for _ in range(4))
        q[:, :, 12:] = torch.nan
        leaves = [q, k, v, torch.tensor([0.5, -1.0])]
        for x in leaves:
            x.requires_grad_()
        out, lse = op(*leaves[:3], sink=leaves[3], return_lse=True)
        results.append(torch.autograd.grad([out.sum(), lse], leaves, [torch.ones(()), grad_lse[..., 0]]))
    names = ("dq", "dk", "dv", "d sink")
    return {n: _difference(b, a.double()) for n, a, b in zip(names, *results, strict=True)}


def padding_stays_apart() -> dict[str, bool]:
    """Whether results are finite where only what no kept pair needs is not: beside queries or keys of a ragged tile
    that do not exist, in what queries that keep nothing hold, and in the gradient of their log-sum-exp."""
    left = "pattern p over left -> right {{ attend {}\n normalize {} }}"
    found: dict[str, bool] = {}
    for name, text, spoil in [
        ("keys beside absent queries", left.format("window(0, 4)", "softmax"), {"k": 6, "v": 6}),
        ("queries beside absent keys", left.format("k >= q + 12", "sigmoid"), {"q": 8}),
        ("gradients beside absent keys", left.format("k >= q + 12", "relu"), {"grad": 8}),
        ("gradients of what keeps nothing", left.format("k >= q + 12", "sigmoid"), {"grad": 8}),
        ("beside a sink", left.format("k >= q + 12", "softmax(sink = 0.5)"), {"q": 8, "grad": 8}),
        ("log-sum-exp of nothing", left.format("k >= q + 12", "softmax"), {"lse": 8}),
    ]:
        rows = 2 if "k" in spoil else 20
        generator = torch.Generator().manual_seed(0)
        shapes = {"q": rows, "k": 20, "v": 20, "grad": rows}
        given = {n: torch.randn(1, 1, length, 16, generator=generator) for n, length in shapes.items()}
        grad_lse = torch.ones(1, 1, rows)
        for what, first in spoil.items():
            (grad_lse if what == "lse" else given[what])[:, :, first:] = torch.nan
        leaves = [given[n].requires_grad_() for n in ("q", "k", "v")]
        op = maskc.compile(text, heads=1, backend="triton")
        softmax = "softmax" in text
        out, lse = op(*leaves, return_lse=True) if softmax else (op(*leaves), None)
        outs, grads = ([out, lse], [given["grad"], grad_lse]) if lse is not None else ([out], [given["grad"]])
        results = [out, *torch.autograd.grad(outs, leaves, grads)]
        found[name] = all(bool(x.isfinite().all()) for x in results)
    return found
