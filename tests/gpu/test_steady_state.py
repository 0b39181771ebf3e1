"""Calls after the first: nothing is copied to the device or waited for, whatever the stream, so that CUDA graphs can
hold them. Tried with tensors on a device that cannot compute, and on a GPU where there is one."""

from __future__ import annotations

import gc
import sys
import weakref
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import maskc
from maskc.backends import triton as backend
from maskc.backends.triton import launch as launch_module
from maskc.backends.triton import pulling as pulling_module
from maskc.backends.triton import serving as serving_module
from maskc.backends.triton import spec as spec_module
from maskc.backends.triton import staged as staged_module
from maskc.backends.triton.configs import Config
from maskc.backends.triton.entry import Entry
from maskc.lower import lower_text
from maskc.steps import call_of
from maskc.tiles.binding import bind
from tests.gpu.cases import CASES

DEVICE = torch.device("meta")  # of tensors without elements: whoever wants to know one fails
NAMES = [
    "causal",
    "documents",
    "sink-and-gate",
    "alibi",
    "score-inputs",
    "by-layer",
    "sigmoid",
    "decode-by-head",
    "decode-listed",
    "decode-inputs",
    "decode-grid",
    "decode-sigmoid",
    "grid",
]
CONSTANTS = "pattern p(mark: int[token]) { attend causal\n normalize softmax(sink = 0.5 + mark[q])\n output o * 2.0 }"


class Watch(TorchDispatchMode):
    """Fails on what would make the host wait for the device, or copy to it."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(function)
        assert not name.startswith(("aten._local_scalar_dense", "aten.nonzero", "aten.item", "aten.equal")), name
        out = function(*args, **(kwargs or {}))
        before = [x for x in args if isinstance(x, torch.Tensor)]
        if before and isinstance(out, torch.Tensor):
            assert {x.device.type for x in before if x.ndim} <= {out.device.type}, f"{name} copies to the device"
        return out


def recorded(monkeypatch: pytest.MonkeyPatch, capturing: bool = False) -> list[tuple[str, Any]]:
    """The launches to come, which are not made."""
    launches: list[tuple[str, Any]] = []

    def launch(kernel: Any, grid: Any, values: Any, chosen: Config, device: torch.device) -> None:
        missing = {a.name for a in kernel.arguments} - set(values)
        assert not missing, missing
        tensors = [x for x in values.values() if isinstance(x, torch.Tensor)]
        assert {x.device for x in tensors} == {device}
        launches.append((kernel.name, {a.name: values[a.name] for a in kernel.arguments}))

    monkeypatch.setattr(pulling_module, "launch", launch)
    monkeypatch.setattr(launch_module, "launch", launch)
    monkeypatch.setattr(staged_module, "used_here", lambda *args: None)
    monkeypatch.setattr(launch_module, "used_here", lambda *args: None)
    monkeypatch.setattr(launch_module, "capturing", lambda device: capturing)
    return launches


def entry_of(name: str) -> tuple[Entry, list[torch.Tensor], list[torch.Tensor]]:
    case = CASES[name]
    program = lower_text(case.text)[0]
    values = {n: np.asarray(x) for n, x in case.inputs.items()}
    sizes: dict[str, Any] = {"heads": case.heads, "layer": case.layer, "batch": case.batch, "sizes": case.sizes}
    binding = bind(program, case.q_len, case.k_len, **sizes, values=values)
    batched = {n for n, shape in case.floats.items() if len(shape) > len(program.parameter(n).domain)}
    configs = {s: Config(16, 16, 4, 1) for s in ("forward", "dq", "dkv", "decode", "pairs")}
    binding = binding.replace(batched=binding.batched | batched)
    entry = Entry(program, binding, tuple(case.floats), configs=configs, splits=case.splits)
    shapes = [(case.heads, case.q_len, case.dim), (case.kv_heads, case.k_len, case.dim)]
    shapes.append((case.kv_heads, case.k_len, case.value_dim))
    tensors = [torch.empty(case.batch, *shape, device=DEVICE, dtype=torch.float16) for shape in shapes]
    return entry, tensors, [torch.empty(shape, device=DEVICE) for shape in case.floats.values()]


def call(entry: Entry, tensors: list[torch.Tensor], floats: list[torch.Tensor], backward: bool) -> None:
    out, lse, plain = entry.forward(*tensors, floats, 0.2)  # type: ignore[misc]
    if backward:
        result = out if entry.plain_output else plain
        entry.backward(*tensors, floats, result, lse, out, None, 0.2)  # type: ignore[misc]


@pytest.mark.parametrize("name", NAMES)
def test_second_calls_copy_nothing_and_wait_for_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    decodes = CASES[name].splits is not None
    launches = recorded(monkeypatch)
    entry, tensors, floats = entry_of(name)
    call(entry, tensors, floats, not decodes)
    count = len(launches)
    assert [n for n, _ in launches] == ["attention_cached", "attention_merge"] if decodes else count >= 3
    monkeypatch.setattr(torch, "from_numpy", None)
    monkeypatch.setattr(torch, "as_tensor", _only_tensors)
    with Watch():
        call(entry, tensors, floats, not decodes)
    assert [n for n, _ in launches[count:]] == [n for n, _ in launches[:count]]
    made = [n for n, x in launches[0][1].items() if isinstance(x, torch.Tensor)]
    kept = [n for n in made if n.endswith(("_first", "_of")) or n in ("lengths", "starts", "tiles", "plan_of")]
    assert kept
    assert all(launches[count][1][n] is launches[0][1][n] for n in kept)


def _only_tensors(value: Any, *, device: Any = None) -> Any:
    assert isinstance(value, torch.Tensor), f"{value!r} would be copied to the device"
    return value


def test_constants_and_tables_of_sinks_and_outputs_are_copied_once(monkeypatch: pytest.MonkeyPatch) -> None:
    program = lower_text(CONSTANTS)[0]
    binding = bind(program, 2, 40, heads=2, layer=0, batch=1, sizes={}, values={"mark": np.zeros(40, np.int64)})
    recorded(monkeypatch)
    entry = Entry(program, binding, (), configs={"decode": Config(16, 16, 4, 1)}, splits=2)
    tensors = [torch.empty(1, 2, n, 16, device=DEVICE) for n in (2, 40, 40)]
    call(entry, tensors, [], False)
    monkeypatch.setattr(torch, "from_numpy", None)
    monkeypatch.setattr(torch, "as_tensor", _only_tensors)
    with Watch():
        call(entry, tensors, [], False)


def test_a_first_call_while_a_graph_is_captured_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded(monkeypatch, capturing=True)
    entry, tensors, floats = entry_of("causal")
    with pytest.raises(RuntimeError, match=r"call the maskc op once .* before a CUDA graph is captured"):
        call(entry, tensors, floats, False)


def test_plans_that_a_graph_reads_are_kept_as_long_as_the_op(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many lengths are met after it was captured; other plans are not."""
    ops = [maskc.compile("causal", heads=2, backend="triton")]

    def met(capturing: bool, length: int) -> weakref.ref[Any]:
        monkeypatch.setattr(backend, "capturing", lambda: capturing)
        return weakref.ref(backend.entry_for(ops[0].compiled, ops[0].bind(length, length), ()))

    captured, other = met(True, 8), met(False, 9)
    for length in range(100, 150):
        met(False, length)
    gc.collect()
    assert captured() is not None
    assert other() is None
    ops.clear()
    gc.collect()
    assert captured() is None


