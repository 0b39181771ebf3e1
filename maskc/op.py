"""The op: a compiled pattern, called on queries, keys and values."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, overload

import torch

from maskc.arguments import by_name, integer, mapping_of
from maskc.autocast import autocast_dtype, converted, without_autocast
from maskc.backends import CacheInfo, choose
from maskc.backends.entries import LSE, Q_START
from maskc.backends.handles import handle_of
from maskc.backends.library import call
from maskc.backends.transforms import attention
from maskc.backends.transforms import call as call_unseen
from maskc.devices import holds_values
from maskc.pattern import Pattern
from maskc.prepared import Prepared
from maskc.serving import decode
from maskc.sharded import call_sharded, is_sharded, of_heads
from maskc.tensors import check_tensors, is_symbolic, is_transformed, kind_of_call, scale_factor, traced_scale
from maskc.tiles.binding import bind
from maskc.tiles.values import fail

if TYPE_CHECKING:
    from maskc.backends import Backend
    from maskc.ir.binding import Binding
    from maskc.tiles.plan import TilePlan

__all__ = ["Op"]


class Op(Prepared):
    """Attention under one pattern, for one layer: ``out = op(q, k, v, **inputs)``. Made by ``maskc.compile``.

    Attributes:
        pattern: the pattern, with the arguments that were given when compiling.
        heads: number of query heads.
        layer: the layer.
        sizes: extents of segments and axes that were given when compiling.
        backend: the name of the backend, or "auto".
        layout: the order in which tokens are computed.
        budget: what a plan may cost, in evaluations of the mask.
        compiled: what backends are handed; holds what they remember between calls.
        call_inputs: what calls may bring, and have to.
    """

    def __repr__(self) -> str:
        extents = "".join(f", {name}={value}" for name, value in self.sizes.items())
        layout = "" if self.layout == "none" else f", layout={self.layout!r}"
        name = f"op {self.pattern!r}: heads={self.heads}, layer={self.layer}{extents}"
        return f"<{name}, backend={self.backend!r}{layout}>"

    def _repr_svg_(self) -> str | None:
        from maskc.picture.notebook import pattern_svg

        return pattern_svg(self.program, self.pattern.args, heads=self.heads, layer=self.layer, sizes=self.sizes)

    def _repr_html_(self) -> str:
        from maskc.picture.notebook import pattern_html

        return pattern_html(self.program, self.pattern.args, heads=self.heads, layer=self.layer, sizes=self.sizes)

    def __reduce__(self) -> tuple[Any, ...]:
        return _make, (self.pattern, {**self._options(), "inputs": self._inputs})

    @overload
    def __call__(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        *,
        scale: float | None = None,
        return_lse: Literal[False] = False,
        sizes: Mapping[str, int] | None = None,
        q_start: int | None = None,
        inputs: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> torch.Tensor: ...

    @overload
    def __call__(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        *,
        scale: float | None = None,
        return_lse: Literal[True],
        sizes: Mapping[str, int] | None = None,
        q_start: int | None = None,
        inputs: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]: ...

    def __call__(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        *,
        scale: float | None = None,
        return_lse: bool = False,
        sizes: Mapping[str, int] | None = None,
        q_start: int | None = None,
        inputs: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Attention of every query over the keys that the pattern keeps.

        Args:
            q: (B, Hq, Nq, D), of any float dtype.
            k: (B, Hkv, Nk, D); Hq is a multiple of Hkv, and query head h meets key head h // (Hq // Hkv).
            v: (B, Hkv, Nk, Dv). B, Nq and Nk may be 0, the others not.
            scale: factor of the dot products; by default D ** -0.5. A finite number, which gets no gradient.
            return_lse: return the log-sum-exp too.
            sizes: extents of segments and axes, before those that were given when compiling.
            q_start: position of the first query in the sequence of the keys, for a chunk of queries from its
                middle; None: the queries are the last positions. Not where queries have a sequence of their own.
            inputs: inputs by name, for names that are also parameters of this method.
            more: inputs by name. Float inputs are tensors on the device of ``q`` that may require a gradient.

        Returns:
            The output (B, Hq, Nq, Dv) in the dtype of ``q``; with ``return_lse`` also the log-sum-exp
            (B, Hq, Nq) of the modified scores, natural base, the sink's term included, float32 (float64 if
            ``q`` is). A query that keeps no key gets output 0 and log-sum-exp minus infinity (with a sink
            its logit), and never a NaN, in either direction. On the device "meta", and of fake
            tensors, results have shapes, no values.

        DTensors that are split by batch entries or heads are computed part by part, each by its process; results are
        DTensors that are split alike.

        Under ``torch.autocast`` q, k and v are converted to its dtype first, unless they are float64.

        Raises MaskcError: E501 to E506 for inputs and sizes, E510 to E512 for tensors, E702 where the
        backend cannot do it; E513 and RuntimeError in check mode.
        """
        dtype = autocast_dtype(q)
        if dtype is not None:
            again: Callable[..., torch.Tensor | tuple[torch.Tensor, torch.Tensor]] = self.__call__
            q, k, v = (converted(x, dtype) for x in (q, k, v))
            with without_autocast(q):
                where: dict[str, Any] = {"sizes": sizes, "q_start": q_start}
                return again(q, k, v, scale=scale, return_lse=return_lse, **where, inputs=inputs, **more)
        given, sizes = self.given(inputs, more), mapping_of("sizes", sizes)
        if is_sharded(q, k, v):
            options = {"scale": scale, "return_lse": return_lse, "sizes": sizes, "q_start": q_start}
            return call_sharded(self, (q, k, v), given, options)
        if torch.compiler.is_compiling():
            return self._traced(q, k, v, scale, return_lse, sizes, q_start, given)
        hidden = isinstance(q, torch.Tensor) and not holds_values(q)
        if hidden and is_symbolic(q, k, v):
            return self._traced(q, k, v, scale, return_lse, sizes, q_start, given)
        kind = kind_of_call(q, k, v, given, return_lse)
        chosen = self._chosen.get(kind)
        if chosen is None:
            check_tensors(q, k, v, self.heads)
            self._check_wishes(return_lse, given)
        factor = scale_factor(scale, q.shape[-1])
        floats, rest = self.call_inputs.split(given, q, k.shape[2])
        if hidden:
            extents = {**self.sizes, **sizes}
            unseen = self.call_inputs.check_without_values(q, k.shape[2], extents, rest, q_start=q_start)
            found = call_unseen(self.handle, q, k, v, {**unseen, **floats}, _with_start(sizes, q_start), factor)
            return found if return_lse else found[0]
        lengths = q.shape[2], k.shape[2], q_start
        binding = self._bind(lengths, q.shape[0], sizes, rest, self.call_inputs.batched(floats))
        if chosen is None:
            _, chosen = choose(self.backend, self.program, self._request(q, k, v, floats, return_lse))
            self._remember(kind, chosen)
        return self._run(chosen, (q, k, v), floats, binding, factor, return_lse)

    def _run(
        self,
        chosen: Any,
        tensors: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        floats: Mapping[str, torch.Tensor],
        binding: Binding,
        scale: float,
        return_lse: bool,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """A call of plain tensors by the backend ``chosen``. Raises as a call does."""
        operator = hasattr(chosen, "entry_for")
        if not operator and is_transformed((*tensors, *floats.values()), mapped=True):
            hint = "use backend='cpu' or 'triton', or call the op once for each entry"
            raise fail("E702", f"the backend {_name(chosen)!r} cannot run under torch.func.vmap", hint)
        if self._check and operator:  # what an operator gives is compared where it comes about, gradients too
            entry = self._entry(chosen, binding, tuple(floats), return_lse)
            found = attention(*tensors, [*floats.values()], handle_of(entry), scale)[:2]
            return found if return_lse else found[0]
        run: dict[str, Any] = {"binding": binding, "floats": floats, "scale": scale, "return_lse": return_lse}
        out, lse = chosen.run(self.compiled, *tensors, **run)
        if self._check:
            from maskc.checked import compare

            compare(self.program, *tensors, out, lse, **run)
        return out if lse is None else (out, lse)

    decode = decode

    @functools.cached_property
    def _of_heads(self) -> dict[tuple[int, int], Op]:
        return {}

    def of_heads(self, first: int, heads: int) -> Op:
        """What heads ``first`` and on do, so many of them; kept."""
        if (first, heads) not in self._of_heads:
            pattern = Pattern(of_heads(self.program, first, self.heads), self.pattern.args)
            options = {**self._options(), "inputs": self._inputs, "heads": heads}
            self._of_heads[first, heads] = Op(pattern, **options)
        return self._of_heads[first, heads]

    @property
    def checks(self) -> bool:
        """Whether results are compared with the dense reference."""
        return self._check

    def without_assertions(self) -> Op:
        """The same for parts of a sequence, of which the pattern's assertions need not hold: itself, out of check
        mode."""
        if not self._check or not self.program.assertions:
            return self
        bare = Pattern(self.program.replace(assertions=()), self.pattern.args, self.pattern.source)
        return Op(bare, **{**self._options(), "inputs": self._inputs})

    def with_heads(self, heads: int) -> Op:
        """The same for so many heads; no inputs are known to it but those of calls."""
        return Op(self.pattern, **{**self._options(), "heads": heads})

    def _traced(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        scale: float | None,
        return_lse: bool,
        sizes: Mapping[str, int],
        q_start: int | None,
        given: Mapping[str, Any],
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """A call while torch.compile or torch.export traces it: one operator, which does the rest when it runs."""
        factor, wishes = traced_scale(scale)
        wishes += [LSE] if return_lse else []
        inputs = self.call_inputs.traced(q, given)
        extents = _with_start(self.call_inputs.traced_sizes(sizes), q_start)
        out, lse = call(self.handle, q, k, v, inputs, extents, factor, wishes, self.stored_recipe)
        return (out, lse) if return_lse else out

    def bind(
        self,
        q_len: int,
        k_len: int,
        *,
        batch: int | None = None,
        sizes: Mapping[str, int] | None = None,
        q_start: int | None = None,
        inputs: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> Binding:
        """The binding of a call with these lengths and inputs: what the mask reads. Arguments and errors: as a call."""
        values = {**self.pattern.args, **self._inputs, **by_name("inputs", inputs, more)}
        return bind(
            self.program,
            q_len,
            k_len,
            heads=self.heads,
            layer=self.layer,
            batch=batch,
            sizes={**self.sizes, **mapping_of("sizes", sizes)},
            values=values,
            q_start=q_start,
        )

    def plan(
        self,
        q_len: int,
        k_len: int,
        *,
        q_tile: int = 128,
        k_tile: int = 128,
        layout: str | None = None,
        batch: int | None = None,
        sizes: Mapping[str, int] | None = None,
        q_start: int | None = None,
        inputs: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> TilePlan:
        """The tiles that a call with these lengths and inputs computes. Raises as a call does, E502 and E801.

        ``layout``: the order of the tokens, as ``make_plan`` takes it; None: the op's own. ``inputs``: inputs by name,
        for names that are also parameters of this method.
        """
        from maskc.dump import dump_plan
        from maskc.tiles import make_plan

        binding = self.bind(q_len, k_len, batch=batch, sizes=sizes, q_start=q_start, inputs=inputs, **more)
        order = self.layout if layout is None else layout
        size: dict[str, Any] = {"q_tile": q_tile, "k_tile": k_tile}
        plan: TilePlan = make_plan(self.program, binding, **size, layout=order, budget=self.budget)
        dump_plan(plan)
        return plan

    def cache_info(self) -> CacheInfo:
        """How often calls found the plan of an earlier one, and how many plans are kept."""
        return self.compiled.cache_info

    def check(
        self,
        q_len: int,
        k_len: int,
        *,
        batch: int | None = None,
        sizes: Mapping[str, int] | None = None,
        q_start: int | None = None,
        inputs: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> None:
        """Prove the pattern's assertions. Raises E513 with the first counterexample of each that does not hold."""
        from maskc.assertions import check

        binding = self.bind(q_len, k_len, batch=batch, sizes=sizes, q_start=q_start, inputs=inputs, **more)
        check(self.program, binding)

    def check_call(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        given: Mapping[str, Any],
        *,
        scale: float | None,
        return_lse: bool,
    ) -> None:
        """What a call of tensors that fit finds wrong with anything but what the mask reads. Raises as a call does."""
        self._check_wishes(return_lse, given)
        scale_factor(scale, q.shape[-1])
        floats, _ = self.call_inputs.split(given, q, k.shape[2])
        choose(self.backend, self.program, self._request(q, k, v, floats, return_lse))


def _with_start(sizes: Mapping[str, Any], q_start: Any) -> dict[str, Any]:
    """``sizes`` as operators of torch take them, with the position of the first query. An integer is not looked at, but
    when the operator runs: it may be a symbol of torch.compile, and one graph serves them all. Raises E503 and E504."""
    if q_start is None:
        return {**sizes}
    plain = isinstance(q_start, (int, torch.SymInt)) and not isinstance(q_start, bool)
    return {**sizes, Q_START: q_start if plain else integer("q_start", q_start, 0)}


def _name(backend: Backend) -> str:
    return str(getattr(backend, "__name__", "")).rpartition(".")[2]


def _make(pattern: Pattern, options: dict[str, Any]) -> Op:
    """An op again, when it is copied or unpickled; plans are made anew."""
    return Op(pattern, **options)
