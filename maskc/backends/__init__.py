"""Backends: what computes attention once a pattern is compiled, one row each, in order of preference.

A backend is a module (or a package) with two functions, ``supports`` and ``run``: see ``Backend``.
It is imported only when it is asked for, so that a row costs nothing. No backend imports another.
"""

from __future__ import annotations

import importlib
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar, cast

from maskc.arguments import shown
from maskc.diagnostics import Diagnostic, MaskcError
from maskc.tiles.budget import BUDGET

if TYPE_CHECKING:
    import torch

    from maskc.ir.binding import Binding
    from maskc.ir.program import Program

__all__ = ["BACKENDS", "Backend", "BackendRow", "CacheInfo", "Compiled", "Refusal", "Request", "backend_row", "choose"]

_T = TypeVar("_T")


@dataclass(frozen=True)
class Refusal:
    """Why a backend cannot do something (``reason``: a clause, "it has no backward pass") and what to do instead."""

    reason: str
    remedy: str = ""


@dataclass(frozen=True)
class Request:
    """What is known of a call, without its values. None: not known yet (when compiling).

    Attributes:
        device: type of the tensors' device: "cpu", "cuda", ...
        dtype: dtype of q, k and v, as "float32", "bfloat16", ...
        head_dim, value_dim: last extent of q and k, and of v.
        q_len, k_len, batch, heads, kv_heads: the other extents.
        needs_grad: whether q, k, v or a float input requires a gradient.
        return_lse: whether the log-sum-exp is asked for.
        layout: the order of the tokens that is asked for, as ``make_plan`` takes it.
        args: the values of scalar parameters, as far as they are known.
    """

    device: str | None = None
    dtype: str | None = None
    head_dim: int | None = None
    value_dim: int | None = None
    q_len: int | None = None
    k_len: int | None = None
    batch: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    needs_grad: bool | None = None
    return_lse: bool | None = None
    layout: str = "none"
    args: tuple[tuple[str, bool | int | float], ...] = ()


_REMEMBERED = 32  # results kept for each op: plans of the lengths and inputs met last


class CacheInfo(NamedTuple):
    """Statistics of the plans and kernels that an op keeps; ``size`` never exceeds ``limit``."""

    hits: int
    misses: int
    size: int
    limit: int


@dataclass(frozen=True, eq=False)
class Compiled:
    """A pattern that is ready for a backend.

    Attributes:
        program: as lowered, un-optimised: what the pattern means.
        heads: number of query heads.
        layer: the layer.
        args: value of each scalar parameter (enumerations as integers).
        tables: value of each table that was given when compiling (NumPy).
        sizes: extents that were given when compiling.
        layout: the order in which tokens are computed, as ``make_plan`` takes it; "none": their own.
        budget: what a plan may cost, as ``make_plan`` takes it.
    """

    program: Program
    heads: int
    layer: int = 0
    args: Mapping[str, bool | int | float] = field(default_factory=dict)
    tables: Mapping[str, Any] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    layout: str = "none"
    budget: int = BUDGET
    _memory: OrderedDict[Hashable, tuple[Any, Any]] = field(default_factory=OrderedDict, repr=False)
    _uses: Counter[str] = field(default_factory=Counter, repr=False)
    _held: dict[int, Any] = field(default_factory=dict, repr=False)

    def remember(self, what: Hashable, binding: Binding | None, make: Callable[[], _T]) -> _T:
        """``make()``, or what it gave the last time for ``what`` and this very ``binding``.

        The op hands the same binding object to calls with the same lengths and the same inputs,
        so a plan or a kernel kept here serves every layer and step that repeats them. The few
        results used last are kept.
        """
        key = (what, None if binding is None else id(binding))
        found = self._memory.pop(key, None)
        if found is not None and (binding is None or found[0]() is binding):
            self._memory[key] = found
            self._uses["hits"] += 1
            return cast("_T", found[1])
        self._uses["misses"] += 1
        value = make()
        self._memory[key] = (None if binding is None else weakref.ref(binding), value)
        while len(self._memory) > _REMEMBERED:
            self._memory.popitem(last=False)
        return value

    def hold(self, what: Any) -> None:
        """Keep ``what`` for as long as this lives, whatever else is met: a CUDA graph reads memory that it owns, and
        asks for it no more."""
        self._held[id(what)] = what

    @property
    def cache_info(self) -> CacheInfo:
        """How often a plan or a kernel was found again, and how many are kept."""
        return CacheInfo(self._uses["hits"], self._uses["misses"], len(self._memory), _REMEMBERED)


