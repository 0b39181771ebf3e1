"""One Python file that needs only torch and triton and runs one pattern: to read, to change, to take along."""

from __future__ import annotations

import ast
import functools
import inspect
import itertools
import json
import re
from collections.abc import Collection, Mapping, Sequence
from keyword import iskeyword
from typing import TYPE_CHECKING

from maskc.backends.triton import planning
from maskc.backends.triton.backward import clears_empty_rows
from maskc.backends.triton.backward_dkv import write_dkv
from maskc.backends.triton.backward_dq import write_dq
from maskc.backends.triton.cached import lists_pay, write_cached, write_merge
from maskc.backends.triton.configs import Target, config
from maskc.backends.triton.entrance import entrance, known
from maskc.backends.triton.expressions import Unsupported, table_name
from maskc.backends.triton.forward import write_forward
from maskc.backends.triton.origin import origin_of
from maskc.backends.triton.pairs import write_pairs
from maskc.backends.triton.spec import KernelSpec, read_tables, specialised
from maskc.backends.triton.spelling import HELPERS
from maskc.backends.triton.standalone_decode import DECODE
from maskc.backends.triton.standalone_gradients import PULL, Learned, learned_by, sums_text
from maskc.backends.triton.standalone_pairs import pairs_text
from maskc.backends.triton.torch_text import indices, places_function, torch_function
from maskc.backends.triton.weights import is_softmax
from maskc.backends.triton.writer import CONSTANTS
from maskc.diagnostics import Diagnostic, MaskcError
from maskc.ir.nodes import Lookup, Size, Symbol, postorder
from maskc.ir.program import OUTPUT

if TYPE_CHECKING:
    from maskc.ir.program import Program

__all__ = ["write_standalone"]

_HEADER = '''"""Attention under one pattern, by Triton kernels that skip every tile without a kept pair.

Written by maskc. Needs torch and triton, and nothing else.

    out = attention(q, k, v{example})
{decode}
q is (batch, heads, queries, dim), k and v are (batch, key heads, keys, dim). {gradients}
With TRITON_INTERPRET=1 it runs on the CPU, slowly. Which tiles are live is found when lengths or inputs are
new, and kept: a first call takes one evaluation of the mask for each tile, and one for each pair of the tiles
that this leaves open. Inputs may be changed in place, but not between a call and its backward pass; capture CUDA
graphs after a first call.
"""

from __future__ import annotations

{imports}import torch
import triton
import triton.language as tl

'''

_DECODE_CALL = """    out = decode(q, k_cache, v_cache, lengths{example})
"""
_GRADIENTS = "Differentiable in {names}."
_NO_GRADIENTS = "Not differentiable: the gradient of the output expression is not part of this file."

