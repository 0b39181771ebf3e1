"""What a model's code asks of a mask, read off the function that Transformers built for it.

Transformers hands a backend a Python function of (batch, head, query, key). It is made of a dozen
known functions, so its meaning is read as an expression, and nothing that it asks for is lost: a
function that is not known is an error, never ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from maskc.ir.nodes import TRUE, Const, Lookup, Node, Symbol, Type
from maskc.ir.ops import apply, conjunction, disjunction
from maskc.ir.program import Parameter, Program, Space
from maskc.tiles.values import fail

if TYPE_CHECKING:
    import torch

__all__ = ["Demand", "read"]

_Q, _K, _B = Symbol("q"), Symbol("k"), Symbol("b")
_KNOWN = "transformers.masking_utils:"
_AND, _OR = _KNOWN + "and_masks.and_mask", _KNOWN + "or_masks.or_mask"
_REMAP = _KNOWN + "remap_positions_for_packed_sequence"
_GEMMA3 = "transformers.models.gemma3.modeling_gemma3:"


@dataclass
class Demand:
    """The mask that a model's code asks for, without padding.

    Attributes:
        program: the mask; ``cross`` where it speaks neither of the query nor of the key.
        causal: whether no query sees a key after it, but for those of its own picture.
        tokens: inputs by token, (B, N) or (1, N), indexed by the absolute position.
        padding: inputs by batch entry that count padding on the left, (B,).
        doc, position: of packed documents, (B, N); None where nothing is packed.
        block: of images that see each other in both directions, (B, N), -1 for none; None if there are none.
    """

    program: Program
    causal: bool = False
    tokens: dict[str, torch.Tensor] = field(default_factory=dict)
    padding: dict[str, torch.Tensor] = field(default_factory=dict)
    doc: torch.Tensor | None = None
    position: torch.Tensor | None = None
    block: torch.Tensor | None = None

    @property
    def bidirectional(self) -> bool:
        """Whether every key may be seen."""
        return self.program.mask is TRUE


def read(function: Callable[..., Any]) -> Demand:
    """The demand of a mask function. Raises E702 where it holds a function that is not known."""
    reader = _Reader()
    mask = reader.mask(function, _Q, _K)
    params = tuple(Parameter(n, Type.INT, ("token",)) for n in reader.tokens)
    params += tuple(Parameter(n, Type.INT, ("batch",)) for n in reader.padding)
    space = Space()
    program = Program("model", params, space, space, mask is TRUE, mask)
    return Demand(
        program, _is_causal(function), reader.tokens, reader.padding, reader.doc, reader.position, reader.block
    )


class _Reader:
    def __init__(self) -> None:
        self.tokens: dict[str, torch.Tensor] = {}
        self.padding: dict[str, torch.Tensor] = {}
        self.doc: torch.Tensor | None = None
        self.position: torch.Tensor | None = None
        self.block: torch.Tensor | None = None

    def mask(self, function: Callable[..., Any], q: Node, k: Node) -> Node:
        """The expression of a mask function at these positions."""
        name, held = _name(function), _closure(function)
        if name == _AND:
            return _all([self.mask(f, q, k) for f in held["mask_functions"]])
        if name == _OR:
            return _any([self.mask(f, q, k) for f in held["mask_functions"]])
        if name == _REMAP:
            self.position = held["position_ids"]
            at = self._token("position", held["position_ids"])
            return self.mask(held["mask_function"], at(q), at(k))
        found = self._leaf(name, held, q, k)
        if found is None:
            raise fail(
                "E702",
                f"this model's masks use a function that maskc does not know: {name.replace(':', '.')}",
                'give its meaning as a pattern without it, or use attn_implementation="sdpa" for this model',
            )
        return found

    def _leaf(self, name: str, held: dict[str, Any], q: Node, k: Node) -> Node | None:
        match name.removeprefix(_KNOWN):
            case "causal_mask_function":
                return apply("le", k, q)
            case "bidirectional_mask_function":
                return TRUE
            case "sliding_window_overlay":
                return apply("lt", apply("sub", q, k), Const(int(held["sliding_window"])))
            case "sliding_window_bidirectional_overlay":
                return apply("le", _distance(q, k), Const(int(held["sliding_window"])))
            case "chunked_overlay":
                return self._chunked(held, q, k)
            case "packed_sequence_mask_function":
                self.doc = held["packed_sequence_mask"]
                at = self._token("doc", self.doc)
                return apply("eq", at(_Q), at(_K))
            case "blockwise_overlay":
                self.block = held["block_sequence_ids"]
                at = self._token("block", self.block)
                return conjunction([apply("eq", at(q), at(k)), apply("le", Const(0), at(q))])
        # Gemma 3 as an encoder gives two functions of its own.
        if name == _GEMMA3 + "_bidirectional_window_overlay":
            return apply("lt", _distance(q, k), Const(int(held["sliding_window"])))
        if name == _GEMMA3 + "Gemma3TextModel.forward.<lambda>":
            return TRUE
        return None

    def _chunked(self, held: dict[str, Any], q: Node, k: Node) -> Node:
        self.padding["padding"] = held["left_padding"]
        size, start = Const(int(held["chunk_size"])), Lookup("padding", Type.INT, (_B,))
        one, other = (apply("floordiv", apply("sub", x, start), size) for x in (q, k))
        return apply("eq", one, other)

    def _token(self, name: str, ids: Any) -> Callable[[Node], Node]:
        self.tokens[name] = ids
        return lambda at: Lookup(name, Type.INT, (at,))


def _name(function: Callable[..., Any]) -> str:
    name = f"{getattr(function, '__module__', '')}:{getattr(function, '__qualname__', '')}"
    return name.replace(".<locals>.inner_mask", "").replace(".<locals>", "")


def _is_causal(function: Callable[..., Any]) -> bool:
    name, held = _name(function), _closure(function)
    if name == _AND:
        return any(_is_causal(f) for f in held["mask_functions"])
    if name == _OR:
        return all(_is_causal(f) or _name(f) == _KNOWN + "blockwise_overlay" for f in held["mask_functions"])
    return _is_causal(held["mask_function"]) if name == _REMAP else name == _KNOWN + "causal_mask_function"


def _closure(function: Callable[..., Any]) -> dict[str, Any]:
    code = getattr(function, "__code__", None)
    cells = getattr(function, "__closure__", None) or ()
    return dict(zip(code.co_freevars, (c.cell_contents for c in cells), strict=True)) if code else {}


def _distance(q: Node, k: Node) -> Node:
    return apply("abs", apply("sub", q, k))


def _all(masks: list[Node]) -> Node:
    return conjunction([m for m in masks if m is not TRUE])


def _any(masks: list[Node]) -> Node:
    return TRUE if any(m is TRUE for m in masks) else disjunction(masks)
