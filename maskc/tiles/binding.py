"""Bind a program: check everything that it is applied to, before any work is done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from maskc.arguments import by_name, integer
from maskc.diagnostics import Diagnostic, MaskcError
from maskc.ir.alternatives import check_alternatives
from maskc.ir.binding import MAX_BATCH, MAX_HEADS, MAX_LAYERS, Binding
from maskc.ir.interval import MAX_TOKENS, check_overflow
from maskc.ir.nodes import Lookup, Node, Param, Type, postorder
from maskc.ir.program import Parameter, Program
from maskc.tiles.extents import find_extents
from maskc.tiles.inputs import extremes
from maskc.tiles.values import declaration, fail, no_such_name, scalar_value, table_value

if TYPE_CHECKING:
    from maskc.tiles.values import Array

__all__ = [
    "OWN_NAMES",
    "bind",
    "by_call",
    "check_limits",
    "check_shape",
    "given_as",
    "make_binding",
    "mask_roots",
    "names_read",
    "positions",
    "static_values",
]

#: What functions that take arguments and inputs by keyword have for parameters of their own.
OWN_NAMES = frozenset(
    {
        "arguments", "backend", "batch", "block_table", "budget", "check", "claims", "context", "division", "exchange",
        "head", "inputs", "k", "k_cache", "k_len", "k_tile", "kv_heads", "layout", "length", "lengths", "method",
        "name", "ops", "parts", "program", "q", "q_len", "q_start", "q_tile", "ranks", "return_lse", "scale", "self",
        "sizes", "start", "to", "v", "v_cache", "x",
    }
)  # fmt: skip
_POSITIONS = ("token", "q", "k")


def make_binding(
    program: Program,
    q_len: int,
    k_len: int,
    *,
    heads: int = 1,
    layer: int = 0,
    batch: int | None = None,
    sizes: Mapping[str, int] | None = None,
    q_start: int | None = None,
    inputs: Mapping[str, Any] | None = None,
    **more: Any,
) -> Binding:
    """Everything that ``program`` leaves open, checked.

    Args:
        program: the program.
        q_len, k_len: number of queries and of keys.
        heads: number of query heads.
        layer: the layer, from 0.
        batch: number of batch entries; None: that of the inputs, else 1.
        sizes: extents of segments and axes; one of a space may be left out.
        q_start: position of the first query in the sequence of the keys; None: the queries are its last positions.
        inputs: arguments and inputs by name, for names that are also parameters of this function.
        more: arguments, tables and inputs by name: Python numbers, labels of enumerations, lists,
            NumPy arrays or torch tensors. An input over token, q or k may have a batch dimension in
            front. What neither the mask nor an assertion reads may be left out.

    Raises MaskcError with all that is wrong at once: E303, E501 to E508.
    """
    values = by_name("inputs", inputs, more)
    known: dict[str, Any] = {"heads": heads, "layer": layer, "batch": batch, "q_start": q_start}
    return bind(program, q_len, k_len, **known, sizes=sizes or {}, values=values)


def bind(
    program: Program,
    q_len: int,
    k_len: int,
    *,
    heads: int,
    layer: int,
    batch: int | None,
    sizes: Mapping[str, int],
    values: Mapping[str, Any],
    needed: frozenset[str] | None = None,
    fewer_keys: bool = False,
    q_start: int | None = None,
) -> Binding:
    """``make_binding`` with the values as a mapping. ``needed``: the names that must be given; None: all
    that the mask and the assertions read. ``fewer_keys``: one sequence may have more queries than keys, as the rows of
    a batch in which every entry is shorter."""
    _check_lengths(program, q_len, k_len if not fewer_keys else max(q_len, k_len), heads, layer)
    first = _first_query(program, q_len, k_len, q_start)
    problems: list[Diagnostic] = []
    extents = _collect(problems, lambda: find_extents(program, q_len, k_len, sizes)) or {}
    needed = names_read(program, mask_roots(program)) if needed is None else needed
    args = _scalars(program, values, needed, problems)
    arrays = _arrays(program, values, needed, problems)
    batch = _batch_size(program, arrays) if batch is None else batch
    if _collect(problems, lambda: integer("batch", batch, *_LIMITS["batch"])) is None:
        raise MaskcError(problems)
    dims: dict[str, int | None] = {
        "head": heads,
        "layer": layer,
        "batch": batch,
        **positions(program.cross, q_len, k_len),
    }
    tables = {}
    for p in program.params:
        if p.name in arrays:
            shaped = _collect(problems, lambda p=p: _shaped(p, arrays[p.name], dims, args))
            if shaped is not None:
                tables[p.name] = shaped
    if problems:
        raise MaskcError(problems)
    batched = frozenset(n for n, t in tables.items() if t.ndim > len(program.parameter(n).domain))
    binding = Binding(q_len, k_len, program.cross, heads, layer, batch, extents, args, tables, batched, first)
    check_alternatives(program, binding)
    check_overflow(program, binding, extremes)
    return binding


def static_values(
    program: Program, heads: int, layer: int, values: Mapping[str, Any]
) -> tuple[dict[str, bool | int | float], dict[str, Array]]:
    """The scalars and tables that must be known when compiling, checked. Raises E303, E501 to E505."""
    _check_lengths(program, 0, 0, heads, layer)
    problems: list[Diagnostic] = []
    needed = names_read(program, program.roots())
    args = _scalars(program, values, needed, problems, "arguments")
    static = {n for n in needed if program.parameter(n).when == "compile"}
    arrays = _arrays(program, values, static, problems, "arguments")
    tables: dict[str, Array] = {}
    for p in program.params:
        if p.name in arrays and p.when == "compile":
            dims: dict[str, int | None] = {"head": heads, "layer": layer}
            shaped = _collect(problems, lambda p=p, d=dims: _shaped(p, arrays[p.name], d, args))
            if shaped is not None:
                tables[p.name] = shaped
    if problems:
        raise MaskcError(problems)
    return args, tables


def mask_roots(program: Program) -> tuple[Node, ...]:
    """What decides which pairs are kept, and the claims made about them."""
    return (program.mask, *(a.claim for a in program.assertions if a.claim is not None))


def names_read(program: Program, roots: Iterable[Node]) -> frozenset[str]:
    """The parameters that ``roots`` read, and those that give the extents of their tables."""
    read = {n.name for n in postorder(roots) if isinstance(n, Param | Lookup)}
    extents = {d for p in program.params if p.name in read for d in p.domain if isinstance(d, str)}
    return frozenset(p.name for p in program.params if p.name in read or p.name in extents)


def _collect(problems: list[Diagnostic], work: Any) -> Any:
    """``work()``, or None with what is wrong noted."""
    try:
        return work()
    except MaskcError as error:
        problems.extend(error.diagnostics)
        return None


#: What numbers may be, the ends included.
_LIMITS = {
    "q_len": (0, MAX_TOKENS),
    "k_len": (0, MAX_TOKENS),
    "heads": (1, MAX_HEADS),
    "layer": (0, MAX_LAYERS - 1),
    "layers": (1, MAX_LAYERS),
    "batch": (0, MAX_BATCH),
}


def check_limits(**numbers: int) -> None:
    """Whether lengths and the numbers of heads, layers and batch entries can be worked with. Raises E503 and E504."""
    for name, value in numbers.items():
        integer(name, value, *_LIMITS[name])


def _check_lengths(program: Program, q_len: int, k_len: int, heads: int, layer: int) -> None:
    check_limits(q_len=q_len, k_len=k_len, heads=heads, layer=layer)
    if q_len > k_len and not program.cross:
        raise fail(
            "E506",
            f"{q_len} queries but only {k_len} keys: {program.name!r} has one sequence, ended by the queries",
            "for two separate sequences declare `over decoder -> encoder`",
        )


def _first_query(program: Program, q_len: int, k_len: int, q_start: int | None) -> int | None:
    """``q_start``, or None where it says what holds anyway. Raises E503, E504 and E506."""
    if q_start is None:
        return None
    first = integer("q_start", q_start, 0)
    if program.cross:
        hint = "leave q_start out: the first query is position 0 of its own sequence"
        raise fail("E506", f"q_start={first}, but queries and keys of {program.name!r} are two sequences", hint)
    if first > k_len - q_len:
        message = f"q_start={first}: {q_len} queries from there on are not among {k_len} keys"
        raise fail("E506", message, f"it is a position of the keys' sequence, from 0 to {k_len - q_len}")
    return first if first != k_len - q_len else None


def _scalars(
    program: Program,
    values: Mapping[str, Any],
    needed: frozenset[str],
    problems: list[Diagnostic],
    mapping: str = "inputs",
) -> dict[str, bool | int | float]:
    args: dict[str, bool | int | float] = {}
    for p in program.params:
        if not p.is_scalar:
            continue
        if p.name in values:
            value = _collect(problems, lambda p=p: scalar_value(p, values[p.name]))
            if value is not None:
                args[p.name] = value
        elif p.default is not None:
            args[p.name] = p.default.value
        elif p.name in needed:
            problems.append(_missing(program, p, mapping))
    return args


def _arrays(
    program: Program,
    values: Mapping[str, Any],
    needed: Iterable[str],
    problems: list[Diagnostic],
    mapping: str = "inputs",
) -> dict[str, Array]:
    names = [p.name for p in program.params]
    for name in values:
        if name not in names:
            hint = no_such_name(name, names, (program.q_space, program.k_space))
            problems.append(Diagnostic("E502", f"{program.name!r} takes no argument called {name!r}", hint=hint))
    arrays = {}
    for p in program.params:
        if p.is_scalar:
            continue
        if p.name in values:
            array = _collect(problems, lambda p=p: table_value(p, values[p.name]))
            if array is not None:
                arrays[p.name] = array
        elif p.name in needed:
            problems.append(_missing(program, p, mapping))
    return arrays


def given_as(name: str, mapping: str = "inputs") -> str:
    """How a value is given by its name: by keyword, or in the argument ``mapping`` if it has the name of another
    argument."""
    return f'{mapping}={{"{name}": ...}}' if name in OWN_NAMES else f"{name}=..."


def _missing(program: Program, p: Parameter, mapping: str) -> Diagnostic:
    what = "the argument" if p.when == "compile" else "the input"
    when = "when compiling" if p.when == "compile" else "with the call"
    hint = f"give {given_as(p.name, mapping)} {when}; it is declared `{declaration(p)}`{by_call(p)}"
    return Diagnostic("E501", f"{program.name!r} needs {what} {p.name!r}", hint=hint)


def by_call(p: Parameter) -> str:
    """What a hint about an argument adds where each call may give its own: it can be a table by the batch entry, and
    one of floats always is given by calls."""
    if p.type is Type.FLOAT:
        return "" if p.when == "call" else f"; what is learned or differs from call to call is `{p.name}: float[1]`"
    if p.labels or p.when == "call" or "layer" in p.domain:
        return ""
    domain = ", ".join(map(str, ("batch", *p.domain)))
    return f"; what differs from call to call is declared by batch entry: `{p.type.value}[{domain}]`"


def _batch_size(program: Program, arrays: Mapping[str, Array]) -> int:
    for name, array in arrays.items():
        p = program.parameter(name)
        if "batch" in p.domain and array.ndim == len(p.domain):
            return int(array.shape[p.domain.index("batch")])
        if _may_batch(p) and array.ndim == len(p.domain) + 1:
            return int(array.shape[0])
    return 1


def positions(cross: bool, q_len: int, k_len: int) -> dict[str, int | None]:
    """The extents of the domains of positions; None for \"token\" where there is none."""
    # Where queries and keys are two sequences of unlike lengths there is no one token count.
    token = k_len if not cross or q_len == k_len else None
    return {"token": token, "q": q_len, "k": k_len}


