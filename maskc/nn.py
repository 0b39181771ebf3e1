"""Attention under a pattern as a module of PyTorch."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from maskc.arguments import expect, integer, mapping_of, shown
from maskc.devices import holds_values
from maskc.ir.program import Parameter, Program
from maskc.ir.text import print_statements, shortened
from maskc.spec import MAX_JSON, from_spec
from maskc.tiles.values import fail, suggestion

if TYPE_CHECKING:
    from maskc.compiler import PatternLike
    from maskc.op import Op
    from maskc.parallel import ContextParallel, Partition
    from maskc.pattern import Pattern

__all__ = ["Attention"]

_MOST_STATEMENTS = 1000  # characters of a pattern that are shown of a module
_MAX_DEPTH = 16  # lists and mappings within one another: a spec has its keys, its arguments, and tables of 8 dimensions


class Attention(nn.Module):
    """Multi-head attention under a pattern, with its projections: (B, N, embed_dim) to the same shape.

    Args:
        embed_dim: channels of input and output.
        num_heads: query heads.
        pattern: whatever ``maskc.compile`` takes; also a spec out of a JSON or YAML file, with lists in it.
        kv_heads: key and value heads, a divisor of ``num_heads``; by default as many.
        head_dim: channels of a head; by default ``embed_dim // num_heads``.
        layer: the layer, for patterns that differ by layer.
        bias: whether the projections have biases.
        learned: float inputs of the pattern that become parameters of this module, starting at 0, such
            as the logits of sinks. Their extents must be known: heads, and numbers.
        sizes: extents of segments and axes.
        backend, layout, budget: as for ``maskc.compile``.
        arguments: arguments of the pattern.
        device, dtype: of the parameters.

    The state dict carries the pattern's spec; one of another pattern is refused (E603). Raises what
    ``maskc.compile`` raises, and E504 and E505 for numbers that do not fit.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        pattern: PatternLike,
        *,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        layer: int = 0,
        bias: bool = True,
        learned: Sequence[str] | str = (),
        sizes: Mapping[str, int] | None = None,
        backend: str = "auto",
        layout: str = "none",
        arguments: Mapping[str, Any] | None = None,
        budget: int | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        from maskc.compiler import compile

        kv_heads = num_heads if kv_heads is None else kv_heads
        _check_heads(embed_dim, num_heads, kv_heads, head_dim)
        self.embed_dim, self.num_heads, self.kv_heads = embed_dim, num_heads, kv_heads
        self.head_dim = embed_dim // num_heads if head_dim is None else head_dim
        options: dict[str, Any] = {"sizes": sizes, "backend": backend, "layout": layout, "budget": budget}
        self.op: Op = compile(_plain(pattern), heads=num_heads, layer=layer, arguments=_plain(arguments), **options)
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        self.q_proj = nn.Linear(embed_dim, num_heads * self.head_dim, bias, **made)
        self.k_proj = nn.Linear(embed_dim, kv_heads * self.head_dim, bias, **made)
        self.v_proj = nn.Linear(embed_dim, kv_heads * self.head_dim, bias, **made)
        self.out_proj = nn.Linear(num_heads * self.head_dim, embed_dim, bias, **made)
        names = (learned,) if isinstance(learned, str) else learned
        expect("learned", names, Sequence, "a sequence of names")
        shapes = {n: _shape(self.op.program, n, num_heads) for n in names}
        self.learned = nn.ParameterDict({n: nn.Parameter(torch.zeros(s, **made)) for n, s in shapes.items()})
        #: The process group among whose ranks sequences are divided; None is the default one.
        self.group: Any = None
        self._parallel: ContextParallel | None = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any], **more: Any) -> Attention:
        """A module from plain data, as JSON, YAML or Hydra give it: the arguments of this class by name.

        ``more`` come before what the config says. A ``_target_`` is passed over. Raises E502 for unknown
        names, and TypeError where one is missing.
        """
        given = {**{k: v for k, v in mapping_of("config", config).items() if k != "_target_"}, **more}
        known = [name for name in inspect.signature(cls.__init__).parameters if name != "self"]
        for name in given:
            if name not in known:
                raise fail("E502", f"Attention takes no argument called {name!r}", suggestion(str(name), known))
        return cls(**given)

    @property
    def pattern(self) -> Pattern:
        """The pattern, with its arguments."""
        return self.op.pattern

    def forward(
        self,
        x: torch.Tensor,
        context: torch.Tensor | None = None,
        *,
        division: Partition | None = None,
        **inputs: Any,
    ) -> torch.Tensor:
        """Attention of ``x`` (B, N, embed_dim) over itself, or over ``context`` (B, Nk, embed_dim).

        ``division``: how the sequence is divided among the ranks of ``group``, where ``x`` is what this one holds (see
        ``maskc.parallel``). ``inputs``: inputs of the pattern, and ``sizes``, as for the op. Raises as the op does.
        """
        keys = x if context is None else context
        for name, tokens in (("x", x), ("context", keys)):
            if not isinstance(tokens, torch.Tensor) or tokens.ndim != 3:
                found = tuple(tokens.shape) if isinstance(tokens, torch.Tensor) else shown(tokens)
                hint = "inputs of the pattern are given by name" if name == "context" else None
                raise fail("E510", f"{name} must be a tensor (batch, length, {self.embed_dim}), not {found}", hint)
        q = self._heads(self.q_proj(x), self.num_heads)
        k, v = (self._heads(project(keys), self.kv_heads) for project in (self.k_proj, self.v_proj))
        given = {**dict(self.learned.items()), **inputs}
        if division is None:
            out = self.op(q, k, v, **given)
        elif context is None:
            out = self.parallel(q, k, v, division, **given)
        else:
            raise fail("E702", "one sequence is divided among ranks, not two", "leave out context, or division")
        return self.out_proj(out.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    @property
    def parallel(self) -> ContextParallel:
        """The op over sequences that are divided among the ranks of ``group``."""
        from maskc.parallel import ContextParallel

        if self._parallel is None or self._parallel.group is not self.group:
            self._parallel = ContextParallel(self.op, self.group)
        return self._parallel

    def _heads(self, x: torch.Tensor, heads: int) -> torch.Tensor:
        if x.shape[-1] != heads * self.head_dim:
            message = f"a projection gives {x.shape[-1]} channels, and {heads} heads of {self.head_dim} have more"
            hint = "where it is split over processes, keep it a DTensor: ColwiseParallel(use_local_output=False)"
            raise fail("E510", message, hint)
        return x.view(*x.shape[:-1], heads, self.head_dim).transpose(1, 2)

    def extra_repr(self) -> str:
        """The sizes and the pattern."""
        heads = f"num_heads={self.num_heads}" + (
            f", kv_heads={self.kv_heads}" if self.kv_heads != self.num_heads else ""
        )
        layer = f", layer={self.op.layer}" if self.op.layer else ""
        attend = shortened(" ".join(print_statements(self.pattern.program)), _MOST_STATEMENTS)
        return f"{self.embed_dim}, {heads}{layer}, pattern={self.pattern!r}\n{attend}"

    def get_extra_state(self) -> torch.Tensor:
        """The spec, as bytes of JSON: files of safetensors hold nothing but tensors."""
        text = json.dumps(self.pattern.spec()).encode()
        return torch.tensor(list(text), dtype=torch.uint8, device="cpu")

    def set_extra_state(self, state: torch.Tensor | str) -> None:
        """Compare the pattern with the one that the weights were trained under. Raises E601 to E603."""
        if isinstance(state, torch.Tensor) and not (state.is_meta or holds_values(state)):
            return  # a fake tensor, as are the weights beside it
        # State dicts of the first releases hold the text itself.
        stored = from_spec(state if isinstance(state, str) else _text(state))
        if stored != self.pattern:
            raise fail(
                "E603",
                f"the state dict is of the pattern {stored!r} ({stored.hash[:12]}...), but this module has "
                f"{self.pattern!r} ({self.pattern.hash[:12]}...)",
                "make the module with the pattern of the state dict: its `_extra_state` is the spec, as bytes of JSON",
            )


def _text(state: Any) -> str:
    """The text of an extra state. Raises E601 for what is none: a state dict may be anybody's."""
    if not isinstance(state, torch.Tensor) or state.dtype != torch.uint8 or state.ndim != 1 or state.is_meta:
        hint = "it is a row of bytes (uint8), the JSON text of a spec"
        raise fail("E601", "malformed spec: the extra state of an Attention is no text", hint)
    if len(state) > MAX_JSON:
        raise fail("E601", f"malformed spec: {len(state)} bytes are too many", f"a spec has at most {MAX_JSON}")
    return state.cpu().numpy().tobytes().decode(errors="replace")


def _check_heads(embed_dim: int, num_heads: int, kv_heads: int, head_dim: int | None) -> None:
    named = {"embed_dim": embed_dim, "num_heads": num_heads, "kv_heads": kv_heads, "head_dim": head_dim}
    for name, value in named.items():
        if name != "head_dim" or value is not None:
            integer(name, value, 1)
    if num_heads % kv_heads:
        raise fail("E504", f"num_heads must be a multiple of kv_heads, but {num_heads} is none of {kv_heads}")
    if head_dim is None and embed_dim % num_heads:
        hint = "give head_dim, or numbers that divide"
        raise fail("E504", f"embed_dim must be a multiple of num_heads, but {embed_dim} is none of {num_heads}", hint)


def _shape(program: Program, name: str, heads: int) -> tuple[int, ...]:
    """The shape of a float input that is learned."""
    floats = {p.name: p for p in program.params if p.type.value == "float" and p.when == "call"}
    if name not in floats:
        hint = suggestion(name, list(floats)) or "it declares none"
        raise fail("E502", f"{program.name!r} has no float input called {name!r}", hint)
    return tuple(_extent(floats[name], d, heads) for d in floats[name].domain)


def _extent(p: Parameter, domain: str | int, heads: int) -> int:
    if domain == "head":
        return heads
    if isinstance(domain, int):
        return domain
    hint = "give it with each call instead"
    raise fail("E505", f"{p.name!r} is declared over {domain!r}, which has no extent that a parameter could have", hint)


def _plain(value: Any, depth: int = 0) -> Any:
    """Mappings and lists of any library as those of Python. What is nested deeper than anything that is taken stays
    as it is, for whoever reads it to refuse."""
    if depth > _MAX_DEPTH:
        return value
    if isinstance(value, Mapping):
        return {k: _plain(v, depth + 1) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_plain(v, depth + 1) for v in value]
    return value
