"""From tensors and a plan to the arguments of a kernel, and its start."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from maskc.backends.triton.configs import Config, Target, config
from maskc.backends.triton.expressions import extent_name, table_name
from maskc.backends.triton.loading import load_kernel
from maskc.backends.triton.shares import Joint
from maskc.backends.triton.spec import Kernel
from maskc.diagnostics import fail
from maskc.ir.binding import Binding
from maskc.ir.nodes import Type
from maskc.ir.program import Program
from maskc.knobs import TRITON_INTERPRET

__all__ = [
    "Alignment",
    "DevicePlan",
    "Grid",
    "Job",
    "Prepared",
    "addresses_of",
    "at_once",
    "capturing",
    "current",
    "current_stream",
    "default_config",
    "grid_of",
    "heads_inside",
    "interpreting",
    "launch",
    "on_device",
    "pad",
    "steady",
    "strides",
    "table_arguments",
    "target_of",
    "used_here",
]

Tensor = torch.Tensor
#: How many program instances there are, along each axis.
Grid = tuple[int, int, int]
#: Which addresses are multiples of 16.
Alignment = tuple[bool, ...]
_MOST = 65535  # along all axes but the first


def interpreting() -> bool:
    """Whether Triton's interpreter is on (``TRITON_INTERPRET=1``)."""
    return TRITON_INTERPRET.value()


def target_of(device: torch.device) -> Target | None:
    """The chip of a device; None: the interpreter."""
    if device.type != "cuda" or interpreting():
        return None
    if torch.version.hip is not None:
        return Target("hip", torch.cuda.get_device_properties(device).gcnArchName.split(":")[0])
    major, minor = torch.cuda.get_device_capability(device)
    return Target("cuda", 10 * major + minor)


def pad(dim: int) -> int:
    """The width that a head dimension is computed with: a power of two of at least 16."""
    return max(16, 1 << (dim - 1).bit_length())


def grid_of(rows: int, heads: int, batch: int) -> tuple[Grid, bool]:
    """The grid of a kernel that has an instance for each, and whether it is flat: one axis for all."""
    flat = max(heads, batch) > _MOST
    return ((rows * heads * batch, 1, 1) if flat else (rows, heads, batch)), flat


