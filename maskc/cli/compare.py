"""Looking for a difference between the masks of two programs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from maskc.cli.options import LONGEST
from maskc.cli.values import parse_sizes, parse_values, setting
from maskc.diagnostics import Diagnostic, MaskcError
from maskc.ir.nodes import Const, Lookup, postorder
from maskc.ir.program import Program
from maskc.setting import Setting, check_sizes, given_lengths
from maskc.tiles.budget import BUDGET, Budget, evaluations_of, proof_budget
from maskc.varying import varying

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from maskc.ir.binding import Binding

__all__ = ["Comparison", "Difference", "compare"]

#: Lengths that are always tried, as far as allowed.
_LENGTHS = (*range(1, 33), 48, 64, 96, 128, 192, 256)
_MOST_LONG = 6  # longer ones, next to the numbers in the programs
_AT_ONCE = 1 << 21
#: Pairs that are looked at one by one: a second's work. Where there are more, masks are planned, as proofs plan them.
_ONE_BY_ONE = 1 << 25
#: And where they cannot be planned: minutes.
_MOST_ONE_BY_ONE = 1 << 32


@dataclass(frozen=True)
class Difference:
    """A pair that one program keeps and the other does not. ``first_keeps``: whether it is the first that does."""

    setting: Setting
    head: int
    query: int
    key: int
    first_keeps: bool


@dataclass(frozen=True)
class Comparison:
    """``same``: no difference found; ``proved``: there is none in ``looked_at``, or at some place in it there is one.
    ``sentence``: how that is known."""

    same: bool
    proved: bool
    sentence: str
    where: Difference | None = None
    looked_at: str = "every length"

    def data(self) -> dict[str, Any]:
        """As JSON-safe data."""
        data: dict[str, Any] = {"same": self.same, "proved": self.proved, "for": self.looked_at}
        data["sentence"] = self.sentence
        if self.where is not None:
            w = self.where
            data["counterexample"] = {
                "q_len": w.setting.q_len,
                "k_len": w.setting.k_len,
                "layer": w.setting.layer,
                "sizes": dict(w.setting.sizes),
                "head": w.head,
                "query": w.query,
                "key": w.key,
                "first_keeps": w.first_keeps,
            }
        return data


@dataclass(frozen=True)
class _Search:
    programs: tuple[Program, Program]
    heads: int
    sizes: Sequence[str]
    args: Sequence[str]
    seed: int
    budget: Budget
    proofs: Budget
    q: int | None = None
    k: int | None = None
    up_to: int | None = None

    @property
    def asked(self) -> bool:
        """Whether somebody says how long sequences may be."""
        return self.up_to is not None or self.is_fixed

    @property
    def is_fixed(self) -> bool:
        """Whether sizes, lengths or inputs are given, so that there is one length to try."""
        values = parse_values(self.programs, self.args)
        return bool(self.sizes) or given_lengths(self.programs, values, self.q, self.k) != (None, None)

    def check_names(self) -> None:
        """Raises E502 for an argument or a size that neither program has, E003 and E503 for what cannot be read."""
        parse_values(self.programs, self.args)
        check_sizes(self.programs, parse_sizes(self.sizes))

    def setting(self, length: int | None, layer: int) -> Setting:
        return setting(
            self.programs,
            q=self.q,
            k=self.k if length is None else length,
            heads=self.heads,
            layer=layer,
            sizes=self.sizes,
            args=self.args,
            seed=self.seed,
        )

    def fits(self, length: int) -> bool:
        """Whether sizes that nobody gave can make up this length: two grids with the same axes have no odd one."""
        try:
            at = self.setting(length, 0)
            for program in self.programs:
                at.bind(program)
        except MaskcError as error:
            if error.codes != ("E506",):
                raise
            return False
        return True

    def first(self, length: int | None, layer: int, heads: Sequence[int]) -> Difference | None:
        """The differing pair with the smallest larger position, of the first head that has one, if any. Raises E801
        where there are too many pairs to look at one by one, and the masks are too irregular to plan."""
        at = self.setting(length, layer)
        bindings = [at.bind(p) for p in self.programs]
        pairs = max(b.q_len * b.k_len for b in bindings)
        if pairs > _ONE_BY_ONE:
            try:
                return self._planned(at, bindings, heads)
            except MaskcError as error:
                if error.codes != ("E801",):
                    raise
                if pairs > _MOST_ONE_BY_ONE or not self.asked:
                    near = self._one_by_one(at, bindings, heads[0], _reach(bindings[0].offset))
                    if near is None:
                        raise _too_irregular(error, at) from None
                    return near
        found = (self._one_by_one(at, bindings, head) for head in heads)
        return next((x for x in found if x is not None), None)

    def _planned(self, at: Setting, bindings: Sequence[Binding], heads: Sequence[int]) -> Difference | None:
        """As ``first``, from the plans of what only the first and what only the second keeps: what is in neither is
        proved to be equal."""
        from maskc.picture.scene import difference

        one, two = zip(self.programs, bindings, strict=True)
        binding, (_, *only) = difference(one, two)
        found = [
            (*place, first_keeps)
            for first_keeps, (_, program) in zip((True, False), only, strict=True)
            if (place := _nearest_kept(program, binding, heads, self.proofs)) is not None
        ]
        if not found:
            return None
        head, _, query, key, first_keeps = min(found)
        return Difference(at, head, query, key, first_keeps)

    def _one_by_one(
        self, at: Setting, bindings: Sequence[Binding], head: int, reach: int | None = None
    ) -> Difference | None:
        """As ``first``, of one head; with ``reach``, where both positions are below it."""
        a, b = bindings
        keys, end = a.k_len, a.offset + a.q_len
        if reach is not None:
            keys, end = min(keys, reach), min(end, reach)
        best: tuple[int, int, int, bool] | None = None
        rows = max(1, _AT_ONCE // max(1, keys))
        self.budget.each = sum(evaluations_of(p, x) for p, x in zip(self.programs, (a, b), strict=True)) // 2
        for lo in range(a.offset, end, rows):
            here = (lo, min(lo + rows, end))
            self.budget.examine((here[1] - here[0]) * keys)
            one, two = (_dense(p, x, head, here, keys) for p, x in zip(self.programs, (a, b), strict=True))
            best = _nearest(one, two, lo, best)
            if best is not None and here[1] > best[0]:  # Later rows are farther.
                break
        return None if best is None else Difference(at, head, best[1], best[2], best[3])


def _nearest_kept(
    program: Program, binding: Binding, heads: Sequence[int], budget: Budget
) -> tuple[int, int, int, int] | None:
    """The first of ``heads`` of which a mask keeps a pair, in batch entry 0; the larger of that pair's positions, which
    is as small as can be; its query and its key."""
    from maskc.counterexamples import nearest_pair
    from maskc.tiles.budget import operations_of
    from maskc.tiles.planner import plans_by_mask

    each = operations_of(program, binding)
    for plan in plans_by_mask(program, binding, budget):
        if plan.groups[0].batches[0]:  # Entries come in their order.
            break
        those = [h for g in plan.groups if 0 in g.batches for h in g.heads if h in heads]
        budget.each = each  # The mask is looked at as it is written, and planned in normal form.
        if those and (place := nearest_pair(plan, plan.groups[0], budget)) is not None:
            return min(those), max(place), *place
    return None


def _too_irregular(error: MaskcError, at: Setting) -> MaskcError:
    """The E801 of a proof, where the pairs cannot be looked at one by one either."""
    if error.codes != ("E801",):
        return error
    message = f"the masks cannot be compared for {at.q_len} queries x {at.k_len} keys: {error.diagnostics[0].message}"
    hint = "where they differ cannot be told here without looking at pair after pair, and there are too many: give "
    return MaskcError(Diagnostic("E801", message, hint=hint + "fewer queries or keys, or fewer heads"))


def _dense(program: Program, binding: Any, head: int, rows: tuple[int, int], keys: int) -> npt.NDArray[np.bool_]:
    from maskc.ir.evaluate import dense

    return dense(program, binding, head, 0, rows, (0, keys))


def _reach(offset: int) -> int:
    """Below it are few enough positions of queries, which begin at ``offset``, and of keys to look at their pairs one
    by one: one that differs there is nearer than any other."""
    return (offset + math.isqrt(offset * offset + 4 * _ONE_BY_ONE)) // 2


def _nearest(
    one: npt.NDArray[np.bool_], two: npt.NDArray[np.bool_], lo: int, best: tuple[int, int, int, bool] | None
) -> tuple[int, int, int, bool] | None:
    import numpy as np

    rows, keys = np.nonzero(one != two)
    if not rows.size:
        return best
    larger = np.maximum(rows + lo, keys)
    i = int(np.lexsort((keys, rows, larger))[0])
    found = (int(larger[i]), int(rows[i]) + lo, int(keys[i]), bool(one[rows[i], keys[i]]))
    return found if best is None else min(best, found)


def compare(
    a: Program,
    b: Program,
    *,
    q: int | None = None,
    k: int | None = None,
    heads: int = 4,
    layers: int = 8,
    sizes: Sequence[str] = (),
    args: Sequence[str] = (),
    up_to: int | None = None,
    seed: int = 0,
) -> Comparison:
    """Compare the meaning of two programs, with the same arguments and inputs by name.

    First by their normal forms; then at every pair, on all short sequences and on longer ones next to
    the numbers in the programs, up to ``up_to``; or at one length, if ``q``, ``k``, sizes or inputs tell
    it. Every pair of a short sequence is looked at, and of a long one what only one of the two keeps is planned.
    Raises MaskcError if arguments are missing, E503 for ``up_to`` beside one length, and E801 where
    masks are so large that this takes too long.
    """
    search = _Search((a, b), heads, sizes, args, seed, Budget(BUDGET), proof_budget(), q, k, up_to)
    if up_to is not None and search.is_fixed:
        hint = "leave it out, or --q, --k, --size and inputs, so that many lengths are looked at"
        raise MaskcError(Diagnostic("E503", "--up-to is for many lengths, and one is given", hint=hint))
    search.check_names()
    if _same_form(a, b):
        return Comparison(True, True, "equal: both have the same normal form")
    lengths = _lengths(search, up_to or LONGEST)
    if _same_bound_form(a, b, search, lengths[0]):
        return Comparison(True, True, "equal: with these arguments, both have the same normal form")
    spoken = varying(a, [a.mask]) | varying(b, [b.mask])
    some_heads = range(heads) if "head" in spoken else range(1)
    some_layers = range(layers) if "layer" in spoken else range(1)
    found, looked = _search(search, lengths, some_layers, some_heads)
    if found is not None:
        return _different(_shrink(search, found))
    looked_at = [f"heads below {heads}"] if "head" in spoken else []
    looked_at += [f"layers below {layers}"] if "layer" in spoken else []
    looked_at += ["batch entry 0"] if "batch" in spoken else []
    looked_at += ["as many queries as keys"] if "lengths" in spoken and not search.is_fixed else []
    drawn = _drawn(search)
    looked_at += [f"made-up {' and '.join(drawn)} (seed {seed})"] if drawn else []
    return _no_difference(search, looked, looked_at)


def _search(
    search: _Search, lengths: Sequence[int | None], layers: Sequence[int], heads: Sequence[int]
) -> tuple[Difference | None, Sequence[int | None]]:
    """The first difference, if any, and the lengths that were looked at: where nobody says how long sequences may be,
    those that masks can be planned for."""
    for i, length in enumerate(lengths):
        for layer in layers:
            try:
                found = search.first(length, layer, heads)
            except MaskcError as error:
                if search.asked or not i or error.codes != ("E801",):
                    raise
                return None, lengths[:i]
            if found is not None:
                return found, lengths[: i + 1]
    return None, lengths


def _same_form(a: Program, b: Program) -> bool:
    from maskc.passes import normalise

    first, second = (dataclasses.replace(normalise(p), name="", assertions=()) for p in (a, b))
    return bool(first == second)


def _same_bound_form(a: Program, b: Program, search: _Search, length: int | None) -> bool:
    """Whether the two are the same once what arguments are given, or default to, stands in their place."""
    from maskc.passes.specialise import bind

    at = search.setting(length, 0)
    bound = []
    for program in (a, b):
        given = bind(program, args=at.bind(program).args)
        bound.append(given.replace(params=tuple(p for p in given.params if not p.is_scalar)))
    return _same_form(*bound)


def _lengths(search: _Search, up_to: int) -> list[int | None]:
    """Lengths to try, the shortest first; one None if the sizes or lengths given fix it."""
    if search.is_fixed:
        return [None]
    numbers = {n.value for p in search.programs for n in postorder([p.mask]) if isinstance(n, Const)}
    given = parse_values(search.programs, search.args).values()
    defaults = {p.default.value for x in search.programs for p in x.params if p.default is not None}
    long = sorted({n + 2 for n in (*numbers, *given, *defaults) if type(n) is int and n + 2 > _LENGTHS[-1]})
    tried = [n for n in (*_LENGTHS, *long[:_MOST_LONG]) if n <= up_to]
    return [n for n in tried if search.fits(n)] or [*tried[:1]]  # where none fits, the first says so


def _drawn(search: _Search) -> list[str]:
    """The tables and inputs that the masks read and nobody gave: one draw of each was looked at."""
    read = {n.name for p in search.programs for n in postorder([p.mask]) if isinstance(n, Lookup)}
    return sorted(read - parse_values(search.programs, search.args).keys())


def _shrink(search: _Search, found: Difference) -> Difference:
    """A difference in a shorter sequence, as far as the pair itself allows."""
    if search.is_fixed:
        return found
    while True:
        shorter, at = None, max(found.query, found.key) + 1
        length = next((n for n in range(at, found.setting.k_len) if search.fits(n)), None)
        if length is not None:
            shorter = search.first(length, found.setting.layer, [found.head])
        if shorter is None:
            return found
        found = shorter


def _different(d: Difference) -> Comparison:
    which = ("the first keeps", "the second does not") if d.first_keeps else ("the second keeps", "the first does not")
    place = f"layer {d.setting.layer}, head {d.head}, {d.setting.q_len} queries x {d.setting.k_len} keys"
    place += "".join(f", {name}={size}" for name, size in d.setting.sizes.items())
    sentence = f"different: {which[0]} query {d.query}, key {d.key}, and {which[1]} ({place})"
    return Comparison(False, True, sentence, d, place)


def _no_difference(search: _Search, lengths: Sequence[int | None], looked_at: Sequence[str]) -> Comparison:
    a, b = search.programs
    parts = [n for n in ("score", "normalizer", "output") if getattr(a, n) != getattr(b, n)]
    if search.is_fixed:
        at = search.setting(None, 0)
        tried = f"{at.q_len:,} queries x {at.k_len:,} keys"
    else:
        tried = f"{len(lengths)} lengths up to {lengths[-1]:,}"
    tried = ", ".join([tried, *looked_at])
    if parts:
        what = " and ".join(parts)
        sentence = f"different: the {what} is another expression; the masks agree at {tried}"
        return Comparison(False, False, sentence, looked_at=tried)
    if search.is_fixed and not _drawn(search):
        return Comparison(True, True, f"equal at every pair, for {tried}: proved, but not for others", looked_at=tried)
    others = "others" if looked_at or search.is_fixed else "longer ones"
    sentence = f"no difference at any pair, for {tried}; that is no proof for {others}"
    return Comparison(True, False, sentence, looked_at=tried)
