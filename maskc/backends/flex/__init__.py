"""FlexAttention as a backend: our language and our plans, its kernels.

``torch.compile`` writes a kernel at the first call of every program and shape, for as many as ``MAX_KERNELS``.
On CPUs that takes seconds, and there is neither a backward pass nor a log-sum-exp.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from maskc.arguments import expect
from maskc.backends import Compiled, Refusal, Request
from maskc.backends.flex.blocks import from_block_mask, to_block_mask
from maskc.backends.flex.mods import function, tensors_for
from maskc.diagnostics import fail
from maskc.ir.binding import Binding
from maskc.ir.evaluate import evaluate
from maskc.ir.nodes import Type, postorder
from maskc.ir.program import OUTPUT, SCORE, Program
from maskc.ir.text import declaration
from maskc.passes.specialise import bind
from maskc.tiles import make_plan
from maskc.tiles.binding import check_shape, names_read, positions
from maskc.tiles.budget import BUDGET

__all__ = ["block_mask", "from_block_mask", "mask_mod", "run", "score_mod", "supports", "to_block_mask"]

#: Kernels that are compiled at most, in a process. At torch's own limit, which is 8, FlexAttention goes on without a
#: kernel: every score of every pair is written to memory, and all that is said is a warning.
MAX_KERNELS = 256

_TILE = 128
_DEVICES = ("cpu", "cuda")  # that it is compiled for, and that were tried


def supports(program: Program, request: Request) -> Refusal | None:
    """Softmax, in the tokens' own order; on CPUs the forward pass only, without a sink or log-sum-exps."""
    if request.layout not in ("none", "auto"):
        return Refusal(f"FlexAttention knows no token order such as {request.layout!r}", "compile with layout='none'")
    if program.normalizer.kind != "softmax":
        return Refusal(f"FlexAttention has no normaliser {program.normalizer.kind}")
    if request.device not in (None, *_DEVICES):
        return Refusal(
            f"FlexAttention does not run on {request.device}", f"move the tensors to {' or '.join(_DEVICES)}"
        )
    on_cpu = request.device in (None, "cpu")
    if on_cpu and program.normalizer.sink is not None:
        return Refusal("a sink needs the log-sum-exp, which FlexAttention does not give on CPUs")
    if on_cpu and request.return_lse:
        return Refusal("FlexAttention gives no log-sum-exp on CPUs")
    if on_cpu and request.needs_grad:
        return Refusal("FlexAttention has no backward pass on CPUs", "call it under torch.no_grad()")
    if request.dtype == "float64":
        return Refusal("FlexAttention computes in float32 at most", "convert q, k and v")
    if request.head_dim is not None and request.head_dim < 16:
        return Refusal("FlexAttention wants a head dimension of at least 16")
    return None


def mask_mod(program: Program, binding: Binding, device: torch.device | str = "cpu") -> Callable[..., torch.Tensor]:
    """The mask as FlexAttention's ``mask_mod(b, h, q_index, k_index)``. ``program``: as lowered or bound."""
    bound = _bound(program, binding)
    run = function(bound, binding, bound.mask, tensors_for(bound, binding, {}, torch.device(device)))
    return lambda b, h, q, k: run(None, b, h, q, k)


def score_mod(
    program: Program, binding: Binding, floats: Mapping[str, torch.Tensor], device: torch.device | str = "cpu"
) -> Callable[..., torch.Tensor] | None:
    """The score as FlexAttention's ``score_mod(score, b, h, q_index, k_index)``; None if it is left as it is.

    ``floats``: the float inputs that the score reads, by name; they receive gradients where FlexAttention gives any.
    Raises MaskcError: E501, E505.
    """
    bound = _bound(program, binding)
    if bound.score is SCORE:
        return None
    _check_floats(program, binding, floats, names_read(program, [bound.score]))
    run = function(bound, binding, bound.score, tensors_for(bound, binding, floats, torch.device(device)))
    if SCORE in postorder([bound.score]):
        return run
    # FlexAttention's kernel for CPUs is wrong where a function makes nothing of the score: it forgets the mask.
    return lambda s, b, h, q, k: torch.where(k >= 0, run(s, b, h, q, k), s)


def block_mask(
    program: Program,
    binding: Binding,
    *,
    q_tile: int = _TILE,
    k_tile: int = _TILE,
    device: torch.device | str = "cpu",
    backward: bool = True,
    budget: int = BUDGET,
) -> BlockMask:
    """A ``BlockMask`` for FlexAttention, planned by us: no point of the mask is evaluated in full tiles or empty ones.

    ``q_tile``, ``k_tile``: what FlexAttention calls BLOCK_SIZE. ``backward``: as for ``to_block_mask``.
    ``budget``: what planning may cost, as ``make_plan`` takes it.
    Raises MaskcError: E801 where planning, or the BlockMask's dense tensors, would cost too much.
    """
    plan = make_plan(program, binding, q_tile=q_tile, k_tile=k_tile, budget=budget)
    return to_block_mask(plan, mask_mod(program, binding, device), device=device, backward=backward)


