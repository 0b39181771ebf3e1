"""From what a caller gives for a parameter to the value that a binding holds, or to a message."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import numpy as np

from maskc.arguments import shown
from maskc.diagnostics import fail
from maskc.ir.nodes import Type
from maskc.ir.text import declaration
from maskc.tiles.inputs import extremes, intern

if TYPE_CHECKING:
    import numpy.typing as npt

    from maskc.ir.program import Parameter, Space

    Array = npt.NDArray[np.generic]

__all__ = [
    "check_complete",
    "check_values",
    "declaration",
    "fail",
    "integers",
    "is_torch",
    "no_such_name",
    "scalar_value",
    "suggestion",
    "table_value",
    "to_numpy",
]

_INT64 = np.iinfo(np.int64)
_KINDS = {Type.INT: "iu", Type.BOOL: "b", Type.FLOAT: "fiu"}
_PLURAL = {Type.INT: "integers", Type.BOOL: "Booleans", Type.FLOAT: "floats"}


def suggestion(name: str, known: Mapping[str, object] | list[str] | tuple[str, ...]) -> str | None:
    """The hint for an unknown name: the nearest known one, or all of them."""
    close = get_close_matches(name, list(known), 1) if isinstance(name, str) else []
    if close:
        return f"did you mean {close[0]!r}?"
    return f"there are: {', '.join(known)}" if known else None


#: Arguments of other attention functions whose work the pattern does.
_SAID_BY_PATTERN = ("attn_mask", "block_mask", "causal", "is_causal", "mask", "mask_mod", "score_mod", "window_size")


#: Arguments of others that compile for one length, or one device.
_SAID_BY_CALL = ("BLOCK_SIZE", "Q_LEN", "KV_LEN", "device", "seq_len", "max_seq_len")


def no_such_name(name: str, known: list[str], spaces: tuple[Space, ...] = ()) -> str:
    """The hint for an argument or input that a pattern does not declare. ``spaces``: those of the pattern."""
    if name in {e.name for space in spaces for s in space.segments for e in s.extents}:
        return f'the extents of axes and segments are sizes: sizes={{"{name}": ...}}'
    if name in _SAID_BY_PATTERN:
        return "the pattern itself says which keys are kept, and what becomes of scores"
    if name == "enable_gqa":
        return "leave it out: which heads share keys follows from the shapes of q and k"
    if name in _SAID_BY_CALL:
        return "leave it out: lengths and the device follow from q and k of each call"
    return suggestion(name, known) or "it takes none"


def is_torch(value: object) -> bool:
    """Whether ``value`` is a torch tensor; torch is not imported to find out."""
    return any(c.__module__ == "torch" and c.__name__ == "Tensor" for c in type(value).__mro__)


def to_numpy(name: str, value: Any) -> Array:
    """An array of whatever the caller gave: a NumPy array, a torch tensor, nested lists, a number.

    Floats come out as float64. Raises E503, E504 where an integer does not fit 64 bits, E505, and E512 for a tensor
    that holds no values.
    """
    if is_torch(value):
        value = _from_torch(name, value)
    check_complete(name, value)
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise fail("E505", f"{name}: the lists do not form an array ({error})") from None
    large = next((x for x in array.flat if _too_large(x)), None) if array.dtype.kind == "O" else None
    if large is not None:
        raise fail("E504", f"{name}: {shown(large)} is too large: integers have 64 bits")
    if array.dtype.kind not in "biufU":
        has_dtype = array.dtype.kind != "O" or isinstance(value, np.ndarray)
        what = f"dtype {array.dtype}" if has_dtype else shown(value)
        raise fail("E503", f"{name}: expected numbers, an array or a tensor, found {what}")
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def _from_torch(name: str, value: Any) -> Any:
    import torch

    if value.is_nested or value.layout != torch.strided or value.is_quantized:
        if value.is_nested:
            what, how = "a nested one", "to_padded_tensor(0)"
        else:
            what = "a quantised one" if value.is_quantized else f"one of the layout {value.layout}"
            how = "dequantize()" if value.is_quantized else "to_dense()"
        raise fail("E503", f"{name}: expected a dense tensor, found {what}", f"convert: {name}.{how}")
    check_values(name, value)
    value = unwrapped(name, value)
    with torch._C._DisableFuncTorch():
        value = value.detach().cpu()
        return (value.double() if value.is_floating_point() else value).numpy()


def unwrapped(name: str, tensor: Any) -> Any:
    """What transforms of ``torch.func`` have wrapped, of an input that the mask reads. Raises E503 under ``vmap``."""
    import torch

    func = torch._C._functorch
    while func.is_functorch_wrapped_tensor(tensor):
        if func.is_batchedtensor(tensor):
            hint = "map over q, k, v and the inputs of scores, or call the op once for each entry"
            raise fail("E503", f"{name}: the mask reads this input, and torch.func.vmap hides what it holds", hint)
        tensor = func.get_unwrapped(tensor)
    return tensor


def check_complete(name: str, value: Any) -> None:
    """Raises E503 for a masked array of NumPy's in which values are missing."""
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise fail("E503", f"{name}: values are missing in a masked array", f"fill them in: {name}.filled(...)")


def check_values(name: str, tensor: Any) -> None:
    """Raises E512 for a tensor of torch that holds no values, and E503 for one that keeps them to itself, as those that
    wrap others do."""
    import torch

    from maskc.devices import holds_values

    if not holds_values(tensor):
        if tensor.is_meta:
            raise fail("E512", f"{name} is on meta, where a tensor holds no values", "give it on the device of q")
        hint = "give one that is made outside of FakeTensorMode"
        raise fail("E512", f"{name} is a fake tensor, which holds no values", hint)
    kind: Any = type(tensor)
    if kind.__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        hint = "give the tensor that it wraps: of a DTensor x.full_tensor()"
        raise fail("E503", f"{name}: expected a plain tensor, found {shown(tensor)}", hint)


