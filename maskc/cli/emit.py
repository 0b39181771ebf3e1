"""``maskc emit``: the kernels of a pattern as Triton source, assembly and machine code."""

from __future__ import annotations

import enum
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maskc.cli import options as o
from maskc.cli.files import write_file
from maskc.cli.progress import progress
from maskc.cli.style import in_line, plain
from maskc.diagnostics import Diagnostic, MaskcError

if TYPE_CHECKING:
    from maskc.ir.program import Program


class Dtype(str, enum.Enum):
    """Dtypes of q, k and v."""

    bfloat16 = "bfloat16"
    float16 = "float16"
    float32 = "float32"


def command(
    file: o.File,
    name: o.Name = None,
    target: Annotated[
        str, typer.Option("--target", help="The chip: cuda:80, cuda:90, hip:gfx942, or h100, sm_90, mi300, ...")
    ] = "cuda:90",
    backward: Annotated[bool, typer.Option("--backward", help="The kernels of the gradients, too.")] = False,
    decode: Annotated[bool, typer.Option("--decode", help="The kernels for a few queries, too.")] = False,
    standalone: Annotated[
        bool, typer.Option("--standalone", help="One Python file that needs only torch and triton, too.")
    ] = False,
    dim: Annotated[int, typer.Option("--dim", min=1, max=256, help="Head dimension.")] = 128,
    value_dim: Annotated[
        int | None, typer.Option("--value-dim", min=1, max=256, help="Of the values.", show_default="as --dim")
    ] = None,
    dtype: Annotated[Dtype, typer.Option("--dtype", help="Of q, k and v.")] = Dtype.bfloat16,
    arg: o.Args = [],  # noqa: B006
    batched: Annotated[
        list[str],
        typer.Option("--batched", metavar="NAME", help="An input with a batch dimension in front; as often as needed."),
    ] = [],  # noqa: B006
    learn: Annotated[
        list[str],
        typer.Option(
            "--learn",
            metavar="NAME",
            help="An input of floats that gets a gradient in attention.py, such as position biases; may be repeated.",
        ),
    ] = [],  # noqa: B006
    out: Annotated[str, typer.Option("--out", metavar="DIR", help="Where to write.")] = "out",
    as_json: o.Json = False,
) -> None:
    """Write a pattern's GPU kernels: Triton source, assembly, machine code and what they take of the chip."""
    program = o.program_of(file, name)
    args, of_entries = _scalars(program, arg), _batched(program, batched)
    rows, files = _emitted(program, args, of_entries, target, dtype.value, dim, value_dim or dim, backward, decode)
    from maskc.backends.triton.configs import parse_target

    chip = parse_target(target)
    if standalone:
        from maskc.backends.triton.standalone import write_standalone

        files["attention.py"] = write_standalone(program, args, chip, of_entries, decode, learn).encode()
    _write(Path(out), files)
    if as_json:
        typer.echo(json.dumps({"maskc": 1, "target": str(chip), "kernels": rows, "files": sorted(files)}))
    else:
        typer.echo(plain("\n".join(table(rows))))
        typer.echo(f"{len(files)} files in {in_line(out)}")


def _write(directory: Path, files: dict[str, bytes]) -> None:
    """Raises E003."""
    hint = "give another directory: --out DIR"
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise MaskcError(Diagnostic("E003", f"cannot write to {directory}: {reason}", hint=hint)) from None
    for end, content in files.items():
        write_file(directory / end, content, hint)


def _scalars(program: Program, texts: list[str]) -> dict[str, bool | int | float]:
    """The scalar parameters; all are needed, since they become constants of the kernels. Raises E501 to E504."""
    from maskc.cli.values import parse_values
    from maskc.tiles.values import scalar_value

    given = parse_values([program], texts)
    found: dict[str, bool | int | float] = {}
    for p in program.params:
        if not p.is_scalar:
            if p.name in given:
                hint = f"leave out --arg {p.name}=...: whoever calls the kernels gives it"
                message = f"{p.name} is no constant of the kernels, but what they read when they run"
                raise MaskcError(Diagnostic("E502", message, hint=hint))
            continue
        if p.name in given:
            found[p.name] = scalar_value(p, given[p.name])
        elif p.default is not None:
            found[p.name] = p.default.value
        else:
            hint = f"kernels hold it as a constant: --arg {p.name}=..."
            raise MaskcError(Diagnostic("E501", f"{program.name!r} needs the argument {p.name!r}", hint=hint))
    return found


def _batched(program: Program, names: list[str]) -> frozenset[str]:
    """The inputs that each batch entry has its own of. Raises E502."""
    from maskc.ir.nodes import Type
    from maskc.tiles.values import suggestion

    able = [
        p.name
        for p in program.params
        if p.when == "call" and "batch" not in p.domain
        if p.type is Type.FLOAT or {"token", "q", "k"}.intersection(p.domain)
    ]
    for name in names:
        if name not in able:
            declared = any(p.name == name for p in program.params)
            hint = "inputs over token, q or k may have one, and inputs of floats"
            hint = hint if declared else suggestion(name, able) or hint
            raise MaskcError(Diagnostic("E502", f"no batch dimension can be in front of {name!r}", hint=hint))
    return frozenset(names)


def _emitted(
    program: Program,
    args: dict[str, bool | int | float],
    batched: frozenset[str],
    target: str,
    dtype: str,
    dim: int,
    value_dim: int,
    backward: bool,
    decode: bool,
) -> tuple[list[dict[str, object]], dict[str, bytes]]:
    from maskc.backends import backend_row

    backend_row("triton").load()  # says what to do where the package is missing
    from maskc.backends.triton.aot import Shape
    from maskc.backends.triton.configs import parse_target
    from maskc.backends.triton.emit import emit

    try:
        chip = parse_target(target)
    except ValueError as error:
        raise MaskcError(Diagnostic("E503", f"--target: {error}")) from None
    stages = ("forward", *(["decode", "merge"] if decode else []), *(["dq", "dkv", "pairs"] if backward else []))
    with progress("compiling kernels") as show:
        kernels = emit(program, args, chip, Shape(dtype, dim, value_dim, page=0), stages, batched, show)
    files = {end: content for kernel in kernels for end, content in kernel.files().items()}
    rows = [kernel.row() for kernel in kernels]
    files["resources.json"] = (json.dumps({"target": str(chip), "kernels": rows}, indent=2) + "\n").encode()
    return rows, files


def table(rows: list[dict[str, object]]) -> list[str]:
    """Rows with the same keys as lines of aligned columns; ? for what is not known."""
    heads = list(rows[0])
    cells = [heads, *([str("?" if row[h] is None else row[h]) for h in heads] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(heads))]
    return ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells]
