"""What is given as ``NAME=VALUE`` on the command line."""

from __future__ import annotations

import json
from collections.abc import Container, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskc.diagnostics import Diagnostic, MaskcError
from maskc.setting import Setting, make_setting

if TYPE_CHECKING:
    from maskc.ir.program import Parameter, Program

__all__ = ["parse_sizes", "parse_values", "setting"]

_ARRAY = "it must hold one array: numpy.save(path, array), or a list in JSON"


def setting(
    programs: Sequence[Program], *, sizes: Sequence[str] = (), args: Sequence[str] = (), **more: Any
) -> Setting:
    """As ``make_setting``, from the texts ``NAME=VALUE`` of the options --size and --arg. Raises MaskcError, with E501
    where a scalar is missing: those are not made up."""
    values = parse_values(programs, args)
    missing = [
        _missing(program, p)
        for program in programs
        for p in program.params
        if p.is_scalar and p.default is None and p.name not in values
    ]
    if missing:
        raise MaskcError(missing)
    return make_setting(programs, sizes=parse_sizes(sizes), values=values, **more)


def _missing(program: Program, p: Parameter) -> Diagnostic:
    from maskc.ir.text import declaration

    hint = f"give it: --arg {p.name}=...; it is declared `{declaration(p)}`"
    return Diagnostic("E501", f"{program.name!r} needs the argument {p.name!r}", hint=hint)


def parse_sizes(texts: Sequence[str]) -> dict[str, int]:
    """``["y=48", "x=80"]`` as a dict. Raises E503, also where a name is there twice."""
    sizes: dict[str, int] = {}
    for text in texts:
        name, value = _split(text, "--size y=48", sizes)
        if not value.isdecimal() or len(value) > 18:
            raise MaskcError(
                Diagnostic("E503", f"--size {text}: expected a number after `=`", hint="as in --size y=48")
            )
        sizes[name] = int(value)
    return sizes


def parse_values(programs: Sequence[Program], texts: Sequence[str]) -> dict[str, Any]:
    """``["window=4", "doc=@doc.npy"]`` as a dict. Raises E502 (no program declares the name), E003, E503 (also where a
    name is there twice)."""
    known = [p.name for program in programs for p in program.params]
    values: dict[str, Any] = {}
    for text in texts:
        name, value = _split(text, "--arg window=4", values)
        if name not in known:
            from maskc.tiles.values import suggestion

            spaces = [space for p in programs for space in (p.q_space, p.k_space)]
            sized = {e.name for space in spaces for s in space.segments for e in s.extents}
            hint = f"as in --size {name}=48" if name in sized else suggestion(name, known) or "it takes none"
            raise MaskcError(Diagnostic("E502", f"the pattern takes no argument called {name!r}", hint=hint))
        values[name] = _read(value[1:]) if value.startswith("@") else _literal(value)
    return values


def _split(text: str, example: str, given: Container[str]) -> tuple[str, str]:
    """Name and value; ``given``: the names before it."""
    name, equals, value = (part.strip() for part in text.partition("="))
    if not (name and equals):
        raise MaskcError(Diagnostic("E503", f"expected NAME=VALUE, found {text!r}", hint=f"as in {example}"))
    if name in given:
        raise MaskcError(Diagnostic("E503", f"{name!r} is given twice", hint="leave out all but one of its values"))
    return name, value


def _literal(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text  # An enumerator's name.
    except RecursionError:
        raise MaskcError(Diagnostic("E503", "a value is nested too deeply", hint=_ARRAY)) from None


def _load(path: str) -> Any:
    """The array of a NumPy file. Raises OSError, and ValueError for all else."""
    import numpy as np

    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError):
        raise
    except Exception as error:  # Whatever NumPy meets in bytes that are no array: EOFError, BadZipFile, MemoryError ...
        raise ValueError(f"it is no array of NumPy ({str(error) or type(error).__name__})") from None
    if not isinstance(found, np.ndarray):
        found.close()
        raise ValueError("it is an archive of arrays (.npz), not one array")
    return found


def _read(path: str) -> Any:
    if not path:
        raise MaskcError(Diagnostic("E503", "expected the name of a file after `@`", hint="as in --arg doc=@doc.npy"))
    try:
        if path.endswith(".npy"):
            return _load(path)
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise MaskcError(Diagnostic("E003", f"cannot read {path}: {error.strerror}")) from None
    except ValueError as error:
        raise MaskcError(Diagnostic("E503", f"cannot understand {path}: {error}", hint=_ARRAY)) from None
    except RecursionError:
        raise MaskcError(Diagnostic("E503", f"{path} is nested too deeply", hint=_ARRAY)) from None
