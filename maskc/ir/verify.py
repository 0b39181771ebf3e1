"""What every stage may rely on, checked: legal nodes, types, and what each statement may speak of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from maskc.ir.nodes import SYMBOLS, Apply, Const, Exists, Lookup, Node, Param, Symbol, Type, postorder
from maskc.ir.ops import apply
from maskc.ir.program import Program

__all__ = ["Stage", "VerifyError", "verify"]

#: ``typed``: as lowered; ``normal``: after the passes; ``bound``: with all that is known when compiling put in.
Stage = Literal["typed", "normal", "bound"]

_PAIR = frozenset({"q", "k", "h", "b", "layer", "heads"})
_ROW = _PAIR - {"k"}
_STATIC = frozenset({"layer", "heads"})


class VerifyError(AssertionError):
    """A program that no stage may produce: a defect of the compiler and not of the user's pattern."""


def verify(program: Program, stage: Stage = "typed") -> None:
    """Check a program; raises VerifyError, which names the node as text."""
    for what, root, type_, allowed in _roots(program):
        if root.type is not type_:
            _fail(root, f"the {what} is {root.type.value} and not {type_.value}")
        _check_symbols(what, root, allowed - (_STATIC if stage == "bound" else frozenset()))
        for node in postorder([root]):
            _check_node(node, program, stage)


def _roots(program: Program) -> Iterator[tuple[str, Node, Type, frozenset[str]]]:
    yield "mask", program.mask, Type.BOOL, _PAIR
    yield "score", program.score, Type.FLOAT, _PAIR | {"s"}
    yield "output", program.output, Type.FLOAT, _ROW | {"o"}
    if program.normalizer.sink is not None:
        yield "sink", program.normalizer.sink, Type.FLOAT, _ROW
    for a in program.assertions:
        if (a.claim is None) is (a.kind == "all"):
            raise VerifyError(f"an assertion of kind {a.kind} with claim {a.claim!r}")
        if a.claim is not None:
            yield "claim", a.claim, Type.BOOL, _PAIR


def _check_symbols(what: str, root: Node, allowed: frozenset[str]) -> None:
    from maskc.ir.schedule import free_indices

    for node in postorder([root]):
        if isinstance(node, Symbol) and node.name in SYMBOLS and node.name not in allowed:
            _fail(node, f"the {what} may not speak of it")
    if loose := free_indices([root])[root]:
        _fail(next(iter(loose)), f"no `any` of the {what} binds it")


def _check_node(node: Node, program: Program, stage: Stage) -> None:
    declared = {p.name: p for p in program.params}
    if isinstance(node, (Param, Lookup)):
        p = declared.get(node.name)
        if p is None or p.type is not node.type or p.is_scalar is not isinstance(node, Param):
            _fail(node, "the signature does not declare it so")
    if isinstance(node, Lookup) and (
        len(node.indices) != len(declared[node.name].domain) or any(i.type is not Type.INT for i in node.indices)
    ):
        _fail(node, "its indices do not fit the declaration")
    if isinstance(node, Exists) and (node.count.type is not Type.INT or node.body.type is not Type.BOOL):
        _fail(node, "its count must be an integer, and its body a mask")
    if isinstance(node, Apply):
        _check_apply(node)
    if stage == "bound" and (isinstance(node, Param) or (isinstance(node, Exists) and isinstance(node.count, Const))):
        _fail(node, "it must be gone once the program is bound")


def _check_apply(node: Apply) -> None:
    try:
        again = apply(node.op, *node.args)
    except (TypeError, KeyError) as e:
        raise VerifyError(f"{node!r}: {e}") from e
    if again is not node:
        _fail(node, "it is not flat, or its type does not follow from its operands")


def _fail(node: Node, message: str) -> None:
    from maskc.ir.text import MOST_SHOWN, print_node

    raise VerifyError(f"`{print_node(node, most=MOST_SHOWN)}`: {message}")
