"""What a standalone file holds for gradients of float inputs: logits of sinks by head, and what a score reads. Kernels
leave sums over keys, over queries, or over tiles of pairs (``standalone_pairs``), and torch adds these to a table."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from maskc.backends.triton.backward import score_lookups
from maskc.backends.triton.spec import KernelSpec, read_tables
from maskc.diagnostics import Diagnostic, MaskcError
from maskc.ir.derivative import float_lookups
from maskc.ir.nodes import Lookup, Symbol, Type, postorder
from maskc.ir.program import OUTPUT, Program

__all__ = ["PULL", "Learned", "learned_by", "sums_text"]


@dataclass(frozen=True)
class Learned:
    """The inputs that get gradients beside q, k and v, by name. ``sink``: that which is the logits of the sink;
    ``rows``, ``columns``, ``pairs``: look-ups of the others, whose derivatives are summed over keys, over queries, or
    over tiles that read the same elements."""

    names: tuple[str, ...] = ()
    sink: str | None = None
    rows: tuple[Lookup, ...] = ()
    columns: tuple[Lookup, ...] = ()
    pairs: tuple[Lookup, ...] = ()


def learned_by(spec: KernelSpec, wanted: Collection[str]) -> tuple[KernelSpec, Learned]:
    """The inputs that get gradients: those that are ``wanted``, which the kernels of the result add up, and logits of
    sinks, which cost nothing. Raises E502 for one that can have none here."""
    program = spec.program
    if program.output is not OUTPUT:
        if wanted:
            raise _no_gradient(program, min(wanted), "the output expression has none in a standalone file")
        return spec, Learned()
    sink = _sink(spec)
    asked = [p.name for p in program.params if p.name in wanted and p.name != sink]
    declared = {p.name for p in program.params}
    for name in (*sorted({*wanted} - declared), *asked):
        why = "it declares no such input" if name not in declared else _why_not(spec, name)
        if why is not None:
            raise _no_gradient(program, name, why)
    of_score = replace(spec, grad_tables=frozenset(asked))
    found = score_lookups(of_score)
    for node in found.pairs:
        if Symbol("s") in postorder(node.indices):
            raise _no_gradient(program, node.name, "where the score reads it depends on the score itself")
    names = (*asked, *(() if sink is None else (sink,)))
    return of_score, Learned(names, sink, *found)


def _no_gradient(program: Program, name: str, why: str) -> MaskcError:
    return MaskcError(Diagnostic("E502", f"{name!r} of {program.name!r} can have no gradient there: {why}", hint=_HINT))


_HINT = "leave it out, and it stays as it is: inputs of floats that the score alone reads can have one"


def _why_not(spec: KernelSpec, name: str) -> str | None:
    program, p = spec.program, spec.program.parameter(name)
    if p.type is not Type.FLOAT or p.when != "call":
        return "it is no input of floats"
    sink = program.normalizer.sink
    if name in read_tables(program.mask, *([] if sink is None else [sink])):
        return "the mask reads it" if name in read_tables(program.mask) else "the sink reads it, by more than the head"
    read = [n for n in float_lookups(program.score) if n.name == name]
    return None if read else "the score does not read it"


def _sink(spec: KernelSpec) -> str | None:
    """The input that is the logits of sinks by head, and that nothing else reads."""
    program, sink = spec.program, spec.program.normalizer.sink
    if not isinstance(sink, Lookup) or sink.indices != (Symbol("h"),) or sink.name in spec.batched:
        return None
    p, others = program.parameter(sink.name), read_tables(program.mask, program.score)
    return sink.name if p.when == "call" and p.domain == ("head",) and sink.name not in others else None


PULL = '''

def pull(total, places, sums):
    """Add sums (batch, heads, tokens) to the elements at ``places`` of the gradient of a table."""
    if total.numel() == 0:
        return
    places = [torch.as_tensor(x, device=sums.device) for x in places]
    shape = torch.broadcast_shapes((1, 1, 1), *(x.shape for x in places))
    alike = [axis for axis, n in enumerate(shape) if n == 1]
    sums = sums.double().sum(alike, keepdim=True) if alike else sums.double()
    at = tuple(x.clamp(0, n - 1).expand(sums.shape) for x, n in zip(places, total.shape, strict=True))
    total.index_put_(at, sums, accumulate=True)
'''


def sums_text(learned: Learned, text: Callable[[Lookup], list[str]]) -> str:
    """The function of the file that says where sums belong. ``text``: the indices of a look-up as Python."""
    lines = ["", "", "def read_by_score(q, k, b, h, given):"]
    lines.append(
        '    """Which inputs with gradients the score reads, and where: of sums over keys, and over queries."""'
    )
    for word, lookups in (("rows", learned.rows), ("columns", learned.columns)):
        each = [f"({json.dumps(node.name)}, [{', '.join(text(node))}])" for node in lookups]
        lines.append(f"    {word} = [{', '.join(each)}]")
    return "\n".join([*lines, "    return rows, columns"]) + "\n"
