"""One call of an op, forward and backward, beside the same call of the reference in float64."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from maskc.ir.nodes import Type

if TYPE_CHECKING:
    from torch import Tensor

    from maskc.ir.program import Program
    from maskc.setting import Setting

__all__ = ["Trial", "arguments_of", "tolerance", "try_op"]


@dataclass(frozen=True)
class Trial:
    """``errors``: by result, the largest absolute error over the largest absolute value of the reference."""

    backend: str
    q_shape: tuple[int, ...]
    k_shape: tuple[int, ...]
    forward_s: float
    backward_s: float
    errors: dict[str, float]

    def data(self) -> dict[str, Any]:
        """As JSON-safe data."""
        times = {"forward_s": self.forward_s, "backward_s": self.backward_s}
        shapes = {"q_shape": list(self.q_shape), "k_shape": list(self.k_shape)}
        return {"backend": self.backend, **shapes, **times, "errors": self.errors}


def tolerance(dtype: str) -> float:
    """The largest relative error that rounding explains."""
    return {"float64": 1e-10, "float32": 1e-4, "bfloat16": 4e-2, "float16": 5e-3}[dtype]


def try_op(
    program: Program,
    given: Setting,
    *,
    kv_heads: int,
    dim: int,
    batch: int,
    backend: str,
    dtype: str,
    device: str,
    seed: int,
) -> Trial:
    """Run the op of ``backend`` and the reference on the same random tensors. Raises MaskcError."""
    import torch

    torch.manual_seed(seed)
    shapes = [(batch, given.heads, given.q_len, dim), *[(batch, kv_heads, given.k_len, dim)] * 2]
    q, k, v = (torch.randn(s, dtype=torch.float64).to(device, getattr(torch, dtype)) for s in shapes)
    weight = torch.randn(shapes[0], dtype=torch.float64).to(device, getattr(torch, dtype))
    name, result, forward_s, backward_s = _call(program, given, (q, k, v, weight), backend)
    exact = tuple(x.to("cpu", torch.float64) for x in (q, k, v, weight))
    _, expected, _, _ = _call(program, given, exact, "reference")
    errors = {what: _error(result[what], expected[what]) for what in expected}
    return Trial(name, tuple(q.shape), tuple(k.shape), forward_s, backward_s, errors)


def _call(
    program: Program, given: Setting, tensors: tuple[Tensor, ...], backend: str
) -> tuple[str, dict[str, Tensor], float, float]:
    """Outputs and gradients by name, with the backend's name and the seconds they took."""
    import torch

    import maskc
    from maskc.backends import Request, choose

    q, k, v = (x.detach().clone().requires_grad_() for x in tensors[:3])
    static, inputs = arguments_of(program, given, q)
    op = maskc.compile(
        program, heads=given.heads, layer=given.layer, sizes=given.sizes, backend=backend, arguments=static
    )
    start = time.perf_counter()
    lse: Tensor | None = None
    if program.normalizer.kind == "softmax":
        out, lse = op(q, k, v, return_lse=True, inputs=inputs)
    else:  # Only a softmax has one.
        out = op(q, k, v, inputs=inputs)
    forward_s = time.perf_counter() - start
    start = time.perf_counter()
    torch.autograd.backward((out * tensors[3]).sum())
    backward_s = time.perf_counter() - start
    results = {"output": out.detach()} if lse is None else {"output": out.detach(), "lse": lse.detach()}
    learned = {n: x for n, x in inputs.items() if getattr(x, "requires_grad", False)}
    for what, x in {"q": q, "k": k, "v": v, **learned}.items():
        if x.grad is not None:
            results[f"grad {what}"] = x.grad
    row, _ = choose(backend, program, Request(device=q.device.type, dtype=str(q.dtype).removeprefix("torch.")))
    return row.name, results, forward_s, backward_s


def arguments_of(program: Program, given: Setting, like: Tensor) -> tuple[dict[str, Any], dict[str, Any]]:
    """The values that compiling takes, and those of the call; float inputs as tensors that learn."""
    import torch

    static: dict[str, Any] = {}
    inputs: dict[str, Any] = {}
    for p in program.params:
        if p.name not in given.values:
            continue
        value = given.values[p.name]
        if p.when == "compile":
            static[p.name] = value
        elif p.type is Type.FLOAT:
            inputs[p.name] = torch.as_tensor(value, dtype=like.dtype, device=like.device).clone().requires_grad_()
        else:
            inputs[p.name] = value
    return static, inputs


def _error(result: Tensor, expected: Tensor) -> float:
    """Infinities must agree exactly; the rest counts relative to the largest finite value expected."""
    import torch

    result = result.to("cpu", torch.float64)
    finite = torch.isfinite(expected)
    if not torch.equal(result[~finite], expected[~finite]):
        return float("inf")
    if not finite.any():
        return 0.0
    largest = max(float(expected[finite].abs().max()), 1e-30)
    error = float((result[finite] - expected[finite]).abs().max()) / largest
    return error if error == error else float("inf")
