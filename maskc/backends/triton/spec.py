"""What the text of a kernel depends on, and what comes out: a source with its arguments."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from maskc.backends.triton.sides import apart
from maskc.ir.nodes import Const, Lookup, Node, Param, Type, postorder
from maskc.ir.program import SCORE, Program
from maskc.ir.rewrite import map_program, substitute
from maskc.passes import normalise

__all__ = ["Argument", "Form", "Kernel", "KernelSpec", "read_tables", "specialised"]


class Form(NamedTuple):
    """What a plan asks of a kernel's text; see ``KernelSpec``."""

    clauses: int | None = None
    q_steps: int | None = None
    k_steps: int | None = None
    packed: bool = False
    shared: bool = False
    boxed: bool = False
    listed: bool = False
    steady: bool = False
    joined: bool = False


@dataclass(frozen=True)
class KernelSpec:
    """One kernel text: the same for all lengths, sizes, layers and lists of tiles.

    Attributes:
        program: normalised, with scalar parameters replaced by their values.
        batched: names of the inputs that have a batch dimension in front.
        clauses: partial tiles keep the keys of so many intervals a query, read from the plan;
            None: they evaluate the mask.
        grad_tables: names of float inputs that receive a gradient.
        q_steps, k_steps: how the kernel finds laid-out queries and keys: see ``places.Places``.
        cleared: callers set queries, and gradients of outputs, to 0 where a query keeps no key, if they can tell.
        packed: a tile of the forward kernel holds several heads: see ``packing``.
        shared: the longest rows of tiles are cut into shares: see ``shares``.
        boxed: partial tiles keep the keys of a box for each query: see ``boxes``.
        listed: when decoding, live tiles are read off a list, and not found from the length.
        steady: how far apart tokens lie in the tensors is the same for all lengths and batch sizes, and a constant when
            compiling: most of the arithmetic of addresses is done then, and few registers hold the rest.
        joined: full and partial tiles are one sequence, none of them ragged: see ``tiles.joined``.
    """

    program: Program
    batched: frozenset[str] = frozenset()
    clauses: int | None = None
    grad_tables: frozenset[str] = frozenset()
    q_steps: int | None = None
    k_steps: int | None = None
    packed: bool = False
    shared: bool = False
    boxed: bool = False
    listed: bool = False
    steady: bool = False
    joined: bool = False
    cleared: bool = True

    @property
    def masked_by_plan(self) -> bool:
        """Whether partial tiles are masked by numbers from the plan, and do not evaluate the mask."""
        return self.boxed or self.clauses is not None

    @property
    def plain_score(self) -> bool:
        """The score is the scaled dot product."""
        return self.program.score is SCORE


@dataclass(frozen=True)
class Argument:
    """An argument of a kernel. ``kind``: "data" (a pointer to the dtype of q), "float32", "int32", "table" (a
    pointer to the elements of the table ``table``), "int", "float" or "constexpr"."""

    name: str
    kind: str
    table: str | None = None


@dataclass(frozen=True)
class Kernel:
    """A Triton source with one kernel. ``text`` is a whole file: a header, the ``helpers``, and ``function``."""

    name: str
    text: str
    arguments: tuple[Argument, ...]
    function: str = ""
    helpers: tuple[str, ...] = ()

    @functools.cached_property
    def digest(self) -> str:
        """64 hexadecimal digits of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @functools.cached_property
    def tables(self) -> tuple[str, ...]:
        """The tables and inputs that the kernel reads."""
        return tuple(a.table for a in self.arguments if a.table is not None)


def specialised(program: Program, args: Mapping[str, bool | int | float]) -> Program:
    """The normal form of the program with its scalar parameters replaced by ``args``, and with the query and the key
    on sides of their own in comparisons; what is asserted is dropped.

    Heads, the layer, lengths and extents stay open, so that one text serves all of them.
    """
    known: dict[Node, Node] = {}
    for p in program.params:
        if p.is_scalar and p.name in args:
            value = args[p.name]
            known[Param(p.name, p.type)] = Const(float(value) if p.type is Type.FLOAT else value)
    bound = map_program(program.replace(assertions=()), lambda root: substitute(root, known))
    return apart(normalise(bound))


def read_tables(*roots: Node) -> tuple[str, ...]:
    """Names of the tables below ``roots``, each once."""
    return tuple(dict.fromkeys(n.name for n in postorder(roots) if isinstance(n, Lookup)))