def _step(op: Any, batch: int, lengths: torch.Tensor | None = None) -> None:
    """A step of decoding over caches on a device, whose lengths are there too, or given."""
    q, k = torch.empty(batch, 4, 1, 16, device=DEVICE), torch.empty(batch, 2, 64, 16, device=DEVICE)
    held = torch.empty(batch, dtype=torch.int32, device=DEVICE) if lengths is None else lengths
    serving_module.decode(call_of(op, (q, k, k, held, None, None), {}, {}, None), "ieee")


def test_tables_that_a_graph_of_decoding_reads_are_kept_as_long_as_the_op(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[weakref.ref[torch.Tensor]] = []

    def launch(kernel: Any, grid: Any, values: Any, *rest: Any) -> None:
        if kernel.name == "attention_cached":
            read.extend(weakref.ref(values[a.name]) for a in kernel.arguments if a.table == "w")

    monkeypatch.setattr(launch_module, "launch", launch)
    monkeypatch.setattr(serving_module, "_PREPARED", 2)
    text = "pattern p(w: int[head]) { attend causal & q - k < w[h] }"
    op = maskc.compile(text, heads=4, w=[1, 2, 3, 4], backend="triton")
    monkeypatch.setattr(serving_module, "capturing", lambda device: True)
    _step(op, 1)
    monkeypatch.setattr(serving_module, "capturing", lambda device: False)
    table = read[0]
    for length in range(100, 150):  # as prompts that are read between the steps
        backend.entry_for(op.compiled, op.bind(length, length), ())
    for batch in range(2, 6):
        _step(op, batch)
    gc.collect()
    assert table() is not None


def test_lengths_on_the_host_are_not_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded(monkeypatch)
    op = maskc.compile("causal", heads=4, backend="triton")
    _step(op, 2, torch.tensor([3, 4]))
    monkeypatch.setattr(serving_module, "capturing", lambda device: True)
    with pytest.raises(RuntimeError, match=r"lengths and start on the device while a CUDA graph is captured"):
        _step(op, 2, torch.tensor([3, 4]))


def test_launches_are_made_on_the_tensors_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The current device may be another one."""
    current = [0]

    class Guard:
        def __init__(self, device: torch.device) -> None:
            self.index = device.index

        def __enter__(self) -> None:
            current.append(self.index)

        def __exit__(self, *_: object) -> None:
            current.pop()

    class Function:
        def __getitem__(self, grid: tuple[int, int, int]) -> Any:
            return lambda **given: seen.append((grid, current[-1]))

    seen: list[Any] = []
    monkeypatch.setattr(torch.cuda, "device", Guard)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current[-1])
    monkeypatch.setattr(launch_module, "load_kernel", lambda kernel, interpret: Function())
    kernel = spec_module.Kernel("f", "", ())
    launch_module.launch(kernel, (7, 1, 1), {}, Config(16, 16, 4, 1), torch.device("cuda", 1))
    assert seen == [((7, 1, 1), 1)]
    assert current == [0]


@pytest.mark.parametrize("later", [True, False], ids=["in-threads", "at-once"])
@pytest.mark.parametrize("constants", [True, False], ids=["with-constants", "without"])
def test_compiled_code_is_started_without_asking_triton_again(
    constants: bool, later: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only addresses that are aligned in another way, and other numbers, are Triton's business."""
    asked: list[int] = []
    started: list[Any] = []

    class Code:
        class src:
            signature = (
                {"x_ptr": "*fp16", "n": "i32", "D": "constexpr"} if constants else {"x_ptr": "*fp16", "n": "i32"}
            )

        def __getitem__(self, grid: tuple[int, int, int]) -> Any:
            return lambda *arguments: started.append((grid, arguments))

    class Future:
        def result(self) -> Code:
            return Code()

    def launch(kernel: Any, grid: Any, values: Any, chosen: Config, device: torch.device) -> Code | Future:
        asked.append(values["x_ptr"].data_ptr() % 16)
        return Future() if later else Code()

    monkeypatch.setattr(launch_module, "launch", launch)
    kinds = {"x_ptr": "data", "n": "int", "plan": "int32", "scale": "float", "D": "constexpr"}
    kernel = spec_module.Kernel("f", "", tuple(spec_module.Argument(*a) for a in kinds.items()))
    plan, x = torch.zeros(4, dtype=torch.int32), torch.zeros(64, dtype=torch.float16)
    ready = launch_module.Prepared(kernel, (7, 1, 1), {"n": 5, "plan": plan, "D": 64}, Config(16, 16, 4, 1), x.device)
    for tensor, scale in ((x, 0.5), (x[8:], 0.25), (x[1:], 0.5), (x[9:], 2.0)):
        ready.start({"x_ptr": tensor, "unused_ptr": tensor}, {"scale": scale})
    assert asked == [0, 2]
    more = (64,) if constants else ()
    assert started == [
        ((7, 1, 1), (x.data_ptr() + 16, 5, plan.data_ptr(), 0.25, *more)),
        ((7, 1, 1), (x.data_ptr() + 18, 5, plan.data_ptr(), 2.0, *more)),
    ]


def test_memory_is_kept_for_every_stream_that_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Kept(torch.Tensor):
        def record_stream(self, stream: Any) -> None:
            told.append(stream)

    told: list[int] = []
    current = [1]
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current[-1])
    monkeypatch.setattr(launch_module, "current_stream", lambda device: current[-1])
    kept, streams = {"plan": Kept(), "rows": 3}, set[int]()
    for number in (1, 1, 2, 1, 2):
        current.append(number)
        assert launch_module.used_here(kept, streams, torch.device("cuda", 0)) == number
    assert told == [1, 2]