_RUN = '''

_plans = {}


def plan(given, batch, heads, q_tile, k_tile, device, by_keys):
    """The tiles of every mask as the kernels read them; the plans used last are kept."""
    tables = tuple(given["tables"][name] for name in MASKED)
    kept = not any(t.is_inference() for t in tables)  # else nobody could tell that one was changed
    scalars = tuple((n, x) for n, x in given.items() if n != "tables")
    versions = tuple((id(t), t._version) for t in tables) if kept else ()
    key = (scalars, versions, batch, heads, q_tile, k_tile, device, by_keys)
    if kept and key in _plans:
        return _plans[key][1]
    batches, members = (batch if BY_BATCH else 1), (heads if BY_HEAD else 1)
    every = [tile_kinds(mask, given, b, h, q_tile, k_tile, device) for b in range(batches) for h in range(members)]
    found = plan_tiles([kinds.T if by_keys else kinds for kinds in every])
    found["plan_of"] = torch.arange(batches * members).view(batches, members).expand(batch, heads)
    for name, x in found.items():
        if torch.is_tensor(x):
            found[name] = x.to(device, torch.int32).contiguous()
    if kept:
        while len(_plans) >= 32:
            del _plans[next(iter(_plans))]
        _plans[key] = tables, found  # with the tables, so that nothing else gets their identity
    return found


_read = {}


def read(name, table):
    """``readable``, kept until the table changes."""
    if table.is_inference():
        return readable(name, table)
    key = (name, id(table), table._version)
    if key not in _read:
        while len(_read) >= 64:
            del _read[next(iter(_read))]
        _read[key] = table, readable(name, table)
    return _read[key][1]


def readable(name, table):
    """A table as the kernels read it: of floats, float64 among them, which masks compare; int32 or int8."""
    if table.numel() == 0:  # every look-up in it is clamped to the one element that kernels may read: 0
        table = table.new_zeros((1,) * table.ndim)
    if table.dtype == torch.int64 and max(-1 - int(table.min()), int(table.max())) >= 2**31:
        raise ValueError(f"{name!r} holds integers beyond 32 bits, which the kernels do not read")
    if table.dtype == torch.float64:
        return table.contiguous()
    dtype = torch.float32 if table.is_floating_point() else torch.int8 if table.dtype == torch.bool else torch.int32
    return table.to(dtype).contiguous()


def table_values(given):
    """The arguments of kernels that are tables, and their extents."""
    values = {}
    for name, table in given["tables"].items():
        values[TABLES[name]] = read(name, table)
        values.update({f"n{i}_of_{TABLES[name]}": n for i, n in enumerate(values[TABLES[name]].shape)})
    return values


def tile_of(stage, q, v):
    """Head dimensions, and queries and keys a tile, warps and pipeline stages."""
    dims = {"D": q.shape[3], "DV": v.shape[3]}
    dims.update({f"{n}_PAD": max(16, 1 << (d - 1).bit_length()) for n, d in dims.items()})
    tiles = TILES_OF_FLOAT32 if q.dtype == torch.float32 else TILES
    q_tile, k_tile, warps, stages = tiles[stage, min(w for w in (64, 128, 256) if w >= max(dims.values()))]
    return dims, (16, 16, warps, stages) if q.device.type == "cpu" else (q_tile, k_tile, warps, stages)


def run(kernel, stage, heads, given, values, q, v):
    """Start a kernel on all rows (or columns) of tiles of ``heads`` heads."""
    dims, (q_tile, k_tile, warps, stages) = tile_of(stage, q, v)
    found = plan(given, q.shape[0], q.shape[1], q_tile, k_tile, q.device, stage == "dkv")
    values = {**given, **values, **dims, **found, "Q_TILE": q_tile, "K_TILE": k_tile, "PRECISION": "ieee"}
    values |= table_values(given)
    values.update({"heads": q.shape[1], "group": q.shape[1] // values["k_ptr"].shape[1]})
    values["AT_ONCE"] = max(256, warps * WARP * 16 // q.element_size())
    values.update({"RAGGED_Q": given["q_len"] % q_tile != 0, "RAGGED_K": given["k_len"] % k_tile != 0})
    for name, prefix in (("q_ptr", "q"), ("k_ptr", "k"), ("v_ptr", "v"), ("out_ptr", "o"), ("do_ptr", "do"),
                         ("dq_ptr", "dq"), ("dk_ptr", "dk"), ("dv_ptr", "dv")):
        if name in values:
            values.update({f"{prefix}_s{axis}": s for axis, s in zip("bhnd", values[name].stride(), strict=True)})
    grid, flat = (found["tile_rows"], heads, q.shape[0]), max(heads, q.shape[0]) > 65535
    programs = math.prod(grid)
    values.update({"programs": programs, "poisoned": torch.empty(programs, dtype=torch.int32, device=q.device)})
    values["FLAT"], grid = flat, (programs,) if flat else grid
    # The second time for rows with a NaN, which a few instances look for.
    for careful in (False, True) if programs and "CAREFUL" in kernel.arg_names else (False,) if programs else ():
        values["CAREFUL"], grid = careful, (min(programs, max(256, -(-programs // 1024))),) if careful else grid
        arguments = {name: values[name] for name in kernel.arg_names}
        with torch.cuda.device(q.device) if q.is_cuda else contextlib.nullcontext():
            kernel[grid](**arguments, num_warps=warps, num_stages=stages)

'''

