"""Programs and expressions as text of the core language, which lowers back to the identical graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from maskc.diagnostics import Diagnostic, MaskcError
from maskc.ir.evaluate import free_indices
from maskc.ir.nodes import Apply, Const, Exists, Lookup, Node, Param, Size, Symbol, Type, postorder
from maskc.ir.ops import OPS
from maskc.ir.program import OUTPUT, SCORE, SOFTMAX, Parameter, Program, Segment, Space
from maskc.ir.size import MAX_PRINTED

__all__ = ["print_node", "print_parameter", "print_program", "text_problem"]

_ATOM = 9
_PREFIX = OPS["neg"].precedence
_COMPARISON = OPS["lt"].precedence
_SUM = OPS["add"].precedence
#: About how long a name is; and how long a part of a message may be.
_NAMED = 2
_LONG = 10_000
#: Shared expressions whose text is no longer than this are repeated rather than named.
_SHORT = 10


#: The names of the values of enumerations, by the name of the parameter or input.
Labels = Mapping[str, tuple[str, ...]]


def print_node(node: Node, names: Mapping[Node, str] | None = None, labels: Labels | None = None) -> str:
    """The expression as text, with as few brackets as the precedences of ``OPS`` allow.

    ``names`` gives names to sub-expressions, which then stand for them; ``labels`` to the values of enumerations.
    A part that would be longer than anybody reads is ``...``: what is shared is written wherever it is used.
    """
    named, lengths = dict(names or {}), dict[Node, int]()
    for n in postorder([node]):
        lengths[n] = _NAMED if n in named else _length(n, lengths)
        if lengths[n] > _LONG and n is not node:
            named[n], lengths[n] = "...", _NAMED
    return _print_all([node], named, labels or {})[node][0]


def print_program(program: Program, *, name: str | None = None, docs: bool = True) -> str:
    """The program as a ``pattern``. Long expressions that are used more than once become ``let v0 = ...``.

    ``name`` replaces the pattern's name; ``docs`` says whether to write its doc comment. Raises MaskcError E901
    where ``text_problem`` finds one.
    """
    lets, length = _lets(program)
    if length > MAX_PRINTED:
        raise MaskcError(_too_long(program))
    labels = {p.name: p.labels for p in program.params if p.labels}
    texts = _print_all(program.roots(), lets, labels)
    own = _print_all(lets, lets, labels, keep=lets)
    lines = [f"## {line}".rstrip() for line in program.doc.splitlines()] if docs else []
    params = ", ".join(print_parameter(p) for p in program.params)
    header = f"pattern {program.name if name is None else name}" + (f"({params})" if params else "")
    lines.append(f"{header}{_print_spaces(program)} {{")
    lines += [f"    let {let} = {own[node][0]}" for node, let in lets.items()]
    lines += [f"    {s}" for s in _statements(program, {n: t for n, (t, _) in texts.items()})]
    return "\n".join([*lines, "}", ""])


def text_problem(program: Program) -> Diagnostic | None:
    """E901, without a place, if the program has no text of a size that can be read: what speaks of the index of an
    ``any`` cannot be given a name outside, and is written wherever it is used."""
    return _too_long(program) if _lets(program)[1] > MAX_PRINTED else None


def _too_long(program: Program) -> Diagnostic:
    message = f"{program.name!r} takes more than {MAX_PRINTED} characters once its names are expanded"
    return Diagnostic("E901", message, hint="use a table or an input in place of repetition")


def print_parameter(p: Parameter) -> str:
    """One entry of a signature."""
    kind = "{" + ", ".join(p.labels) + "}" if p.labels else p.type.value
    if not p.labels and (p.low is not None or p.high is not None):
        kind += f"({'' if p.low is None else p.low}..{'' if p.high is None else p.high})"
    domain = f"[{', '.join(map(str, p.domain))}]" if p.domain else ""
    if p.default is None:
        return f"{p.name}: {kind}{domain}"
    default = p.labels[int(p.default.value)] if p.labels else print_node(p.default)
    return f"{p.name}: {kind}{domain} = {default}"


def _statements(program: Program, texts: Mapping[Node, str]) -> Iterable[str]:
    yield f"attend {texts[program.mask]}"
    if program.score is not SCORE:
        yield f"score {texts[program.score]}"
    if program.normalizer != SOFTMAX:
        sink = program.normalizer.sink
        yield f"normalize {program.normalizer.kind}" + (f"(sink = {texts[sink]})" if sink is not None else "")
    if program.output is not OUTPUT:
        yield f"output {texts[program.output]}"
    for a in program.assertions:
        if a.claim is not None:
            yield f"assert {texts[a.claim]}"
        else:
            yield f"assert some {'k' if a.kind == 'some_key' else 'q'}"


def _print_spaces(program: Program) -> str:
    if program.cross:
        return f" over {_print_space(program.q_space)} -> {_print_space(program.k_space)}"
    return f" over {_print_space(program.q_space)}" if program.q_space.segments else ""


def _print_space(space: Space) -> str:
    return " ++ ".join(_print_segment(s) for s in space.segments) or "token"


def _print_segment(segment: Segment) -> str:
    shape = f"grid({', '.join(segment.axes)})" if segment.axes else ""
    return ": ".join(part for part in (segment.name, shape) if part)


def _lets(program: Program) -> tuple[dict[Node, str], int]:
    """Names for the expressions worth one, operands before the nodes that use them; and about how long the text is."""
    roots = program.roots()
    nodes = list(postorder(roots))
    uses = Counter(c for n in nodes for c in n.children)
    uses.update(roots)
    free = free_indices(roots)
    taken = {p.name for p in program.params} | _space_names(program)
    stem = next(s for s in ("v", "v_", "v__", "let_v") if not any(t.startswith(s) for t in taken))
    lets: dict[Node, str] = {}
    lengths: dict[Node, int] = {}
    total = 0
    for n in nodes:
        lengths[n] = _length(n, lengths)
        if uses[n] > 1 and n.children and not free[n] and lengths[n] > _SHORT:
            total += lengths[n]
            lets[n] = f"{stem}{len(lets)}"
            lengths[n] = _NAMED
    return lets, total + sum(lengths[r] for r in roots)


def _space_names(program: Program) -> set[str]:
    segments = (*program.q_space.segments, *program.k_space.segments)
    return {name for s in segments for name in (s.name, *s.axes) if name}


def _length(node: Node, lengths: Mapping[Node, int]) -> int:
    """About how long the text of ``node`` is, given that of its operands."""
    own = 0 if node.children or isinstance(node, Lookup) else len(_leaf(node)[0])
    return (
        own + sum(lengths[c] + 3 for c in node.children) - (3 if isinstance(node, Apply) and len(node.args) > 1 else 0)
    )


def _print_all(
    roots: Iterable[Node], names: Mapping[Node, str], labels: Labels, keep: Collection[Node] = ()
) -> dict[Node, tuple[str, int]]:
    """Text and precedence of every node; of those in ``keep`` the expression itself, though others see its name."""
    printed: dict[Node, tuple[str, int]] = {}
    spelled: dict[Node, tuple[str, int]] = {}
    for node in postorder(roots):
        operands = [printed[c] for c in node.children]
        if labels and isinstance(node, Apply) and node.op in ("eq", "ne", "select"):
            operands = _labelled(node, operands, labels)
        text = _print_one(node, operands)
        if node in keep:
            spelled[node] = text
        printed[node] = (names[node], _ATOM) if node in names else text
    return {**printed, **spelled}


def _labelled(node: Apply, operands: list[tuple[str, int]], labels: Labels) -> list[tuple[str, int]]:
    """Beside an enumeration, an integer is one of its values."""
    found = next((labels[a.name] for a in node.args if isinstance(a, (Param, Lookup)) and a.name in labels), ())
    return [
        (found[int(a.value)], _ATOM) if isinstance(a, Const) and a.type is Type.INT and 0 <= a.value < len(found) else o
        for a, o in zip(node.args, operands, strict=True)
    ]


def _print_one(node: Node, operands: list[tuple[str, int]]) -> tuple[str, int]:
    if isinstance(node, Lookup):
        return f"{node.name}[{', '.join(text for text, _ in operands)}]", _ATOM
    if isinstance(node, Exists):
        count, body = operands
        return f"any({node.index.name} in 0..{_bracket(count, _SUM)}: {body[0]})", _ATOM
    if isinstance(node, Apply):
        return _print_apply(node, operands)
    return _leaf(node)


def _leaf(node: Node) -> tuple[str, int]:
    if isinstance(node, Const):
        if node.type is Type.BOOL:
            return ("true" if node.value else "false"), _ATOM
        text = repr(node.value)
        return text, (_PREFIX if text.startswith("-") else _ATOM)
    if isinstance(node, Size):
        return f"size({node.name})", _ATOM
    assert isinstance(node, (Symbol, Param)), node
    return node.name, _ATOM


def _print_apply(node: Apply, operands: list[tuple[str, int]]) -> tuple[str, int]:
    op = OPS[node.op]
    if op.form == "call":
        return f"{op.symbol}({', '.join(text for text, _ in operands)})", _ATOM
    if op.form == "match":
        condition, yes, no = (text for text, _ in operands)
        return f"match {condition} {{ true: {yes}; else: {no} }}", _ATOM
    if op.form == "prefix":
        tight = op.precedence + 1 if node.op == "neg" else op.precedence
        inner = _bracket(operands[0], tight)
        return f"{op.symbol}{inner}", op.precedence
    first = op.precedence + (1 if op.precedence in (_COMPARISON, OPS["pow"].precedence) else 0)
    texts = [_bracket(operands[0], first), *(_bracket(o, op.precedence + 1) for o in operands[1:])]
    return f" {op.symbol} ".join(texts), op.precedence


def _bracket(operand: tuple[str, int], tight: int) -> str:
    text, precedence = operand
    return text if precedence >= tight else f"({text})"