class Backend(Protocol):
    """What a backend's module offers.

    It may also have ``run_decode(call: DecodeCall) -> tuple[Tensor, Tensor]``, output and log-sum-exp of a call of
    ``op.decode`` (see ``maskc.backends.decoding``); one that has not decodes by ``run``.
    """

    def supports(self, program: Program, request: Request) -> Refusal | None:
        """None if this backend can compute ``program`` for such a call; else why not.

        Asked when compiling, with nothing known of the tensors, and at every call. Cheap.
        """

    def run(
        self,
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
        """Attention of (B, Hq, Nq, D) queries over (B, Hkv, Nk, D) keys and (B, Hkv, Nk, Dv) values.

        Arguments are checked already. ``binding`` holds lengths, scalars, tables and the inputs
        that are integers or Booleans; ``floats`` the float inputs as they were given (any float
        dtype, on the device of ``q``, perhaps requiring a gradient; their indices are as in
        ``Lookup``). Returns the output (B, Hq, Nq, Dv) in the dtype of ``q``, differentiable in q,
        k, v and ``floats``, and, if ``return_lse``, the log-sum-exp (B, Hq, Nq) of the modified
        scores, natural base, the sink's term included: float32, or float64 where ``q`` is (else
        None). A query that keeps no key gets output 0, log-sum-exp minus infinity (the sink's
        logit where there is a sink) and no gradient.
        """


@dataclass(frozen=True)
class BackendRow:
    """``name``: what ``backend=`` says. ``sentence``: what it is. ``module``: where it is loaded from."""

    name: str
    sentence: str
    module: str

    def load(self) -> Backend:
        """The backend. Raises E703 where a package that it needs is not installed."""
        try:
            return cast("Backend", importlib.import_module(self.module))
        except ModuleNotFoundError as missing:
            raise MaskcError(
                Diagnostic(
                    "E703",
                    f"the backend {self.name!r} needs the package {missing.name!r}, which is not installed",
                    hint=f"install it, or choose another backend: {_names(without=self.name)}",
                )
            ) from missing


#: In order of preference: ``backend="auto"`` takes the first one that supports the program and the tensors.
BACKENDS: tuple[BackendRow, ...] = (
    BackendRow(
        "cpu", "Block-sparse attention in vectorised torch: computes only the tiles of the plan.", "maskc.backends.cpu"
    ),
    BackendRow(
        "triton",
        "Fused block-sparse kernels written from the pattern, for NVIDIA and AMD GPUs.",
        "maskc.backends.triton",
    ),
    BackendRow("flex", "FlexAttention, with our plans as its block masks.", "maskc.backends.flex"),
    BackendRow(
        "reference",
        "Dense attention, slow and obvious: what the language means, on any device.",
        "maskc.backends.reference",
    ),
)


def backend_row(name: str) -> BackendRow:
    """The row called ``name``. Raises E701."""
    for row in BACKENDS:
        if row.name == name:
            return row
    close = get_close_matches(name, [r.name for r in BACKENDS], 1) if isinstance(name, str) else []
    hint = f"did you mean {close[0]!r}?" if close else None
    raise MaskcError(Diagnostic("E701", f"no backend is called {shown(name)}; there are: {_names()}", hint=hint))


def choose(name: str, program: Program, request: Request) -> tuple[BackendRow, Backend]:
    """The backend called ``name``, or for "auto" the first that supports the program and the request.

    Raises E701 (no such backend), E702 (it cannot do this; never another one in its place) and
    E703 (its package is missing).
    """
    if name == "auto":
        return _first(program, request)
    row = backend_row(name)
    backend = row.load()
    refusal = backend.supports(program, request)
    if refusal is None:
        return row, backend
    able = [r.name for r in BACKENDS if r is not row and _refusal(r, program, request) is None]
    others = f"use backend={able[0]!r}, which can" if able else "no other backend can either"
    message = f"the backend {name!r} cannot compute {program.name!r}: {refusal.reason}"
    raise MaskcError(Diagnostic("E702", message, hint="; or ".join(filter(None, [refusal.remedy, others]))))


def _first(program: Program, request: Request) -> tuple[BackendRow, Backend]:
    refusals: list[str] = []
    for row in BACKENDS:
        refusal = _refusal(row, program, request)
        if refusal is None:
            return row, row.load()
        refusals.append(f"{row.name}: {refusal.reason}")
    message = f"no backend can compute {program.name!r} ({'; '.join(refusals)})"
    raise MaskcError(Diagnostic("E702", message, hint="change the program or the tensors as the reasons say"))


def _refusal(row: BackendRow, program: Program, request: Request) -> Refusal | None:
    try:
        backend = row.load()
    except MaskcError as missing:
        return Refusal(missing.diagnostics[0].message)
    return backend.supports(program, request)


def _names(without: str = "") -> str:
    return ", ".join(r.name for r in BACKENDS if r.name != without)