_FORWARD = '''

def forward(q, k, v, scale, given):
    """Output and log-sum-exp (0 where there is no softmax)."""
{few}    out = torch.empty((*q.shape[:3], v.shape[3]), dtype=q.dtype, device=q.device)
    lse = torch.zeros(q.shape[:3], dtype=torch.float32, device=q.device)
    values = {{"q_ptr": q, "k_ptr": k, "v_ptr": v, "out_ptr": out, "plain_ptr": torch.empty_like(out), "lse_ptr": lse}}
    run(attention_forward, "forward", q.shape[1], given, {{**values, "scale": scale}}, q, v)
    return out, lse
'''

_FEW = """    if q.shape[2] <= 16 and k.shape[2] >= 1024:  # too few rows to keep a GPU busy
        lengths = torch.full(q.shape[:1], k.shape[2], dtype=torch.int32, device=q.device)
        behind = k.shape[2] - q.shape[2] - given["offset"]
        return run_cached(q, k, v, lengths, None, None, scale, {**given, "behind": behind})
"""

_BACKWARD = '''

class Attention(torch.autograd.Function):
    """Forward and backward, as torch wants them."""

    @staticmethod
    def forward(ctx, q, k, v, scale, given, *learned):
        out, lse = forward(q, k, v, scale, given)
        # Tables too, so that torch refuses those that are changed before the backward pass.
        tables = [t for t in given["tables"].values() if not t.is_inference()]
        ctx.save_for_backward(q, k, v, out, lse, *tables)
        ctx.scale, ctx.given = scale, given
        return out

    @staticmethod
    def backward(ctx, grad):
        q, k, v, out, lse = ctx.saved_tensors[:5]
        grad = grad.resolve_neg()
{clean}        dq, dk, dv = (torch.zeros_like(x) for x in (q, k, v))
        level, delta = torch.empty_like(lse), torch.empty_like(lse)  # by the kernel of dQ, which runs first
        values = {{"q_ptr": q, "k_ptr": k, "v_ptr": v, "out_ptr": out, "do_ptr": grad, "lse_ptr": lse}}
        values |= {{"level_ptr": level, "delta_ptr": delta, "lse_grad_ptr": delta, "LSE_GRAD": False}}
        values |= {{"dq_ptr": dq, "dk_ptr": dk, "dv_ptr": dv, "scale": ctx.scale}}
{run}{sink}        return dq, dk, dv, None, None{grads}
'''

_RUN_BACKWARD = """        run(attention_dq, "dq", q.shape[1], ctx.given, values, q, v)
        run(attention_dkv, "dkv", k.shape[1], ctx.given, values, q, v)
"""
_READ_BY_SCORE = """        b, h, row, column = (torch.arange(n, device=q.device) for n in (*q.shape[:3], k.shape[2]))
        b, h = b[:, None, None], h[:, None]
        rows, columns = read_by_score(row + ctx.given["offset"], column, b, h, ctx.given)
"""
_TOTAL = """        total = {{n: torch.zeros_like(ctx.given["tables"][n], dtype=torch.float64) for n{of}}}
"""
_RUN_AND_PULL = """\
        for kernel, stage, of, reads in ((attention_dq, "dq", q, rows), (attention_dkv, "dkv", k, columns)):
            shape = (*q.shape[:2], of.shape[2])
            sums = [torch.zeros(shape, dtype=torch.float32, device=q.device) for _ in reads]
            tables = {f"table_{i}_ptr": x for i, x in enumerate(sums)}
            run(kernel, stage, of.shape[1], ctx.given, values | tables, q, v)
            for (name, places), x in zip(reads, sums, strict=True):
                pull(total[name], places, x)
"""
_RUN_PAIRS = """        wanted = dict(zip(LEARNED, ctx.needs_input_grad[5:], strict=True))
        if any(wanted[name] for name, *_ in BY_PAIRS):
            pull_pairs(total, ctx.given, values, q, k, v)
"""
_GRADS = """        grads = [total[name].to(ctx.given["tables"][name].dtype) for name in LEARNED if name != SINK]
"""
_SINK_GRADIENT = """        # The sink's share of the weights; it has no value.
        sink = ctx.given["tables"][SINK]
        share = torch.where(lse == -math.inf, 0.0, (sink.float()[:, None] - lse).exp())
        of_sink = -(share * delta).sum((0, 2)).to(sink.dtype)
"""