def run(
    compiled: Compiled,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    binding: Binding,
    floats: Mapping[str, torch.Tensor],
    scale: float,
    return_lse: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Compiled FlexAttention: see ``maskc.backends.Backend.run``."""
    program, device = compiled.program, q.device
    if not torch.is_grad_enabled():  # FlexAttention asks tensors, not autograd, whether there is to be a gradient.
        q, k, v = q.detach(), k.detach(), v.detach()
        floats = {name: x.detach() for name, x in floats.items()}
    if 0 in q.shape or 0 in k.shape:
        return _finish(program, binding, floats, *_of_nothing(q, k, v), return_lse)
    blocks = compiled.remember(
        ("flex", str(device), q.requires_grad),
        binding,
        lambda: block_mask(program, binding, device=device, budget=compiled.budget),
    )
    wants_lse = return_lse or program.normalizer.sink is not None
    found = attend(
        q, k, v, score_mod(program, binding, floats, device), blocks, scale, q.shape[1] != k.shape[1], wants_lse
    )
    out, lse = found if wants_lse else (found, None)
    return _finish(program, binding, floats, out, lse, return_lse)


def _of_nothing(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Output and log-sum-exp where there are no queries or no keys: FlexAttention's kernels divide by their number."""
    key, value = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    return q @ key.transpose(2, 3) @ value, q.new_full(q.shape[:3], -torch.inf, dtype=torch.float32)


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    score: Callable[..., torch.Tensor] | None,
    blocks: BlockMask,
    scale: float,
    grouped: bool,
    return_lse: bool,
) -> Any:
    """One call of compiled FlexAttention. Raises MaskcError: E702 where it would need one kernel too many."""
    with torch._dynamo.config.patch(_limits()):
        try:
            return _compiled()(
                q, k, v, score_mod=score, block_mask=blocks, scale=scale, enable_gqa=grouped, return_lse=return_lse
            )
        except torch._dynamo.exc.FailOnRecompileLimitHit:
            message = f"FlexAttention needs a kernel for this kind of call, and {MAX_KERNELS} others were compiled"
            raise fail("E702", message, "pad sequences to fewer lengths, or use another backend") from None


def _limits() -> dict[str, Any]:
    if hasattr(torch._dynamo.config, "recompile_limit"):
        return {"recompile_limit": MAX_KERNELS}
    return {"cache_size_limit": MAX_KERNELS, "fail_on_cache_limit_hit": True}  # torch 2.6


@functools.lru_cache(maxsize=1)
def _compiled() -> Callable[..., Any]:
    return torch.compile(_flex_attention, dynamic=False, fullgraph=True)  # the whole graph, or an error


def _flex_attention(*args: Any, **options: Any) -> Any:
    """A function of ours: torch counts the kernels of a function, whoever compiles it, and gives up on it for all."""
    return flex_attention(*args, **options)


def _check_floats(
    program: Program, binding: Binding, floats: Mapping[str, torch.Tensor], read: Collection[str]
) -> None:
    """Whether there are the float inputs of these names, as declared: an index outside a smaller one is clamped."""
    where = positions(binding.cross, binding.q_len, binding.k_len)
    dims = {"head": binding.heads, "layer": binding.layer, "batch": None, **where}
    for p in program.params:
        if p.type is not Type.FLOAT or p.is_scalar or p.name not in read or p.name in binding.tables.keys() - floats:
            continue
        if p.name not in floats:
            message = f"{program.name!r} needs the input {p.name!r}, which its score reads"
            raise fail("E501", message, f"give it: {{{p.name!r}: ...}}; it is declared `{declaration(p)}`")
        expect(p.name, floats[p.name], torch.Tensor, "a tensor")
        check_shape(p, tuple(floats[p.name].shape), dims, binding.args)


def _bound(program: Program, binding: Binding) -> Program:
    expect("program", program, Program, "a maskc.Program")
    expect("binding", binding, Binding, "a maskc.Binding")
    sizes = {"q": binding.q_len, "k": binding.k_len, **binding.sizes}
    more: dict[str, Any] = {"layer": binding.layer, "heads": binding.heads, "tables": binding.tables}
    return bind(program, args=binding.args, sizes=sizes, **more)


def _with_sink(out: torch.Tensor, lse: torch.Tensor, sink: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A key more of which only the score counts. Neither it nor any other, where both are minus infinity: no NaN comes
    of their difference, in either direction."""
    none = torch.isneginf(lse) & torch.isneginf(sink)
    here, there = (torch.where(none, 0.0, x) for x in (lse, sink))
    joined = torch.where(none, -torch.inf, torch.logaddexp(here, there))
    return out * torch.sigmoid(here - there)[..., None].to(out.dtype), joined


def _finish(
    program: Program,
    binding: Binding,
    floats: Mapping[str, torch.Tensor],
    out: torch.Tensor,
    lse: torch.Tensor | None,
    return_lse: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What FlexAttention does not do itself: the sink, by the log-sum-exp, and the output expression."""
    batch, heads, q_len = out.shape[:3]
    point: dict[str, Any] = {
        "q": torch.arange(binding.offset, binding.offset + q_len, device=out.device)[:, None],
        "k": torch.zeros(1, dtype=torch.int64, device=out.device),
        "h": torch.arange(heads, device=out.device)[:, None, None],
        "b": torch.arange(batch, device=out.device)[:, None, None, None],
        "params": program.params,
        "tables": floats,
        "xp": torch,
    }
    if program.normalizer.sink is not None and lse is not None:
        sink = evaluate(program.normalizer.sink, binding, float_dtype=lse.dtype, **point)[..., 0].to(lse.dtype)
        out, lse = _with_sink(out, lse, sink.expand_as(lse))
    if program.output is not OUTPUT:
        out = evaluate(program.output, binding, o=out, **point).to(out.dtype).expand(out.shape)
    return out, lse if return_lse else None
