"""One call of an op, forward and backward, beside the same call of the reference in float64."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from maskc.diagnostics import Diagnostic, MaskcError
from maskc.ir.nodes import Type

if TYPE_CHECKING:
    from torch import Tensor

    from maskc.ir.program import Program
    from maskc.setting import Setting

__all__ = ["Trial", "arguments_of", "tolerance", "try_op"]


#: Numbers in one of q, k, v and the output at most: with copies in float64 and gradients a run takes 3 GiB then.
MAX_NUMBERS = 1 << 25
#: Pairs of all heads and batch entries at most: the reference computes every one of them, and takes an hour for these.
MAX_PAIRS = 1 << 32


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
        """As JSON-safe data: an error that is infinite, or of what is no number, is None."""
        times = {"forward_s": self.forward_s, "backward_s": self.backward_s}
        shapes = {"q_shape": list(self.q_shape), "k_shape": list(self.k_shape)}
        errors = {what: error if math.isfinite(error) else None for what, error in self.errors.items()}
        return {"backend": self.backend, **shapes, **times, "errors": errors}


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

    shapes = [(batch, given.heads, given.q_len, dim), *[(batch, kv_heads, given.k_len, dim)] * 2]
    _check_cost(shapes, batch * given.heads * given.q_len * given.k_len)
    check_device(device, dtype)
    torch.manual_seed(seed)
    q, k, v = (torch.randn(s, dtype=torch.float64).to(device, getattr(torch, dtype)) for s in shapes)
    weight = torch.randn(shapes[0], dtype=torch.float64).to(device, getattr(torch, dtype))
    name, result, forward_s, backward_s = _call(program, given, (q, k, v, weight), backend)
    exact = tuple(x.to("cpu", torch.float64) for x in (q, k, v, weight))
    _, expected, _, _ = _call(program, given, exact, "reference")
    # Who finds that nothing depends on a tensor may leave its gradient out, which then is 0.
    errors = {what: _error(*_both(result.get(what), expected.get(what))) for what in {**expected, **result}}
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
    if out.requires_grad:  # An output expression may be a constant.
        torch.autograd.backward((out * tensors[3]).sum())
    backward_s = time.perf_counter() - start
    results = {"output": out.detach()} if lse is None else {"output": out.detach(), "lse": lse.detach()}
    learned = {n: x for n, x in inputs.items() if getattr(x, "requires_grad", False)}
    for what, x in {"q": q, "k": k, "v": v, **learned}.items():
        if x.grad is not None:
            results[f"grad {what}"] = x.grad
    row, _ = choose(backend, program, Request(device=q.device.type, dtype=str(q.dtype).removeprefix("torch.")))
    return row.name, results, forward_s, backward_s


def _check_cost(shapes: Sequence[tuple[int, ...]], pairs: int) -> None:
    """Raises E504."""
    numbers = max(math.prod(shape) for shape in shapes)
    for count, most, what in ((numbers, MAX_NUMBERS, "numbers in a tensor"), (pairs, MAX_PAIRS, "pairs")):
        if count > most:
            hint = (
                f"at most {most:,} are compared with the reference: give fewer with --q, --k, --heads, --batch, --dim"
            )
            raise MaskcError(Diagnostic("E504", f"this has too many {what} to try: {count:,}", hint=hint))


def check_device(device: str, dtype: str) -> None:
    """Whether tensors can be put there and read back. Raises E503 for what names no device, and E702."""
    import torch

    try:
        place = torch.device(device)
    except RuntimeError:
        hint = "as in --device cpu, --device cuda or --device cuda:1"
        raise MaskcError(Diagnostic("E503", f"--device {device}: there is no such kind of device", hint=hint)) from None
    try:
        torch.zeros(1, dtype=getattr(torch, dtype), device=place).cpu()
    except Exception as error:  # Of many kinds: AssertionError, NotImplementedError, ImportError, torch's own ...
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        hint = "run this where such a device is, or with --device cpu"
        message = f"--device {device}: torch cannot compute with {dtype} there: {reason}"
        raise MaskcError(Diagnostic("E702", message, hint=hint)) from None


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


def _both(result: Tensor | None, expected: Tensor | None) -> tuple[Tensor, Tensor]:
    import torch

    if result is None or expected is None:
        there = result if expected is None else expected
        assert there is not None
        nothing = torch.zeros_like(there)
        return (nothing, there) if result is None else (there, nothing)
    return result, expected


def _error(result: Tensor, expected: Tensor) -> float:
    """Infinities must agree exactly; the rest counts relative to the largest finite value expected."""
    import torch

    result, expected = result.to("cpu", torch.float64), expected.to("cpu", torch.float64)
    finite = torch.isfinite(expected)
    if not torch.equal(result[~finite], expected[~finite]):
        return float("inf")
    if not finite.any():
        return 0.0
    largest = max(float(expected[finite].abs().max()), 1e-30)
    error = float((result[finite] - expected[finite]).abs().max()) / largest
    return error if error == error else float("inf")
