"""maskc: a compiler for attention masks.

    import maskc
    op = maskc.compile("sliding_window(4096) | sinks(4)", heads=32)
    out = op(q, k, v)

Names are loaded when they are first used, so that importing maskc stays cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maskc import nn, parallel, trees  # noqa: F401
    from maskc.compiler import check_assertions, compile, dense_mask
    from maskc.diagnostics import Diagnostic, MaskcError
    from maskc.exports import export
    from maskc.ir.binding import Binding
    from maskc.ir.program import Program
    from maskc.op import Op
    from maskc.pattern import Pattern
    from maskc.reading import load, parse
    from maskc.spec import from_spec, to_spec
    from maskc.tiles.binding import make_binding

__version__ = "0.1.0"

__all__ = [
    "Binding",
    "Diagnostic",
    "MaskcError",
    "Op",
    "Pattern",
    "Program",
    "check_assertions",
    "compile",
    "dense_mask",
    "export",
    "from_spec",
    "load",
    "make_binding",
    "parse",
    "to_spec",
]

#: Where each public name is.
_HOMES = {
    "Binding": "maskc.ir.binding",
    "Diagnostic": "maskc.diagnostics",
    "MaskcError": "maskc.diagnostics",
    "Op": "maskc.op",
    "Pattern": "maskc.pattern",
    "Program": "maskc.ir.program",
    "check_assertions": "maskc.compiler",
    "compile": "maskc.compiler",
    "dense_mask": "maskc.compiler",
    "export": "maskc.exports",
    "from_spec": "maskc.spec",
    "load": "maskc.reading",
    "make_binding": "maskc.tiles.binding",
    "parse": "maskc.reading",
    "to_spec": "maskc.spec",
}


#: Modules that can be used without importing them by name.
_MODULES = ("nn", "parallel", "trees")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"maskc.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'maskc' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*__all__, *_MODULES, *(n for n in globals() if n.startswith("__"))})
