"""The entrance of a standalone file: what it checks of a call, and the function ``attention``."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from maskc.ir.program import OUTPUT

if TYPE_CHECKING:
    from maskc.ir.program import Program, Space

__all__ = ["entrance", "known"]

_CHECKS = '''

def check(q, k, v, layer, sizes, q_start, tables):
    """Raise a TypeError or a ValueError for what does not fit together, before a kernel reads it."""
    check_names("attention", sizes, tables)
    check_tensors({"q": q, "k": k, "v": v} | {name: tables[name] for name in DOMAINS})
    found = f"found q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
    if not q.dim() == k.dim() == v.dim() == 4 or q.shape[::3] != k.shape[::3] or k.shape[:3] != v.shape[:3]:
        raise ValueError(f"expected q (B, H, Nq, D), k (B, Hk, Nk, D) and v (B, Hk, Nk, Dv), {found}")
    check_heads(q, k.shape[1], v.shape[3], found)
    if not CROSS and q.shape[2] > k.shape[2]:
        raise ValueError(f"queries are tokens of the keys: there cannot be more of them, {found}")
    if q_start is not None and CROSS:
        raise ValueError("queries are a sequence of their own, from its start: there is no q_start")
    if q_start is not None and (not isinstance(q_start, int) or not 0 <= q_start <= k.shape[2] - q.shape[2]):
        raise ValueError(f"expected q_start to be an integer from 0 to {k.shape[2] - q.shape[2]}, found {q_start!r}")
    check_dtypes(q, k, v)
    check_tables(q, {"k": k.shape[2], "token": k.shape[2]}, layer, tables)
    for side, parts in SPACES.items():
        length = q.shape[2] if side == "q" else k.shape[2]
        if not adds_up(length, parts, sizes):
            raise ValueError(f"{sizes} do not make up {length} tokens")
    asking = [name for name, x in (*({} if DIFFERENTIABLE else {"q": q, "k": k, "v": v}).items(), *tables.items())
              if name not in LEARNED and x.requires_grad]
    if asking and torch.is_grad_enabled():
        raise ValueError(f"no gradient is computed of {', '.join(asking)}: detach, or call under torch.no_grad()")


def check_names(function, sizes, tables):
    """That what the pattern reads is given, and nothing else."""
    missing = sorted({*DOMAINS} - {*tables}) + sorted({*SIZES} - {*sizes})
    if missing:
        raise TypeError(f"{function}() needs {', '.join(missing)}")
    names = {name for parts in SPACES.values() for part in parts for name in part}
    unknown = sorted({*tables} - {*DOMAINS, *UNREAD}) + sorted({*sizes} - names)
    if unknown:
        raise TypeError(f"{function}() takes no {', '.join(unknown)}: scalar arguments are part of this file")


def check_tensors(given):
    """That they are tensors."""
    others = [f"{name!r} ({type(x).__name__})" for name, x in given.items() if not torch.is_tensor(x)]
    if others:
        raise TypeError(f"expected tensors, found {', '.join(others)}")


def check_heads(q, kv_heads, value_dim, found):
    """Numbers of heads and of dimensions."""
    dims = q.shape[3], value_dim
    if kv_heads == 0 or q.shape[1] % kv_heads or min(dims) == 0 or max(dims) > 256:
        raise ValueError(f"expected query heads in groups of key heads, and 1 to 256 dimensions, {found}")


def check_dtypes(q, k, v):
    """That they agree, also in the device."""
    kinds = {(x.dtype, x.device) for x in (q, k, v)}
    if len(kinds) > 1 or q.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        raise ValueError("expected q, k and v of one dtype, float16, bfloat16 or float32, on one device")
    if q.dtype == torch.bfloat16 and q.device.type == "cpu":
        raise ValueError("Triton's interpreter computes bfloat16 wrongly: convert q, k and v to float32 or float16")


def check_tables(q, tokens, layer, tables):
    """Shapes, dtypes and devices of tables and inputs; ``tokens``: the extents of tokens and keys that are known."""
    if layer < 0:
        raise ValueError(f"expected the number of a layer, found {layer}")
    extents = {"q": q.shape[2], "head": q.shape[1], "batch": q.shape[0], **tokens}
    for name, domain in DOMAINS.items():
        table = tables[name]
        wanted = [extents.get(d, d) for d in domain]
        pairs = zip(table.shape, wanted, strict=True)
        fits = len(table.shape) == len(wanted) and all(
            n > layer if d == "layer" else n == d or isinstance(d, str) for n, d in pairs)
        if not fits or table.device != q.device:
            raise ValueError(f"expected {name!r} of shape {wanted} on the device of q, found {tuple(table.shape)}")
        kind = "float" if table.is_floating_point() else "bool" if table.dtype == torch.bool else "int"
        if kind != TYPES[name] or table.is_complex():
            raise ValueError(f"expected {name!r} of a dtype that is {TYPES[name]}, found {table.dtype}")


def adds_up(length, parts, sizes):
    """Whether the extents of the parts of a sequence fit its length. One that is not given follows from it."""
    whole = [math.prod(sizes[n] for n in names) for names in parts if sizes.keys() >= {*names}]
    open_parts = [[sizes[n] for n in names if n in sizes] for names in parts if not sizes.keys() >= {*names}]
    rest, least = length - sum(whole), min(sizes.values(), default=0)
    if len(open_parts) != 1:
        return least >= 0 and (rest >= 0 if open_parts else rest == 0)
    unit = math.prod(open_parts[0])
    return least >= 0 and rest >= 0 and (rest % unit == 0 if unit else rest == 0)
'''

_ATTENTION = '''

def attention(q, k, v, /, *, scale=None, layer=0, sizes=None, q_start=None, tables=None, **more):
    """Attention of (batch, heads, queries, dim) queries; ``tables`` and ``more`` are the pattern's tables and inputs
    as tensors on the same device, ``sizes`` the extents of its axes and segments, by name. Queries of the sequence of
    the keys are its last ones, or start at ``q_start``."""
    tables, sizes = {{**(tables or {{}}), **more}}, {{name: int(n) for name, n in (sizes or {{}}).items()}}
    check(q, k, v, layer, sizes, q_start, tables)
    if torch.is_tensor(scale) and scale.requires_grad and torch.is_grad_enabled():
        raise ValueError("no gradient is computed of scale: detach it, or scale q instead")
    q, k, v = (x.resolve_neg() for x in (q, k, v))  # kernels read what is in memory
    if q.numel() == 0:
        return (q[..., :1] * (k.sum() + v.sum())).expand(*q.shape[:3], v.shape[3])
    q_len, k_len = q.shape[2], k.shape[2]
    offset = q_start if q_start is not None else 0 if CROSS else k_len - q_len
    given = {{"q_len": q_len, "k_len": k_len, "offset": offset, "layer": layer, "heads": q.shape[1]}}
    given.update({{f"size_{{name}}": sizes[name] for name in SIZES}})
    given["tables"] = {{name: tables[name].resolve_neg() for name in TABLES}}
    scale = q.shape[3] ** -0.5 if scale is None else float(scale)
    if scale <= 0:
        q, scale = q * scale, 1.0
    return {call}
'''


def known(
    program: Program, args: Mapping[str, bool | int | float], names: Sequence[str], batched: Collection[str]
) -> list[str]:
    """Lines of the file that say what its checks compare with. ``names``: the tables and inputs that are read, of which
    those of ``batched`` have a batch dimension in front."""
    read = [program.parameter(n) for n in names]
    axes = {p.name: ("batch", *p.domain) if p.name in batched else p.domain for p in read}
    domains = {name: [args.get(str(d), d) for d in domain] for name, domain in axes.items()}
    spaces = {"q": program.q_space, "k": program.k_space} if program.cross else {"k": program.k_space}
    lines = ["# What they are indexed by, and of what type they are."]
    lines.append("DOMAINS = " + json.dumps(domains))
    lines.append("TYPES = " + json.dumps({p.name: p.type.value for p in read}))
    unread = [p.name for p in program.params if not p.is_scalar and p.name not in names]
    lines += ["# Those that are declared and make no difference.", "UNREAD = " + json.dumps(unread)]
    lines += ["# Whether q, k and v get gradients.", f"DIFFERENTIABLE = {program.output is OUTPUT}"]
    lines.append("# The parts of the sequences, by the names of their extents.")
    return [*lines, "SPACES = " + json.dumps({side: _parts(space) for side, space in spaces.items() if space.segments})]


def _parts(space: Space) -> list[list[str]]:
    return [[extent.name for extent in segment.extents] for segment in space.segments]


def entrance(program: Program) -> str:
    """The functions of the file that are called from outside."""
    call = 'Attention.apply(q, k, v, scale, given, *(given["tables"][name] for name in LEARNED))'
    call = call if program.output is OUTPUT else "forward(q, k, v, scale, given)[0]"
    return _CHECKS + _ATTENTION.format(call=call)
