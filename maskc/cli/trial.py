"""One call of an op, forward and backward, beside the same call of the reference in float64: at every query, or at
some of them where there are too many pairs."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from maskc.diagnostics import Diagnostic, MaskcError
from maskc.ir.nodes import Type

if TYPE_CHECKING:
    from torch import Tensor

    from maskc.ir.program import Program
    from maskc.op import Op
    from maskc.setting import Setting

__all__ = ["Trial", "arguments_of", "rows_compared", "tolerance", "try_op"]


#: Numbers in one of q, k, v and the output at most: with copies in float64 and gradients a run takes 3 GiB then.
MAX_NUMBERS = 1 << 25
#: Pairs of all heads and batch entries that an op computes at most: on a CPU it takes an hour for these.
MAX_PAIRS = 1 << 32
#: Pairs of the reference at most, which computes all keys of a query: it takes some seconds for these.
_COMPARED = 1 << 25
_LEAST_ROWS = 16  # queries that are compared, however many keys there are


@dataclass(frozen=True)
class Trial:
    """``errors``: by result, the largest absolute error over the largest absolute value of the reference. ``compared``:
    at how many queries. ``not_given``: results that the backend does not give, by name. ``backward_s``: None where
    there are no gradients."""

    backend: str
    q_shape: tuple[int, ...]
    k_shape: tuple[int, ...]
    forward_s: float
    backward_s: float | None
    errors: dict[str, float]
    compared: int = 0
    not_given: tuple[str, ...] = ()

    def data(self) -> dict[str, Any]:
        """As JSON-safe data: an error that is infinite, or of what is no number, is None."""
        times = {"forward_s": self.forward_s, "backward_s": self.backward_s}
        shapes = {"q_shape": list(self.q_shape), "k_shape": list(self.k_shape)}
        errors = {what: error if math.isfinite(error) else None for what, error in self.errors.items()}
        looked_at = {"queries_compared": self.compared, "not_compared": list(self.not_given)}
        return {"backend": self.backend, **shapes, **times, "errors": errors, **looked_at}


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

    import maskc
    from maskc.checked import reference_at

    shapes = [(batch, given.heads, given.q_len, dim), *[(batch, kv_heads, given.k_len, dim)] * 2]
    _check_count(max(math.prod(shape) for shape in shapes), MAX_NUMBERS, "numbers in a tensor")
    check_device(device, dtype)
    torch.manual_seed(seed)
    q, k, v = (torch.randn(s, dtype=torch.float64).to(device, getattr(torch, dtype)) for s in shapes)
    weight = torch.randn(shapes[0], dtype=torch.float64).to(device, getattr(torch, dtype))
    static, inputs = arguments_of(program, given, q)
    options: dict[str, Any] = {"heads": given.heads, "layer": given.layer, "sizes": given.sizes, "arguments": static}
    op = maskc.compile(program, backend=backend, **options)
    name, gradients, with_lse = _abilities(op, q, kv_heads)
    _check_pairs(program, dataclasses.replace(given, batch=batch), name)

    rows = rows_compared(given.q_len, batch * given.heads * given.k_len, seed)
    at = torch.tensor(rows, dtype=torch.int64)
    # Other queries have no part in the gradients, so that those of all keys and inputs can be compared.
    weight = torch.zeros_like(weight).index_copy_(2, at.to(device), weight.index_select(2, at.to(device)))

    def run(*tensors: Tensor, inputs: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
        return op(*tensors, return_lse=True, inputs=inputs) if with_lse else (op(*tensors, inputs=inputs), None)

    def reference(q: Tensor, k: Tensor, v: Tensor, inputs: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
        floats, rest = op.call_inputs.split(inputs, q, k.shape[2])
        binding = op.bind(q.shape[2], k.shape[2], batch=batch, inputs=rest)
        binding = binding.replace(batched=binding.batched | op.call_inputs.batched(floats))
        out, lse = reference_at(rows, program, binding, q, k, v, floats)
        return out, lse if with_lse else None

    result, forward_s, backward_s = _call(run, (q, k, v, weight), inputs, gradients)
    for what in {"output", "lse"} & result.keys():
        result[what] = result[what].index_select(2, at.to(device))
    exact = [x.to("cpu", torch.float64) for x in (q, k, v, weight.index_select(2, at.to(device)))]
    expected, _, _ = _call(reference, exact, arguments_of(program, given, exact[0])[1], gradients)
    # Who finds that nothing depends on a tensor may leave its gradient out, which then is 0.
    errors = {what: _error(*_both(result.get(what), expected.get(what))) for what in {**expected, **result}}
    missing = (("lse", with_lse or not _has_lse(program)), ("gradients", gradients))
    left_out = tuple(what for what, there in missing if not there)
    return Trial(name, tuple(q.shape), tuple(k.shape), forward_s, backward_s, errors, len(rows), left_out)


def rows_compared(q_len: int, pairs: int, seed: int) -> Sequence[int]:
    """The queries that are compared where the reference computes ``pairs`` pairs for each: all, or as many as it has
    time for, half of them spread evenly from the first to the last, the others drawn at random."""
    count = max(_LEAST_ROWS, _COMPARED // max(1, pairs))
    if count >= q_len:
        return range(q_len)
    half = count // 2
    spread = {i * (q_len - 1) // (half - 1) for i in range(half)}
    drawn = [row for row in random.Random(seed).sample(range(q_len), count) if row not in spread]
    return sorted(spread | {*drawn[: count - half]})


def _call(
    run: Callable[..., tuple[Tensor, Tensor | None]],
    tensors: Sequence[Tensor],
    inputs: dict[str, Any],
    gradients: bool,
) -> tuple[dict[str, Tensor], float, float | None]:
    """Outputs and, if asked for, gradients by name, with the seconds that each of the two took."""
    import torch

    q, k, v = (x.detach().clone().requires_grad_() for x in tensors[:3])
    start = time.perf_counter()
    with torch.set_grad_enabled(gradients):
        out, lse = run(q, k, v, inputs=inputs)
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
    return results, forward_s, backward_s if gradients else None


def _has_lse(program: Program) -> bool:
    """Only a softmax has one."""
    return program.normalizer.kind == "softmax"


def _abilities(op: Op, q: Tensor, kv_heads: int) -> tuple[str, bool, bool]:
    """The backend that computes, and whether it gives gradients and the log-sum-exp. Raises E702."""
    from maskc.backends import Request, choose

    batch, heads, q_len, dim = q.shape
    request = Request(
        device=q.device.type,
        dtype=str(q.dtype).removeprefix("torch."),
        head_dim=dim,
        value_dim=dim,
        q_len=q_len,
        batch=batch,
        heads=heads,
        kv_heads=kv_heads,
        args=tuple(op.compiled.args.items()),
    )
    for gradients, lse in itertools.product((True, False), (True, False)):
        if lse and not _has_lse(op.program):
            continue
        try:
            row, _ = choose(op.backend, op.program, dataclasses.replace(request, needs_grad=gradients, return_lse=lse))
        except MaskcError as error:
            refused = error
        else:
            return row.name, gradients, lse
    raise refused


def _check_pairs(program: Program, given: Setting, backend: str) -> None:
    """Raises E504 where the op would take too long."""
    from maskc.tiles import make_plan

    pairs = (given.batch or 1) * given.heads * given.q_len * given.k_len
    if pairs > MAX_PAIRS and backend != "reference":
        pairs = make_plan(program, given.bind(program)).stats.executed_pairs
    _check_count(pairs, MAX_PAIRS, "pairs")


def _check_count(count: int, most: int, what: str) -> None:
    """Raises E504."""
    if count > most:
        hint = f"at most {most:,} are tried: give fewer with --q, --k, --heads, --batch, --dim"
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
    if not torch.equal(result.masked_fill(finite, 0.0), expected.masked_fill(finite, 0.0)):
        return float("inf")
    if not finite.any():
        return 0.0
    largest = max(float(expected.masked_fill(~finite, 0.0).abs().max()), 1e-30)
    error = float((result - expected).masked_fill(~finite, 0.0).abs().max()) / largest
    return error if error == error else float("inf")
