"""Random programs decode as the reference does, entry by entry."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from maskc.backends import Compiled, backend_row, cpu
from maskc.backends.decoding import DecodeCall
from maskc.diagnostics import MaskcError
from maskc.ir.binding import Binding
from maskc.ir.nodes import Const, Size
from maskc.ir.program import Program, Space
from maskc.ir.rewrite import map_program, substitute
from maskc.steps import by_cohort
from tests.strategies import bindings, programs


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(programs(), bindings(), st.data())
def test_random_programs(program: Program, binding: Binding, data: st.DataObject) -> None:
    lengths = torch.tensor([data.draw(st.integers(0, binding.k_len)) for _ in range(2)])
    start = torch.tensor([data.draw(st.integers(0, int(n))) for n in lengths])
    pages = data.draw(st.sampled_from([None, 1, 3]))
    call = _call(program, binding, lengths, start if data.draw(st.booleans()) else None, pages)
    try:
        out, lse = cpu.run_decode(call)
        wanted, wanted_lse = by_cohort(call, backend_row("reference").load())
    except MaskcError as error:
        assume(error.codes[0] not in ("E507", "E508", "E801"))
        raise
    torch.testing.assert_close(out, wanted, rtol=1e-9, atol=1e-9, equal_nan=True)
    torch.testing.assert_close(lse, wanted_lse, rtol=1e-9, atol=1e-9, equal_nan=True)


def _call(
    program: Program, binding: Binding, lengths: torch.Tensor, start: torch.Tensor | None, page: int | None
) -> DecodeCall:
    """A call with the inputs of a binding; its extents are put in, since they would have to fit every length."""
    known = {Size(name): Const(extent) for name, extent in binding.sizes.items()}
    program = map_program(program, lambda root: substitute(root, known)).replace(q_space=Space(), k_space=Space())
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 3, binding.q_len, 16, generator=generator, dtype=torch.float64)
    k, v = (torch.randn(2, 1, binding.k_len, 16, generator=generator, dtype=torch.float64) for _ in range(2))
    table = None
    if page is not None:
        count = -(-binding.k_len // page)
        table = torch.randperm(2 * count, generator=generator).view(2, count)
        k, v = (_paged(x, table, page) for x in (k, v))
    static = {p.name for p in program.params if p.when == "compile"}
    tables = {n: x for n, x in binding.tables.items() if n in static}
    compiled = Compiled(program, 3, binding.layer, binding.args, tables, {})
    floats = {"slope": torch.from_numpy(np.asarray(binding.tables["slope"]))}
    whole = binding.replace(sizes={})
    return DecodeCall(compiled, q, k, v, lengths, start, table, {}, floats, {}, 0.25, True, frozenset(), whole)


def _paged(cache: torch.Tensor, table: torch.Tensor, page: int) -> torch.Tensor:
    """The keys of (2, 1, N, 16) in pages; NaN where no key is."""
    pages = torch.full((table.numel(), page, 1, 16), torch.nan, dtype=cache.dtype)
    for b in range(2):
        for i, part in enumerate(cache[b, 0].split(page)):
            pages[table[b, i], : len(part), 0] = part
    return pages
