"""``op.decode`` inside graphs of torch."""

from __future__ import annotations

import pytest
import torch

from maskc.backends.handles import name_call
from maskc.graphs import decode_operator
from tests.serving.calls import CASES, make

Tensor = torch.Tensor


@pytest.mark.parametrize("name", ["sinks-and-window", "documents-batch", "sigmoid", "gone", "image"])
def test_traces_whole(name: str) -> None:
    call = make(CASES[name])
    softmax = call.op.program.normalizer.kind == "softmax"
    given = {n: torch.as_tensor(x) for n, x in call.inputs.items()}

    def step(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, table: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        options = {"start": call.start, "sizes": call.case.sizes, "inputs": inputs, "return_lse": softmax}
        found = call.op.decode(q * 2.0, k, v, lengths, table, **options)
        return found[0] + found[1].isfinite()[..., None] if softmax else found + 1.0

    graph = torch.compile(step, fullgraph=True, backend="aot_eager", dynamic=False)
    with torch.no_grad():
        tensors = (call.q, call.k_pages, call.v_pages, call.lengths, call.table, given)
        torch.testing.assert_close(graph(*tensors), step(*tensors))
        shorter = (*tensors[:3], call.lengths.clamp(max=30), *tensors[4:])
        if call.start is None and name != "image":
            torch.testing.assert_close(graph(*shorter), step(*shorter))


def test_is_an_operator_as_torch_wants_it() -> None:
    call = make(CASES["causal"])
    call.dense()
    what = name_call(call.op.handle, (), ())
    caches = (call.q, call.k, call.v, call.lengths, None, None, [])
    torch.library.opcheck(decode_operator, (*caches, what, None, 0.25, True))
