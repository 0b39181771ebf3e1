"""One Python file that needs only torch and triton and runs one pattern: to read, to change, to take along."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from maskc.backends.triton.backward import clears_empty_rows, write_dkv, write_dq
from maskc.backends.triton.configs import Target, config
from maskc.backends.triton.expressions import Unsupported, table_name
from maskc.backends.triton.forward import write_forward
from maskc.backends.triton.spec import KernelSpec, read_tables, specialised
from maskc.backends.triton.spelling import HELPERS
from maskc.backends.triton.writer import CONSTANTS
from maskc.diagnostics import Diagnostic, MaskcError
from maskc.ir.nodes import Apply, Const, Exists, Lookup, Node, Size, Symbol, postorder
from maskc.ir.ops import OPS
from maskc.ir.program import OUTPUT
from maskc.ir.text import print_program

if TYPE_CHECKING:
    from maskc.ir.program import Program

__all__ = ["torch_function", "write_standalone"]

_HEADER = '''"""Attention under one pattern, by Triton kernels that skip every tile without a kept pair.

Written by maskc. Needs torch and triton, and nothing else.

    out = attention(q, k, v{example})

q is (batch, heads, queries, dim), k and v are (batch, key heads, keys, dim). {gradients}
With TRITON_INTERPRET=1 it runs on the CPU, slowly. Which tiles are live is found by evaluating the
mask at every pair, a few rows of tiles at a time, and kept for calls with the same lengths.
"""

import math

import torch
import triton
import triton.language as tl

'''

_GRADIENTS = "Differentiable in q, k and v."
_NO_GRADIENTS = "Not differentiable: the gradient of the output expression is not part of this file."

_PLANNING = '''

def floordiv_exact(a, b):
    return torch.where(torch.as_tensor(b) == 0, 0, a // torch.where(torch.as_tensor(b) == 0, 1, b))


def mod_exact(a, b):
    return torch.where(torch.as_tensor(b) == 0, 0, a % torch.where(torch.as_tensor(b) == 0, 1, b))


def hash_exact(*values):
    """The same number below 2**31 as in the kernels."""
    state = 0x9E3779B9
    for value in values:
        state = state ^ (value & 0xFFFFFFFF)
        state = state ^ (state >> 16)
        state = (state * 0x7FEB352D) & 0xFFFFFFFF
        state = state ^ (state >> 15)
        state = (state * 0x5BD1E995) & 0xFFFFFFFF
        state = state ^ (state >> 16)
    return state >> 1


def element(table, *indices):
    """An element of a table; every index is clamped to its range."""
    places = [torch.as_tensor(i, device=table.device).clamp(0, n - 1) for i, n in zip(indices, table.shape)]
    return table[tuple(places)]


def tile_kinds(given, b, h, q_tile, k_tile, device):
    """0, 1 or 2 for every tile without, with some, and with all pairs kept, (rows, columns)."""
    q_len, k_len = given["q_len"], given["k_len"]
    columns = -(-k_len // k_tile)
    key = torch.arange(columns * k_tile, device=device)[None, :]
    kinds = []
    for start in range(0, q_len, q_tile):
        row = torch.arange(start, min(start + q_tile, q_len), device=device)[:, None]
        kept = mask(row + given["offset"], key.clamp(max=k_len - 1), b, h, given)
        kept = torch.as_tensor(kept, device=device).expand(row.shape[0], columns * k_tile)
        some = (kept & (key < k_len)).view(-1, columns, k_tile)
        # A ragged tile at the end counts as partial: full tiles are loaded without bounds.
        whole = (key < k_len).view(columns, k_tile).all(-1) & (row.shape[0] == q_tile)
        kinds.append(some.any(-1).any(0).int() + (some.all(-1).all(0) & whole).int())
    return torch.stack(kinds).cpu() if kinds else torch.zeros(0, columns, dtype=torch.int32)


_plans = {}


def plan(given, batch, heads, q_tile, k_tile, device, by_keys):
    """The tiles of every mask as the kernels read them."""
    scalars = tuple(sorted((n, x) for n, x in given.items() if isinstance(x, int)))
    fixed = not any(torch.is_tensor(x) for x in given.values())
    key = (scalars, batch, heads, q_tile, k_tile, device, by_keys)
    if fixed and key in _plans:
        return _plans[key]
    which = [(b, h) for b in range(batch if BY_BATCH else 1) for h in range(heads if BY_HEAD else 1)]
    every = [tile_kinds(given, b, h, q_tile, k_tile, device) for b, h in which]
    every = [kinds.T if by_keys else kinds for kinds in every]
    plan_of = [(b if BY_BATCH else 0) * (heads if BY_HEAD else 1) + (h if BY_HEAD else 0)
               for b in range(batch) for h in range(heads)]
    found = {"plan_of": plan_of, "tile_rows": every[0].shape[0], "FULL_RUN": False, "PART_RUN": False}
    order = [torch.argsort((kinds > 0).sum(1), descending=True, stable=True) for kinds in every]
    found["row_order"] = torch.cat(order)
    for kind, value in (("full", 2), ("part", 1)):
        counts = torch.cat([(kinds == value).sum(1) for kinds in every])
        last = counts.cumsum(0)
        tiles = torch.cat([(kinds == value).nonzero()[:, 1] for kinds in every])
        found.update({f"{kind}_first": last - counts, f"{kind}_last": last})
        found[f"{kind}_tiles"] = tiles if tiles.numel() else torch.zeros(1)
    for name, x in found.items():
        if name not in ("tile_rows", "FULL_RUN", "PART_RUN"):
            found[name] = torch.as_tensor(x).to(torch.int32).contiguous().to(device)
    if fixed:
        _plans[key] = found
    return found


def run(kernel, stage, programs_a_row, given, values, q, v):
    """Start a kernel on all rows (or columns) of tiles."""
    dims = {"D": q.shape[3], "DV": v.shape[3]}
    dims.update({f"{n}_PAD": max(16, 1 << (d - 1).bit_length()) for n, d in dims.items()})
    q_tile, k_tile, warps, stages = TILES[stage, min(w for w in (64, 128, 256) if w >= max(dims.values()))]
    if q.device.type == "cpu":
        q_tile, k_tile = 16, 16
    found = plan(given, q.shape[0], q.shape[1], q_tile, k_tile, q.device, stage == "dkv")
    values = {**given, **values, **dims, **found, "Q_TILE": q_tile, "K_TILE": k_tile, "PRECISION": "ieee"}
    values.update({"heads": q.shape[1], "group": q.shape[1] // values["k_ptr"].shape[1]})
    values.update({"RAGGED_Q": given["q_len"] % q_tile != 0, "RAGGED_K": given["k_len"] % k_tile != 0})
    for name, prefix in (("q_ptr", "q"), ("k_ptr", "k"), ("v_ptr", "v"), ("out_ptr", "o"), ("do_ptr", "do"),
                         ("dq_ptr", "dq"), ("dk_ptr", "dk"), ("dv_ptr", "dv")):
        if name in values:
            values.update({f"{prefix}_s{axis}": s for axis, s in zip("bhnd", values[name].stride())})
    for name in TABLES:
        table = given["tables"][name]
        dtype = torch.float32 if table.is_floating_point() else torch.int8 if table.dtype == torch.bool else torch.int32
        table = table.to(dtype)
        values[TABLES[name]] = table.contiguous()
        values.update({f"{TABLES[name]}_n{i}": n for i, n in enumerate(table.shape)})
    programs = programs_a_row * found["tile_rows"]
    if programs:
        arguments = {name: values[name] for name in kernel.arg_names}
        kernel[(programs,)](**arguments, num_warps=warps, num_stages=stages)


def forward(q, k, v, scale, given):
    out = torch.empty((*q.shape[:3], v.shape[3]), dtype=q.dtype, device=q.device)
    lse = torch.zeros(q.shape[:3], dtype=torch.float32, device=q.device)
    values = {"q_ptr": q, "k_ptr": k, "v_ptr": v, "out_ptr": out, "plain_ptr": torch.empty_like(out), "lse_ptr": lse}
    run(attention_forward, "forward", q.shape[0] * q.shape[1], given, {**values, "scale": scale}, q, v)
    return out, lse
'''

_BACKWARD = """

class Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, scale, given):
        out, lse = forward(q, k, v, scale, given)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.scale, ctx.given = scale, given
        return out

    @staticmethod
    def backward(ctx, grad):
        q, k, v, out, lse = ctx.saved_tensors
        delta = (out.float() * grad.float()).sum(-1).contiguous()
{clean}        dq, dk, dv = (torch.zeros_like(x) for x in (q, k, v))
        values = {{"q_ptr": q, "k_ptr": k, "v_ptr": v, "do_ptr": grad, "lse_ptr": lse, "delta_ptr": delta}}
        values |= {{"dq_ptr": dq, "dk_ptr": dk, "dv_ptr": dv, "scale": ctx.scale}}
        run(attention_dq, "dq", q.shape[0] * q.shape[1], ctx.given, values, q, v)
        run(attention_dkv, "dkv", k.shape[0] * k.shape[1], ctx.given, values, q, v)
        return dq, dk, dv, None, None
"""

_CLEAN = """        # A query that keeps no key has no part in dK and dV, whatever it holds.
        empty = (lse == -math.inf)[..., None]
        q, grad = q.masked_fill(empty, 0.0), grad.masked_fill(empty, 0.0)
"""

_ENTRY = '''

def attention(q, k, v, *, scale=None, layer=0, sizes=None, **tables):
    """Attention of (batch, heads, queries, dim) queries; ``tables`` are the pattern's tables and inputs as tensors
    on the same device, ``sizes`` the extents of its axes and segments, by name."""
    q_len, k_len = q.shape[2], k.shape[2]
    given = {{"q_len": q_len, "k_len": k_len, "offset": {offset}, "layer": layer, "heads": q.shape[1]}}
    given["tables"] = tables
    given.update({{f"size_{{name}}": int(n) for name, n in (sizes or {{}}).items()}})
    given.update({{f"table {{name}}": x for name, x in tables.items()}})
    scale = q.shape[3] ** -0.5 if scale is None else scale
    if scale <= 0:
        q, scale = q * scale, 1.0
    return {call}
'''


def write_standalone(program: Program, args: Mapping[str, bool | int | float], target: Target | None = None) -> str:
    """The file's text. ``args``: values of the scalar parameters; ``target``: whose tiles it uses.

    Raises MaskcError E702 where the pattern has no kernel.
    """
    spec = KernelSpec(specialised(program, args))
    differentiable = spec.program.output is OUTPUT
    try:
        kernels = [write_forward(spec), *([write_dq(spec), write_dkv(spec)] if differentiable else [])]
    except Unsupported as why:
        message = f"the backend 'triton' cannot compute {program.name!r}: {why}"
        raise MaskcError(Diagnostic("E702", message, hint="change the pattern as the reason says")) from why
    names = read_tables(*spec.program.roots())
    clean = _CLEAN if clears_empty_rows(spec) else ""
    call = "Attention.apply(q, k, v, scale, given)" if differentiable else "forward(q, k, v, scale, given)[0]"
    example = "".join(f", {n}={n}" for n in names)
    helpers = dict.fromkeys(h for kernel in kernels for h in kernel.helpers)
    pattern = _ascii(print_program(program, docs=False))
    parts = [
        "".join(f"# {line}".rstrip() + "\n" for line in pattern.rstrip().split("\n")),
        _HEADER.format(example=example, gradients=_GRADIENTS if differentiable else _NO_GRADIENTS),
        CONSTANTS + "\n" + _tables(spec, names, target or Target("cuda", 90)),
        "\n\n" + "\n\n".join(text for key, text in HELPERS.items() if key in helpers),
        *("\n\n" + kernel.function + "\n" for kernel in kernels),
        "\n\n" + torch_function(spec.program.mask, spec.program),
        _PLANNING,
        _BACKWARD.format(clean=clean) if differentiable else "",
        _ENTRY.format(offset="0" if program.cross else "k_len - q_len", call=call),
    ]
    return "".join(parts)


def _ascii(text: str) -> str:
    return "".join(c if c == "\n" or " " <= c <= "~" else "?" for c in text)


def _tables(spec: KernelSpec, names: tuple[str, ...], target: Target) -> str:
    mask = list(postorder([spec.program.mask]))
    tiles = {}
    for stage in ("forward", "dq", "dkv"):
        for width in (64, 128, 256):
            c = config(stage, target, width, "bfloat16")
            tiles[stage, width] = (c.q_tile, c.k_tile, c.warps, c.stages)
    lines = ["# Queries and keys a tile, warps and pipeline stages, by kernel and head dimension.", "TILES = {"]
    lines += [f"    {key!r}: {value!r}," for key, value in tiles.items()]
    lines += ["}", "# The pattern's tables and inputs, and what the kernels call them."]
    lines.append(f"TABLES = { ({n: table_name(n, spec.program.params) for n in names})!r}")
    for word, name in (("BY_HEAD", "h"), ("BY_BATCH", "b")):
        lines.append(f"{word} = {Symbol(name) in mask}  # whether the mask differs")
    return "\n".join(lines) + "\n"


_CALLS = {
    "floordiv": "floordiv_exact",
    "mod": "mod_exact",
    "hash": "hash_exact",
    "select": "torch.where",
    "abs": "torch.abs",
}


def torch_function(mask: Node, program: Program) -> str:
    """The mask as a Python function on tensors of positions, for planning."""
    uses = Counter(c for n in postorder([mask]) for c in n.children)
    texts: dict[Node, str] = {}
    lines = ["def mask(q, k, b, h, given):", '    """Whether key ``k`` is kept for query ``q``."""']
    bound = {n.index for n in postorder([mask]) if isinstance(n, Exists)}
    loose: dict[Node, bool] = {}
    for node in postorder([mask]):
        loose[node] = node in bound or any(loose[c] for c in node.children)
        text = _torch_text(node, texts, program)
        if uses[node] > 1 and node.children and not loose[node]:
            name = f"v{len(lines) - 2}"
            lines.append(f"    {name} = {text}")
            text = name
        texts[node] = text
    lines.append(f"    return {texts[mask]}")
    return "\n".join(lines) + "\n"


def _torch_text(node: Node, texts: Mapping[Node, str], program: Program) -> str:
    if isinstance(node, Const):
        return repr(node.value) if isinstance(node.value, bool) else f"torch.as_tensor({node.value!r}, device=q.device)"
    if isinstance(node, Size):
        return f'given["{ {"q": "q_len", "k": "k_len"}.get(node.name, "size_" + node.name) }"]'
    if isinstance(node, Symbol):
        return f'given["{node.name}"]' if node.name in ("layer", "heads") else node.name
    if isinstance(node, Lookup):
        domain = program.parameter(node.name).domain
        pairs = zip(domain, node.indices, strict=True)
        places = [f'{texts[i]} - given["offset"]' if d == "q" else texts[i] for d, i in pairs]
        return f'element(given["tables"]["{node.name}"], {", ".join(places)})'
    if isinstance(node, Exists):
        return (
            f"torch.stack(torch.broadcast_tensors(q < 0 * k, *(torch.as_tensor({texts[node.body]}, device=q.device)"
            f" for {node.index.name} in range(int({texts[node.count]}))))).any(0)"
        )
    assert isinstance(node, Apply)
    operands = [texts[a] for a in node.args]
    op = OPS[node.op]
    if node.op in _CALLS:
        return f"{_CALLS[node.op]}({', '.join(operands)})"
    if node.op in ("min", "max"):
        text = operands[0]
        for other in operands[1:]:
            text = f"torch.{node.op}imum({text}, {other})"
        return text
    if node.op == "float":
        return f"torch.as_tensor({operands[0]}, device=q.device).double()"
    if node.op == "floor":
        return f"torch.floor({operands[0]}).long()"
    if op.form == "infix":
        return "(" + f" {op.symbol} ".join(operands) + ")"
    if op.form == "prefix":
        return f"({op.symbol}{operands[0]})"
    return f"torch.{op.symbol}({operands[0]})"