@pytest.mark.parametrize(
    ("kind", "forward", "backward"), [("plain", 100, 0), ("decoding", 100, 0), ("gradients", 118, 125)]
)
def test_a_call_after_the_first_is_little_work_for_the_host(
    kind: str, forward: int, backward: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Functions called, by Python, until the kernels are with the driver: what short passes wait for."""

    class Code:
        class src:
            signature: dict[str, str] = {}  # noqa: RUF012

        def __getitem__(self, grid: tuple[int, int, int]) -> Any:
            return lambda *arguments: started.append(grid)

    started: list[Any] = []
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(launch_module, "launch", lambda *given: Code())
    op = maskc.compile("sliding_window(64)", heads=4, backend="triton")
    learns, queries = kind == "gradients", 1 if kind == "decoding" else 256
    q, k, v = (torch.zeros(1, h, n, 64, requires_grad=learns) for h, n in ((4, queries), (2, 2048), (2, 2048)))

    def calls(run: Any) -> tuple[Any, int]:
        seen = [0]
        sys.setprofile(lambda frame, event, argument: seen.__setitem__(0, seen[0] + (event == "call")))
        try:
            return run(), seen[0]
        finally:
            sys.setprofile(None)

    for _ in range(3):
        started.clear()
        out, one = calls(partial(op, q, k, v))
        grads, other = calls(partial(torch.autograd.grad, out, (q, k, v), torch.ones_like(out))) if learns else ((), 0)
    assert len(started) == (5 if learns else 2)
    assert len(grads) == 3 * learns
    assert one < forward
    assert other < backward or not learns


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@needs_gpu
@pytest.mark.parametrize("text", ["causal & window(64)", "pattern p { attend causal\n normalize softmax(sink = 0.5) }"])
@pytest.mark.parametrize("queries", [1, 300])
def test_cuda_graph(text: str, queries: int) -> None:
    op = maskc.compile(text, heads=4, backend="triton")
    q, k, v = (
        torch.randn(1, h, n, 64, device="cuda", dtype=torch.float16) for h, n in ((4, queries), *[(2, 2048)] * 2)
    )
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        op(q, k, v)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = op(q, k, v)
    for x in (q, k, v):
        x.copy_(torch.randn_like(x))
    graph.replay()
    torch.testing.assert_close(out, op(q, k, v), rtol=0, atol=0)


@needs_gpu
@pytest.mark.parametrize("queries", [1, 256])
def test_a_graph_is_right_after_many_other_lengths(queries: int) -> None:
    """What it reads of plans and tables is kept, though the caches have long had others."""
    op = maskc.compile(
        "pattern p(w: int[head], doc: int[token]) { attend causal & q - k < w[h] & same(doc) }",
        heads=4,
        arguments={"w": [700, 90, 40, 2000]},
        backend="triton",
    )
    q = torch.randn(1, 4, queries, 64, device="cuda", dtype=torch.float16)
    k, v = (torch.randn(1, 2, 1024, 64, device="cuda", dtype=torch.float16) for _ in range(2))
    doc = torch.arange(1024, device="cuda", dtype=torch.int32) // 300
    with torch.no_grad():
        op(q, k, v, doc=doc)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = op(q, k, v, doc=doc)
        for length in range(queries, queries + 80 * 9, 9):
            op(q, *(x[:, :, :length].contiguous() for x in (k, v)), doc=doc[:length].clone())
        torch.full((1 << 26,), -1, device="cuda", dtype=torch.int32)  # over what the allocator got back
        q.copy_(torch.randn_like(q))
        graph.replay()
        again = maskc.compile(op.pattern, heads=4, arguments={"w": [700, 90, 40, 2000]}, backend="triton")
        torch.testing.assert_close(out, again(q, k, v, doc=doc), rtol=0, atol=0)


@needs_gpu
def test_a_call_after_the_first_waits_for_nothing() -> None:
    op = maskc.compile("pattern p(doc: int[token]) { attend causal & same(doc) }", heads=2, backend="triton")
    q, k, v = (torch.randn(1, 2, 2048, 64, device="cuda", dtype=torch.float16, requires_grad=True) for _ in range(3))
    doc = torch.arange(2048, device="cuda") // 700
    op(q, k, v, doc=doc).sum().backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        op(q, k, v, doc=doc).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_devices() -> None:
    op = maskc.compile("causal", heads=2, backend="triton")
    results = []
    for device in ("cuda:0", "cuda:1"):
        torch.manual_seed(0)
        q, k, v = (torch.randn(1, 2, 512, 64).to(device) for _ in range(3))
        results.append(op(q, k, v).cpu())
    torch.testing.assert_close(*results, rtol=0, atol=0)
