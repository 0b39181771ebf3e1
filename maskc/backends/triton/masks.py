"""How partial tiles are masked: by the key intervals of the plan, or by the mask itself; and whether rows are empty."""

from __future__ import annotations

from maskc.backends.triton.boxes import BOX_COST, Packed, box_of, packed
from maskc.backends.triton.expressions import Expressions
from maskc.backends.triton.tiles import distinct_groups
from maskc.ir.binding import Binding
from maskc.ir.nodes import Apply, Const, Exists, Lookup, Node, Symbol, Type, postorder
from maskc.ir.program import Program
from maskc.tiles.groups import members
from maskc.tiles.plan import TilePlan
from maskc.tiles.rowsets import row_sets

__all__ = ["MAX_CLAUSES", "every_query_keeps_a_key", "is_box", "mask_cost", "mask_form", "pair_values"]

#: Intervals a query at most: each costs a register a row and three operations a pair.
MAX_CLAUSES = 4
_INTERVAL_COST = 3
_COSTS = {"hash": 12, "floordiv": 6, "mod": 6}
_LOOKUP_COST, _DOUBLE_COST = 16, 16
_ADDRESS = 6  # values that an address for every pair is worth, which has 64 bits
_LOOP = 5  # and a loop for every pair, around which everything else stays in registers


def mask_form(program: Program, plan: TilePlan) -> tuple[int | None, Packed | None]:
    """What partial tiles are masked by: a number of intervals a query, or boxes, or neither: the mask is evaluated."""
    cost = mask_cost(program)
    clauses = _clauses(plan, cost) if cost > _INTERVAL_COST else None
    least = cost if clauses is None else _INTERVAL_COST * clauses
    box = box_of(program) if least > BOX_COST else None
    boxes = None if box is None else packed(box, program, plan, distinct_groups(plan))
    return (clauses, None) if boxes is None else (None, boxes)


def _clauses(plan: TilePlan, cost: int) -> int | None:
    """Intervals a query, if they are few, and cost less than ``cost``."""
    clauses = 0
    for group in plan.groups:
        found = plan.intervals(group)
        if found is None or len(found) > MAX_CLAUSES or _INTERVAL_COST * len(found) >= cost:
            return None
        clauses = max(clauses, len(found))
    return clauses


def is_box(program: Program) -> bool:
    """Whether boxes are worth trying: see ``boxes``."""
    return mask_cost(program) > BOX_COST and box_of(program) is not None


def every_query_keeps_a_key(program: Program, binding: Binding) -> bool:
    """Whether that is proved of every head and batch entry: False where a query keeps none, or is too hard to solve."""
    for products in members(program, binding):
        heads, batches = products[0]
        found = row_sets(program, binding, heads[0], batches[0])
        if found is None or not bool((found.counts() > 0).all()):
            return False
    return True


def mask_cost(program: Program) -> int:
    """Operations a pair that evaluating the mask takes; what depends on the query alone is free."""
    used = Expressions(program, (), "q", [program.mask])
    return sum(_cost(n) for n in postorder([program.mask]) if not used.depends(n) <= {"q"})


def pair_values(program: Program, clauses: int | None) -> int:
    """How many values of a pair the kernel computes for mask and score, and of a key to compare with: what they take
    of the registers."""
    boxes = clauses is None and is_box(program)
    roots = [program.score] if clauses is not None or boxes else [program.mask, program.score]
    used = Expressions(program, (), "q", roots)
    inner = [n for n in postorder(roots) if isinstance(n, Apply) and used.depends(n) >= {"q", "k"}]
    columns = {c for n in inner for c in n.children if used.depends(c) == {"k"} and not isinstance(c, Symbol)}
    computed = sum(len(n.args) - 1 if n.op in ("and", "or") else 1 for n in inner)
    addresses = sum(isinstance(n, Lookup) and used.depends(n) >= {"q", "k"} for n in postorder(roots))
    loops = sum(isinstance(n, Exists) and used.depends(n) >= {"q", "k"} for n in postorder(roots))
    return computed + len(columns) + _ADDRESS * addresses + _LOOP * loops + 3 * (clauses or 0) + BOX_COST * boxes


def _cost(node: Node) -> int:
    if isinstance(node, Lookup):
        return _LOOKUP_COST
    if isinstance(node, Exists):
        count = int(node.count.value) if isinstance(node.count, Const) else 64
        return count * mask_cost_below(node)
    if not isinstance(node, Apply):
        return 0
    if node.type is Type.FLOAT or any(a.type is Type.FLOAT for a in node.args):
        return _DOUBLE_COST
    return _COSTS.get(node.op, max(1, len(node.args) - 1))


def mask_cost_below(node: Exists) -> int:
    """A whole body for every index."""
    return sum(_cost(n) for n in postorder([node.body]) if not isinstance(n, Exists)) + 1