_CLEAN = """        # A query that keeps no key has no part in dK and dV, whatever it holds.
        empty = (lse == -math.inf)[..., None]
        q, grad = q.masked_fill(empty, 0.0), grad.masked_fill(empty, 0.0)
"""


def write_standalone(
    program: Program,
    args: Mapping[str, bool | int | float],
    target: Target | None = None,
    batched: frozenset[str] = frozenset(),
    decode: bool = False,
    learn: Collection[str] = (),
) -> str:
    """The file's text. ``args``: values of the scalar parameters; ``target``: whose tiles it uses; ``batched``: inputs
    that have a batch dimension in front; ``decode``: whether it holds the kernels of decoding, and starts them;
    ``learn``: inputs that get gradients, beside logits of sinks.

    Raises MaskcError E702 where the pattern has no kernel, and E502 for an input that can have no gradient there.
    """
    spec = KernelSpec(specialised(program, args), batched, steady=True, cleared=False)
    spec, learned = learned_by(spec, learn)
    differentiable = spec.program.output is OUTPUT
    try:
        kernels = [write_forward(spec), *([write_dq(spec), write_dkv(spec)] if differentiable else [])]
        kernels += [write_pairs(spec)] if learned.pairs else []
        kernels += [write_cached(spec), write_merge(spec)] if decode else []
    except Unsupported as why:
        message = f"the backend 'triton' cannot compute {program.name!r}: {why}"
        raise MaskcError(Diagnostic("E702", message, hint="change the pattern as the reason says")) from why
    names = read_tables(*spec.program.roots())
    clean = _CLEAN if differentiable and clears_empty_rows(spec) else ""
    of = ["q", "k", "v", *(json.dumps(name)[1:-1] for name in learned.names)]
    gradients = _GRADIENTS.format(names=f"{', '.join(of[:-1])} and {of[-1]}")
    sizes, function = _sizes(spec.program), torch_function(spec.program.mask, spec.program, batched)
    sums = places = pairs = ""
    if learned.rows or learned.columns:
        sums = sums_text(learned, lambda node: indices(node, spec.program, batched))
    if learned.pairs:
        write = functools.partial(places_function, program=spec.program, batched=batched)
        places, pairs = pairs_text(learned.pairs, batched, write)
    example = _example(names, sizes)
    stages = ("forward", "dq", "dkv", *(("pairs",) if learned.pairs else ()), *(("decode",) if decode else ()))
    helpers = dict.fromkeys(h for kernel in kernels for h in kernel.helpers)
    imports = ["import contextlib", "import math", "from typing import Any"]
    parts = [
        origin_of(program, args),
        _HEADER.format(
            example=example,
            decode=_DECODE_CALL.format(example=example) if decode else "",
            gradients=gradients if differentiable else _NO_GRADIENTS,
            imports="\n".join(imports) + "\n\n",
        ),
        CONSTANTS + "\n" + _tables(spec, args, names, sizes, learned, target or Target("cuda", 90), stages),
        "\n\n" + "\n\n".join(text for key, text in HELPERS.items() if key in helpers),
        *("\n\n" + kernel.function + "\n" for kernel in kernels),
        "\n\n" + function,
        "\n\n" + _planning(function + sums + places),
        _RUN,
        _FORWARD.format(few=_FEW if decode and not lists_pay(spec.program) else ""),
        (PULL + sums + places + pairs) if sums or pairs else "",
        _backward(learned, clean) if differentiable else "",
        entrance(spec.program),
        DECODE if decode else "",
    ]
    return "".join(parts)


def _backward(learned: Learned, clean: str) -> str:
    """The class of the backward pass. ``clean``: what is done with queries that keep no key."""
    by_one, by_pairs = bool(learned.rows or learned.columns), bool(learned.pairs)
    total = _TOTAL.format(of=" in LEARNED if n != SINK" if by_pairs else ", _ in rows + columns")
    run = _READ_BY_SCORE * by_one + total * (by_one or by_pairs) + (_RUN_AND_PULL if by_one else _RUN_BACKWARD)
    run += _RUN_PAIRS * by_pairs + _GRADS * (by_one or by_pairs)
    grads = ", *grads" * (by_one or by_pairs) + ", of_sink" * (learned.sink is not None)
    sink = "" if learned.sink is None else _SINK_GRADIENT
    return _BACKWARD.format(clean=clean, run=run, sink=sink, grads=grads)