def at_once(chosen: Config, element_size: int, target: Target | None) -> int:
    """Elements that a program instance loads with one instruction, 16 bytes a thread; but as many as the widest token
    has. ``element_size``: bytes of one."""
    threads = chosen.warps * (32 if target is None else target.warp_size)
    return max(256, threads * 16 // element_size)


@dataclass(frozen=True, eq=False)
class DevicePlan:
    """A ``KernelPlan`` on a device, with the configuration that it was made for. ``joint``: where the rows belong that
    are cut into shares. ``partial``: whether there are partial tiles."""

    arguments: dict[str, Any]
    config: Config
    rows: int
    joint: Joint | None = None
    partial: bool = True
    streams: set[int] = field(default_factory=set)


def on_device(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """A copy on the device. Raises RuntimeError while a CUDA graph is captured: what is copied then is known from an
    earlier call, or the graph would hold a copy from memory that may be gone."""
    if capturing(device):
        raise RuntimeError("call the maskc op once with these lengths and inputs before a CUDA graph is captured")
    return torch.from_numpy(array).to(device)


def capturing(device: torch.device | None = None) -> bool:
    """Whether a CUDA graph is being captured from the current stream of ``device``; None: of the current one."""
    asked = torch.cuda.is_initialized() if device is None else device.type == "cuda"  # type: ignore[no-untyped-call]
    if not asked:
        return False
    with contextlib.nullcontext() if device is None else current(device):
        return torch.cuda.is_current_stream_capturing()


def used_here(arguments: Mapping[str, Any], streams: set[int], device: torch.device) -> int | None:
    """Note that the current stream reads tensors that are kept between calls, so that their memory is not given to
    anybody while it still does. ``streams``: those for which that was done. Returns the stream, as drivers call it;
    None on the CPU."""
    if device.type != "cuda":
        return None
    stream = current_stream(device)
    if stream not in streams:
        streams.add(stream)
        for x in arguments.values():
            if isinstance(x, Tensor):
                x.record_stream(torch.cuda.current_stream(device))
    return stream


def current_stream(device: torch.device) -> int:
    """The current stream of a GPU, as drivers call it: what Triton itself asks, without an object made for it."""
    index = torch.cuda.current_device() if device.index is None else device.index
    return int(torch._C._cuda_getCurrentRawStream(index))


def table_arguments(
    program: Program, binding: Binding, floats: Mapping[str, Tensor], names: tuple[str, ...], device: torch.device
) -> dict[str, Any]:
    """Pointers and extents of the tables called ``names``. ``floats`` come first. Raises MaskcError: E702 for integers
    beyond 32 bits, which kernels do not read."""
    out: dict[str, Any] = {}
    for name in names:
        if name in floats:
            tensor = floats[name].contiguous()
        else:
            array = np.asarray(binding.tables[name])
            if program.parameter(name).type is Type.FLOAT:
                tensor = on_device(np.ascontiguousarray(array, np.float32), device)
            elif array.dtype == np.bool_:
                tensor = on_device(array.astype(np.int8), device)
            else:
                if array.size and not -(1 << 31) <= int(array.min()) <= int(array.max()) < 1 << 31:
                    message = (
                        f"the backend 'triton' cannot compute {program.name!r}: {name!r} holds integers beyond 32 bits"
                    )
                    raise fail("E702", message, "number the values anew from 0, or use another backend")
                tensor = on_device(np.ascontiguousarray(array, np.int32), device)
        if tensor.numel() == 0:
            # Every look-up in it is clamped to the one element that kernels may read: 0.
            tensor = tensor.new_zeros((1,) * tensor.ndim)
        out[table_name(name, program.params)] = tensor
        for d, extent in enumerate(tensor.shape):
            out[extent_name(name, d, program.params)] = int(extent)
    return out


def strides(name: str, tensor: Tensor) -> dict[str, int]:
    """The strides of a (B, H, N, D) tensor as arguments."""
    return {f"{name}_s{axis}": int(s) for axis, s in zip("bhnd", tensor.stride(), strict=True)}


def heads_inside(q: Tensor, width: int) -> Tensor:
    """An empty (B, H, N, width) tensor stored as (B, N, H, width), as the layer that follows wants it."""
    batch, heads, rows, _ = q.shape
    order = (max(1, rows) * heads * width, width, heads * width, 1)
    return torch.empty_strided((batch, heads, rows, width), order, dtype=q.dtype, device=q.device)


def steady(*tensors: Tensor) -> bool:
    """Whether a token is no farther from the next one than a batch entry is: then how far does not depend on the number
    of either, and may be a constant of a kernel. It does in (token, batch, head, dim)."""
    return all(x.shape[0] == 1 or x.stride(2) <= x.stride(0) for x in tensors)


@dataclass(frozen=True)
class Job:
    """A kernel, how many instances it has, and what they are started with."""

    kernel: Kernel
    grid: Grid
    values: Mapping[str, Any]
    config: Config
    device: torch.device

    @property
    def given(self) -> dict[str, Any]:
        """The arguments by name."""
        return {a.name: self.values[a.name] for a in self.kernel.arguments}


def launch(kernel: Kernel, grid: Grid, values: Mapping[str, Any], chosen: Config, device: torch.device) -> Any:
    """Start the instances of ``kernel`` on the current stream of ``device``. Returns what Triton compiled for such
    arguments; None if nothing was."""
    if 0 in grid:
        return None
    function = load_kernel(kernel, interpret=interpreting())
    given = Job(kernel, grid, values, chosen, device).given
    with current(device):
        return function[grid](**given, num_warps=chosen.warps, num_stages=chosen.stages)


def current(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """What makes ``device`` the current one."""
    if device.type != "cuda" or device.index == torch.cuda.current_device():
        return contextlib.nullcontext()
    return torch.cuda.device(device)


class Prepared:
    """A kernel with the arguments that all calls share; each call brings tensors of the same shapes, strides and
    dtypes, and floats.

    Triton looks at every argument of every call to find the code that it compiled for such ones, which takes longer
    than many a kernel runs. What it finds depends on integers, dtypes and the alignment of addresses alone. So here
    it is asked once for each alignment, and what it gave is started from then on.

    Attributes:
        grid: how many instances there are.
        codes: what was compiled, by how addresses are aligned: how it is started, with what, and the places of what
            calls bring.
    """

    def __init__(
        self, kernel: Kernel, grid: Grid, shared: Mapping[str, Any], chosen: Config, device: torch.device
    ) -> None:
        self._kernel, self.grid, self._chosen, self._device = kernel, grid, chosen, device
        self._shared = {a.name: shared[a.name] for a in kernel.arguments if a.name in shared}
        self._tensors = [a.name for a in kernel.arguments if a.name not in shared and a.kind != "float"]
        self._streams: set[int] = set()
        self.codes: dict[Alignment, tuple[Callable[..., Any], list[Any], list[tuple[int, str]]]] = {}

    def start(self, tensors: Mapping[str, Tensor], floats: Mapping[str, float]) -> None:
        """Start it on the current stream. Of ``tensors`` and ``floats`` it takes the arguments that it has."""
        self.start_at(addresses_of({name: tensors[name] for name in self._tensors}), tensors, floats)

    def job(self, tensors: Mapping[str, Tensor], floats: Mapping[str, float]) -> Job:
        """What is started with such tensors, to be compiled before."""
        return Job(self._kernel, self.grid, {**self._shared, **tensors, **floats}, self._chosen, self._device)

    def start_at(
        self, addresses: tuple[dict[str, int], Alignment], tensors: Mapping[str, Tensor], floats: Mapping[str, float]
    ) -> None:
        """``start``, with the addresses of all tensors: for several kernels of the same ones."""
        stream = used_here(self._shared, self._streams, self._device)
        places_of, aligned = addresses
        found = self.codes.get(aligned)
        if found is None:
            values = {**self._shared, **tensors, **floats}
            code = launch(self._kernel, self.grid, values, self._chosen, self._device)
            if hasattr(code, "result"):  # where the caller has Triton compile in threads, it stands for the code
                code = code.result()
            if code is not None:
                self.codes[aligned] = (code[self.grid], *self._arguments(code))
            return
        run, arguments, places = found
        arguments = arguments.copy()
        for i, name in places:
            arguments[i] = floats[name] if name in floats else places_of[name]
        if stream is None:
            run(*arguments)
            return
        with current(self._device):
            run(*arguments, stream=stream)

    def _arguments(self, code: Any) -> tuple[list[Any], list[tuple[int, str]]]:
        """The arguments in the order in which compiled code takes them, tensors by their addresses; and the places of
        those that calls bring. Some versions of Triton also hand over what was constant when compiling."""
        every = "constexpr" in code.src.signature.values()
        names = [a.name for a in self._kernel.arguments if every or a.kind != "constexpr"]
        values = [self._shared.get(name) for name in names]
        plain = [x.data_ptr() if isinstance(x, Tensor) else x for x in values]
        return plain, [(i, name) for i, name in enumerate(names) if name not in self._shared]


def addresses_of(tensors: Mapping[str, Tensor]) -> tuple[dict[str, int], Alignment]:
    """Where tensors lie, by name."""
    found = {name: x.data_ptr() for name, x in tensors.items()}
    return found, tuple([not address & 15 for address in found.values()])


def default_config(
    stage: str, device: torch.device, head_dim: int, value_dim: int, dtype: torch.dtype, pair_values: int
) -> Config:
    """The configuration for a call; ``pair_values`` as in ``config``."""
    width = max(pad(head_dim), pad(value_dim))
    return config(stage, target_of(device), width, str(dtype).removeprefix("torch."), pair_values)
