"""The front door: whatever stands for a pattern is read, compiled, looked at and checked."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from maskc.diagnostics import Diagnostic, MaskcError
from maskc.ir.program import Program
from maskc.pattern import Pattern
from maskc.reading import is_path, load, parse

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from maskc.op import Op

    #: What stands for a pattern: itself, a program, a spec, a path, or text in the language.
    PatternLike = Pattern | Program | Mapping[str, Any] | os.PathLike[str] | str

__all__ = ["as_pattern", "check_assertions", "compile", "dense_mask"]


def as_pattern(source: PatternLike, name: str | None = None) -> Pattern:
    """The pattern that ``source`` stands for.

    A string is a path if it is one line that ends in ``.mask``, else it is text. A mapping is a spec.
    Raises as ``load``, ``parse`` and ``from_spec`` do; TypeError for anything else.
    """
    if isinstance(source, Pattern):
        return source
    if isinstance(source, Program):
        return Pattern(source)
    if isinstance(source, Mapping):
        from maskc.spec import from_spec

        return from_spec(source)
    if isinstance(source, os.PathLike) or (isinstance(source, str) and is_path(source)):
        return load(source, name)
    if isinstance(source, str):
        return parse(source, name)
    from maskc.arguments import shown

    remedy = "; a mask_mod is written anew, in the language" if callable(source) else ""
    raise TypeError(f"expected a pattern, its text, a path or a spec, not {shown(source)}{remedy}")


def compile(
    pattern: PatternLike,
    *,
    heads: int,
    layer: int = 0,
    sizes: Mapping[str, int] | None = None,
    backend: str = "auto",
    layout: str = "none",
    name: str | None = None,
    check: bool | None = None,
    budget: int | None = None,
    arguments: Mapping[str, Any] | None = None,
    **static: Any,
) -> Op:
    """Compile a pattern into an op that computes attention.

    Args:
        pattern: a ``Pattern``, text in the language, a path to a ``.mask`` file, a spec, or a program.
        heads: number of query heads.
        layer: the layer, from 0.
        sizes: extents of segments and axes; they may also be given with a call.
        backend: one of ``maskc.backends.BACKENDS``, or "auto": the first that can. A backend that is
            named is never replaced by another one.
        layout: the order in which tokens are computed: "none" is their own; "auto" takes, for each length, the one
            with the fewest tiles where it has clearly fewer; others as for ``maskc.tiles.make_plan``. Results are
            the same but for rounding, and come back in the tokens' own order. It pays for dilated and strided
            masks and for neighbourhoods on grids; ``op.plan(...)`` says what it saves.
        name: which pattern of the file is meant, where there are several.
        check: compare every output, log-sum-exp and gradient (of "flex" no gradient) with the dense reference, and
            check the assertions: for debugging. None: as the environment variable MASKC_CHECK says.
        budget: what planning a call may cost, in evaluations of the mask at a point; beyond it the call is refused
            (E801). None: 4e8, some ten seconds, or some 20,000 different masks by head and batch entry; more takes
            as much longer.
        arguments: more arguments, for names that are also parameters of this function.
        static: scalars and tables by name. An input may be given too: it is the default for calls.

    Returns:
        The op: ``out = op(q, k, v, **inputs)``.

    Raises MaskcError: what ``parse`` and ``load`` raise, E501 to E505 for arguments, sizes and the budget, and
    E701 to E703 for the backend.
    """
    from maskc import knobs
    from maskc.arguments import by_name
    from maskc.dump import dump_program
    from maskc.op import Op

    found = as_pattern(pattern, name)
    given = by_name("arguments", arguments, static)
    params = {p.name: p for p in found.program.params}
    inputs = {n: v for n, v in given.items() if n in params and params[n].when == "call"}
    bound = found.with_args(**{n: v for n, v in given.items() if n not in inputs})
    dump_program(found.program)
    checked = knobs.CHECK.value() if check is None else check
    options: dict[str, Any] = {"backend": backend, "layout": layout, "inputs": inputs, "check": checked}
    if budget is not None:
        options["budget"] = budget
    return Op(bound, heads=heads, layer=layer, sizes=sizes, **options)


def dense_mask(
    pattern: PatternLike,
    q_len: int,
    k_len: int,
    *,
    heads: int = 1,
    layer: int = 0,
    batch: int | None = None,
    head: int | None = None,
    sizes: Mapping[str, int] | None = None,
    q_start: int | None = None,
    inputs: Mapping[str, Any] | None = None,
    **more: Any,
) -> npt.NDArray[np.bool_]:
    """The whole mask: a bool array (batch, heads, q_len, k_len), or (batch, q_len, k_len) for one ``head``.

    True is kept. ``batch``: number of batch entries; None: that of the inputs, else 1. ``q_start``: position of the
    first query; None: the queries are the last positions. ``more`` are arguments and inputs by name, ``inputs`` those
    whose names are also parameters of this function; what only scores read may be left out.
    Takes time and memory of q_len * k_len: for looking at and for comparing. Raises as
    ``make_binding`` does; E503 and E504 for ``head``, and E801 for a mask of more than 2 ** 34 pairs, or where memory
    does not suffice.
    """
    import numpy as np

    from maskc.arguments import by_name, integer, mapping_of
    from maskc.ir.evaluate import dense
    from maskc.tiles.binding import bind
    from maskc.tiles.budget import within_memory

    found = as_pattern(pattern)
    given = {**found.args, **by_name("inputs", inputs, more)}
    extents = mapping_of("sizes", sizes)
    lengths: dict[str, Any] = {"heads": heads, "layer": layer, "batch": batch, "sizes": extents, "q_start": q_start}
    binding = bind(found.program, q_len, k_len, **lengths, values=given)
    wanted = range(heads) if head is None else [integer("head", head, 0, heads - 1)]
    pairs = binding.batch * len(wanted) * q_len * k_len
    if pairs > _MOST_PAIRS:
        message = f"the whole mask would have {pairs:.1e} pairs, and at most {_MOST_PAIRS:.1e} are written out"
        raise MaskcError(
            Diagnostic("E801", message, hint="plan it instead, which no length is too long for: op.plan(...)")
        )
    with within_memory("the whole mask"):
        out = np.empty((binding.batch, len(wanted), q_len, k_len), np.bool_)
        for b in range(binding.batch):
            for i, h in enumerate(wanted):
                for lo, hi in _chunks(q_len, k_len):
                    rows = (binding.offset + lo, binding.offset + hi)
                    out[b, i, lo:hi] = dense(found.program, binding, h, b, q_range=rows)
    return out if head is None else out[:, 0]


def check_assertions(
    pattern: PatternLike,
    q_len: int,
    k_len: int,
    *,
    heads: int = 1,
    layer: int = 0,
    batch: int | None = None,
    sizes: Mapping[str, int] | None = None,
    q_start: int | None = None,
    claims: Sequence[str] | str = (),
    inputs: Mapping[str, Any] | None = None,
    **more: Any,
) -> None:
    """Prove the pattern's assertions for a binding, exactly, in about the time that planning takes, for every head and
    every batch entry. Those that have the same mask are looked at once.

    Args:
        batch: number of batch entries; None: that of the inputs, else 1.
        claims: what to prove instead, one or several, each as it would stand after ``assert``: "k <= q" (no query
            sees the future), "some k" (every query keeps a key), "some q" (every key is kept). A claim may use what
            the pattern may: its parameters, spaces and ``let`` names, the definitions of its file, the vocabulary. A
            spec and a program have no file, and so no definitions.
        q_start: position of the first query; None: the queries are the last positions.
        inputs: arguments and inputs by name, for names that are also parameters of this function.
        more: arguments and inputs by name.

    Raises E513 with the first counterexample of each that does not hold, its batch entry and head, E801 for each that
    would take too much work (all together some ten seconds), what ``parse`` raises for claims, and as ``make_binding``
    does.
    """
    from maskc.arguments import by_name, expect, mapping_of
    from maskc.assertions import check, with_claims
    from maskc.tiles.binding import bind

    found = as_pattern(pattern)
    one = (claims,) if isinstance(claims, str) else claims
    expect("claims", one, Sequence, "a sequence of strings")
    program = with_claims(found.program, tuple(one), found.source) if one else found.program
    given, extents = {**found.args, **by_name("inputs", inputs, more)}, mapping_of("sizes", sizes)
    lengths: dict[str, Any] = {"heads": heads, "layer": layer, "batch": batch, "sizes": extents, "q_start": q_start}
    check(program, bind(program, q_len, k_len, **lengths, values=given))


_MOST_PAIRS = 1 << 34  # of a mask that is written out, a byte each: 131072 tokens under one head


def _chunks(q_len: int, k_len: int, pairs: int = 1 << 20) -> list[tuple[int, int]]:
    step = max(1, pairs // max(1, k_len))
    return [(lo, min(lo + step, q_len)) for lo in range(0, q_len, step)]