#: Arguments of ``attention`` that a table may be called like.
_TAKEN = ("scale", "layer", "sizes", "q_start", "tables", "block_table", "start", "return_lse")


def _example(names: Sequence[str], sizes: Sequence[str]) -> str:
    """The arguments of a call after q, k and v. Tables whose names cannot be arguments are given in a mapping."""
    named = [n for n in names if n.isascii() and n.isidentifier() and not iskeyword(n) and n not in _TAKEN]
    mappings = (("sizes", sizes), ("tables", [n for n in names if n not in named]))
    shown = [f"{n}={n}" for n in named]
    shown += [f"{word}={{{', '.join(f'{json.dumps(n)}: ...' for n in those)}}}" for word, those in mappings if those]
    return "".join(f", {each}" for each in shown)


def _planning(function: str) -> str:
    """The code of ``planning`` that finds the live tiles of the mask whose text is given."""
    source = inspect.getsource(planning)
    parts = {n.name: n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    texts = {name: ast.get_source_segment(source, n) or "" for name, n in parts.items()}
    wanted, todo = set[str](), {"tile_kinds", "plan_tiles"} | (_words(function) & texts.keys())
    while todo:
        wanted |= todo
        todo = {word for name in todo for word in _words(texts[name]) & texts.keys()} - wanted
    return "\n\n\n".join(text for name, text in texts.items() if name in wanted) + "\n"


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text))


def _sizes(program: Program) -> tuple[str, ...]:
    """The extents that the kernels or the mask read."""
    found = (n.name for n in postorder(program.roots()) if isinstance(n, Size) and n.name not in ("q", "k"))
    return tuple(dict.fromkeys(found))


def _tables(
    spec: KernelSpec,
    args: Mapping[str, bool | int | float],
    names: tuple[str, ...],
    sizes: tuple[str, ...],
    learned: Learned,
    target: Target,
    stages: tuple[str, ...],
) -> str:
    mask = list(postorder([spec.program.mask]))
    lines = ["# Threads of a warp.", f"WARP = {target.warp_size}"]
    lines.append(
        "# Queries and keys a tile, warps and pipeline stages, by kernel and head dimension; for 16 bits, and for 32."
    )
    for name, dtype in (("TILES", "bfloat16"), ("TILES_OF_FLOAT32", "float32")):
        lines.append(f"{name} = {{")
        for stage, width in itertools.product(stages, (64, 128, 256)):
            c = config(stage, target, width, dtype)
            lines.append(f'    ("{stage}", {width}): {(c.q_tile, c.k_tile, c.warps, c.stages)!r},')
        lines.append("}")
    lines.append("# The pattern's tables and inputs, and what the kernels call them.")
    lines.append("TABLES = " + json.dumps({n: table_name(n, spec.program.params) for n in names}))
    lines.append("# Those that decide which tiles are live.")
    lines.append("MASKED = " + json.dumps(read_tables(spec.program.mask)))
    lines.append("# Those that get gradients, too; and which of them is the logits of the sink.")
    lines.append("LEARNED = " + json.dumps(learned.names))
    lines.append(f"SINK = {learned.sink and json.dumps(learned.sink)}")
    lines += known(spec.program, args, names, spec.batched)
    lines += ["# The extents of axes and segments that must be given.", "SIZES = " + json.dumps(sizes)]
    lines += ["# Whether weights are normalised by a softmax.", f"SOFTMAX = {is_softmax(spec)}"]
    lines += ["# Whether queries and keys are two sequences.", f"CROSS = {spec.program.cross}"]
    of_entries = Symbol("b") in mask or any(isinstance(n, Lookup) and n.name in spec.batched for n in mask)
    for word, differs in (("BY_HEAD", Symbol("h") in mask), ("BY_BATCH", of_entries)):
        lines.append(f"{word} = {differs}  # whether the mask differs")
    return "\n".join(lines) + "\n"
