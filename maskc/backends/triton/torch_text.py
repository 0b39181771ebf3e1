"""Expressions as Python for torch: a mask as a function of positions, and the places that look-ups read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING

from maskc.backends.triton.expressions import without_brackets
from maskc.ir.nodes import Apply, Const, Exists, Lookup, Node, Size, Symbol, Type, postorder
from maskc.ir.ops import OPS

if TYPE_CHECKING:
    from maskc.ir.program import Program

__all__ = ["indices", "places_function", "torch_function"]

#: Operators that are written as calls of what ``planning`` offers, or of torch by way of ``by_torch``.
_CALLS = {
    "floordiv": "floor_divide",
    "mod": "remainder",
    "hash": "hashed",
    "select": "choose",
    "abs": "absolute",
    "min": "least",
    "max": "greatest",
    "float": "as_float",
    "floor": "floor",
}


#: Texts longer than this get a line of their own.
_LONG = 60


def torch_function(mask: Node, program: Program, batched: frozenset[str] = frozenset()) -> str:
    """The mask as a Python function of positions: tensors of integers, or ranges of them. ``batched``: inputs with a
    batch dimension in front."""
    lines = [
        "def mask(q, k, b, h, given):",
        '    """Whether key ``k`` is kept for query ``q``; positions are tensors, or a ``Range`` for every tile."""',
    ]
    steps, texts = _steps([mask], program, batched)
    return "\n".join([*lines, *steps, *_returned(mask, texts)]) + "\n"


def places_function(name: str, node: Lookup, program: Program, batched: frozenset[str]) -> str:
    """Where a look-up of a score reads, as a Python function of positions: tensors of integers."""
    lines = [f"def {name}(q, k, b, h, given):", '    """What the score reads there: indices of an input."""']
    steps, texts = _steps(node.indices, program, batched, single=True)
    return "\n".join([*lines, *steps, f"    return [{', '.join(_places(node, texts, program, batched))}]"]) + "\n"


def _steps(
    roots: Sequence[Node], program: Program, batched: frozenset[str], single: bool = False
) -> tuple[list[str], dict[Node, str]]:
    """Lines that compute what is used more than once, and the texts of all nodes below ``roots``. ``single``: floats
    have 32 bits, as kernels compute those of scores, and what is long has a line of its own."""
    uses = Counter(c for n in postorder(roots) for c in n.children)
    texts: dict[Node, str] = {}
    lines: list[str] = []
    bound = {n.index for n in postorder(roots) if isinstance(n, Exists)}
    loose: dict[Node, bool] = {}
    for node in postorder(roots):
        loose[node] = node in bound or any(loose[c] for c in node.children)
        text = _torch_text(node, texts, program, batched, single)
        if (uses[node] > 1 or (single and len(text) > _LONG)) and node.children and not loose[node]:
            name = f"v{len(lines)}"
            lines.append(f"    {name} = {text}")
            text = name
        texts[node] = text
    return lines, texts


def _returned(mask: Node, texts: Mapping[Node, str]) -> list[str]:
    """The mask's value, in lines if it is long."""
    line = f"    return {without_brackets(texts[mask])}"
    if len(line) <= 118 or not (isinstance(mask, Apply) and mask.op in ("and", "or")):
        return [line]
    first, *rest = (texts[a] for a in mask.args)
    return ["    return (", f"        {first}", *(f"        {OPS[mask.op].symbol} {x}" for x in rest), "    )"]


def indices(node: Lookup, program: Program, batched: frozenset[str]) -> list[str]:
    """Where a look-up reads, as Python: an expression for each dimension of the table."""
    texts: dict[Node, str] = {}
    for each in postorder(node.indices):
        texts[each] = _torch_text(each, texts, program, batched, True)
    return _places(node, texts, program, batched)


def _places(node: Lookup, texts: Mapping[Node, str], program: Program, batched: frozenset[str]) -> list[str]:
    pairs = zip(program.parameter(node.name).domain, node.indices, strict=True)
    places = [f'{texts[i]} - given["offset"]' if d == "q" else without_brackets(texts[i]) for d, i in pairs]
    return ["b", *places] if node.name in batched else places


def _torch_text(
    node: Node, texts: Mapping[Node, str], program: Program, batched: frozenset[str], single: bool = False
) -> str:
    if isinstance(node, Const):
        infinite = isinstance(node.value, float) and not isfinite(node.value)
        return f'float("{node.value}")' if infinite else repr(node.value)
    if isinstance(node, Size):
        return f'given["{ {"q": "q_len", "k": "k_len"}.get(node.name, "size_" + node.name) }"]'
    if isinstance(node, Symbol):
        return f'given["{node.name}"]' if node.name in ("layer", "heads") else node.name
    if isinstance(node, Lookup):
        places = _places(node, texts, program, batched)
        text = f'element(given["tables"]["{node.name}"], {", ".join(places)})'
        return f"single({text})" if single and node.type is Type.FLOAT else text
    if isinstance(node, Exists):
        return f"some({texts[node.count]}, lambda {node.index.name}: {without_brackets(texts[node.body])})"
    assert isinstance(node, Apply)
    operands = [texts[a] for a in node.args]
    op = OPS[node.op]
    if node.op in _CALLS:
        call = "single" if single and node.op == "float" else _CALLS[node.op]
        return f"{call}({', '.join(without_brackets(x) for x in operands)})"
    if op.form == "infix":
        return "(" + f" {op.symbol} ".join(operands) + ")"
    if op.form == "prefix":
        return f"({op.symbol}{operands[0]})"
    return f"by_torch(torch.{op.symbol}, {without_brackets(operands[0])})"