def _too_large(x: object) -> bool:
    return isinstance(x, int) and not _INT64.min <= x < 1 << 64


def scalar_value(p: Parameter, value: Any) -> bool | int | float:
    """The value of a scalar parameter. Raises E303, E503, E504 and E505."""
    if p.labels and isinstance(value, str):
        return _label(p, value)
    if isinstance(value, str) or value is None:
        raise fail("E503", f"{declaration(p)}: expected {_wanted(p)}, found {shown(value)}")
    if p.type is Type.FLOAT and is_torch(value) and _is_learned(value):
        hint = f"declare it as a table, `{p.name}: float[1]`, and read `{p.name}[0]`; or give {p.name}.item()"
        raise fail("E503", f"{declaration(p)}: the value requires a gradient, which an argument does not receive", hint)
    array = to_numpy(p.name, value)
    if array.ndim:
        raise fail("E505", f"{declaration(p)}: expected one value, found an array of shape {array.shape}")
    return typed(p, array).item()  # type: ignore[no-any-return]


def _is_learned(value: Any) -> bool:
    import torch

    return bool(torch.is_grad_enabled() and value.requires_grad)


def table_value(p: Parameter, value: Any) -> Array:
    """The values of a table or input, of any shape, as int64, bool or float64. Raises E303, E503, E504."""
    return typed(p, to_numpy(p.name, value))


def typed(p: Parameter, array: Array) -> Array:
    """``array`` in the parameter's type, its values checked."""
    if array.dtype.kind == "U" and p.labels:
        found = {str(x): _label(p, str(x)) for x in np.unique(array)}
        array = np.array([found[x] for x in array.flat], np.int64).reshape(array.shape)
    if array.size and array.dtype.kind not in _KINDS[p.type]:
        raise fail("E503", f"{declaration(p)}: expected {_wanted(p)}, found {_found(array)}", _remedy(p, array))
    if array.dtype == np.uint64:
        _check_range(p, array)  # before the conversion wraps it
    dtype = {Type.BOOL: np.bool_, Type.FLOAT: np.float64, Type.INT: np.int64}[p.type]
    array = intern(array, dtype)
    if p.type is Type.INT:
        _check_range(p, array)
    return array


def _check_range(p: Parameter, array: Array) -> None:
    if not array.size:
        return
    low, high = (0, len(p.labels)) if p.labels else (p.low, p.high)
    low = _INT64.min if low is None else low
    high = _INT64.max + 1 if high is None else high
    least, most = extremes(array)
    wrong = least if least < low else most if most >= high else None
    if wrong is None:
        return
    where = ""
    if array.ndim:
        index = tuple(int(i) for i in np.argwhere(array == wrong)[0])
        where = f" at {list(index)}"
    bounds = f"between {low} and {high - 1}" if low != _INT64.min and high <= _INT64.max else _one_bound(low, high)
    raise fail("E504", f"{declaration(p)}: expected values {bounds}, found {wrong}{where}")


def _one_bound(low: int, high: int) -> str:
    if low != _INT64.min:
        return f"of at least {low}"
    return f"below {high}" if high <= _INT64.max else "that fit 64 bits"


def _label(p: Parameter, text: str) -> int:
    if text in p.labels:
        return p.labels.index(text)
    raise fail("E303", f"{declaration(p)}: {text!r} is none of its values", suggestion(text, p.labels))


def _wanted(p: Parameter) -> str:
    if p.labels:
        return f"one of {', '.join(p.labels)}" if p.is_scalar else f"values out of {', '.join(p.labels)}"
    one = {Type.INT: "an integer", Type.BOOL: "a Boolean", Type.FLOAT: "a float"}
    return one[p.type] if p.is_scalar else _PLURAL[p.type]


def _found(array: Array) -> str:
    kinds = {"b": "Booleans", "i": "integers", "u": "integers", "f": "floats", "U": "strings"}
    return f"{array.item()!r}" if array.ndim == 0 else kinds[array.dtype.kind]


def _remedy(p: Parameter, array: Array) -> str | None:
    if p.type is Type.BOOL and array.dtype.kind in "iu":
        return "write `x != 0`, or convert with `.astype(bool)` or `.bool()`"
    if p.type is Type.INT and array.dtype.kind == "f":
        if array.ndim == 0:
            return "give a whole number"
        return "round it and convert to integers: `.astype(int)` or `.long()`"
    if p.type is Type.INT and array.dtype.kind == "b":
        return "declare it as bool, or convert to integers"
    return None


def integers(name: str, value: Any) -> npt.NDArray[np.int64]:
    """Integers out of a sequence, an array or a tensor. Raises E503, E504 where one does not fit 64 bits, E505."""
    if isinstance(value, list | tuple) and any(isinstance(x, bool | np.bool_) for x in value):
        raise fail("E503", f"{name}: expected integers, found Booleans")
    if isinstance(value, str | bytes) or value is None:
        raise fail("E503", f"{name}: expected integers, found {shown(value)}")
    array = to_numpy(name, value)
    if array.size and array.dtype.kind not in "iu":
        kinds = {"b": "Booleans", "f": "floats", "U": "strings"}
        raise fail("E503", f"{name}: expected integers, found {kinds[array.dtype.kind]}")
    if array.size and array.dtype == np.uint64 and int(array.max()) >= 1 << 63:
        raise fail("E504", f"{name}: {int(array.max())} does not fit 64 bits")
    return array.astype(np.int64)