def _may_batch(p: Parameter) -> bool:
    return "batch" not in p.domain and any(d in _POSITIONS for d in p.domain)


def _shaped(p: Parameter, array: Array, dims: Mapping[str, int | None], args: Mapping[str, Any]) -> Array:
    """``array`` if its shape is what the signature says. Raises E505."""
    extents = tuple(_extent(d, dims, args, 1) for d in p.domain)
    if array.size == 0 and 0 in extents:  # Nested lists cannot tell one empty table from another.
        return array.reshape(extents)
    check_shape(p, array.shape, dims, args)
    return array


def check_shape(p: Parameter, shape: tuple[int, ...], dims: Mapping[str, int | None], args: Mapping[str, Any]) -> None:
    """Compare a shape with the declared domain. Raises E505.

    ``dims``: extents of "head", "batch", "token", "q" and "k", and the index of the layer as "layer".
    """
    offset = len(shape) - len(p.domain)
    if offset and not (offset == 1 and _may_batch(p)):
        raise _misshapen(p, shape, dims, args)
    if offset and dims.get("batch") not in (None, shape[0]):
        raise _misshapen(p, shape, dims, args, f"the batch has {dims['batch']} entries, not {shape[0]}")
    for d, found in zip(p.domain, shape[offset:], strict=True):
        if d == "token" and dims["token"] is None:
            raise fail(
                "E505",
                f"{declaration(p)}: queries and keys are two sequences of unlike lengths",
                f"declare it over one of them: {p.name}: {p.type.value}[q] or [k]",
            )
        if d == "layer":
            if found <= (dims["layer"] or 0):
                raise _misshapen(p, shape, dims, args, f"layer {dims['layer']} is outside its {found} layers")
        elif found != _extent(d, dims, args, found):
            raise _misshapen(p, shape, dims, args)


def _extent(d: str | int, dims: Mapping[str, int | None], args: Mapping[str, Any], found: int) -> int:
    if isinstance(d, int):
        return d
    value = dims[d] if d in dims else args.get(d, found)  # a missing argument is reported as such
    return found if value is None else int(value)


def _misshapen(
    p: Parameter, shape: tuple[int, ...], dims: Mapping[str, int | None], args: Mapping[str, Any], why: str = ""
) -> MaskcError:
    letters = {"layer": "layers", "token": "N", "batch": "B"}

    def show(d: str | int) -> str:
        value = None if d == "layer" else d if isinstance(d, int) else dims.get(d, args.get(d))
        return str(letters.get(str(d), d) if value is None else value)

    inner = [show(d) for d in p.domain]
    wanted = f"({', '.join(inner)}{',' if len(inner) == 1 else ''})"
    if _may_batch(p):
        wanted += f" or ({', '.join([str(dims.get('batch') or 'B'), *inner])})"
    reason = f"; {why}" if why else ""
    return fail("E505", f"{declaration(p)}: expected the shape {wanted}, found {shape}{reason}")
