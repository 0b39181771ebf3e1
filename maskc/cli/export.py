"""``maskc export``: the mask as the arrays that other engines take, or why they cannot take it."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maskc.cli import options as o
from maskc.cli.files import write_file
from maskc.cli.progress import progress
from maskc.cli.style import in_line, note, plain
from maskc.diagnostics import Diagnostic, MaskcError
from maskc.setting import MAX_HEADS, MAX_LENGTH

if TYPE_CHECKING:
    from maskc.exports import Export

#: Numbers that are written as JSON at most.
_MOST_NUMBERS = 1 << 20


def command(
    file: o.File,
    name: o.Name = None,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="FORMAT",
            help="varlen, varlen_cute, varlen_attn, flashmask, magi, flashinfer or splash.",
            show_default="try all",
        ),
    ] = None,
    q: o.Queries = None,
    k: o.Keys = None,
    heads: o.Heads = None,
    kv_heads: Annotated[
        int | None,
        typer.Option("--kv-heads", min=1, max=MAX_HEADS, help="Number of key heads.", show_default="as --heads"),
    ] = None,
    layer: o.Layer = 0,
    size: o.Sizes = [],  # noqa: B006
    arg: o.Args = [],  # noqa: B006
    q_tile: Annotated[int, typer.Option("--q-tile", min=1, max=MAX_LENGTH, help="Queries a block.")] = 128,
    k_tile: Annotated[int, typer.Option("--k-tile", min=1, max=MAX_LENGTH, help="Keys a block.")] = 128,
    out: Annotated[str | None, typer.Option("--out", metavar="FILE", help="Write .npz, .safetensors or .json.")] = None,
    as_json: o.Json = False,
) -> None:
    """Export a mask to FlashAttention (varlen, and of version 4 varlen_cute), torch's varlen_attn, FlashMask,
    MagiAttention, FlashInfer or JAX's Splash attention: exactly, or not at all. Without --to, say which of them can
    take it."""
    from maskc.cli.values import setting
    from maskc.exports import FORMATS, check_format, export_plan
    from maskc.tiles import make_plan
    from maskc.tiles.budget import within_memory

    if to is not None:
        check_format(to)
    ending = None if out is None else _ending(out, to)
    program = o.program_of(file, name)
    given = setting([program], q=q, k=k, heads=heads, layer=layer, sizes=size, args=arg)
    _check_given(given.made_up, given.usual_length and out is not None)
    if given.usual_length:
        note([f"no length is given: this is of {given.q_len} queries, and may differ for more"])
    binding = given.bind(program)
    found: dict[str, Export | str] = {}
    with within_memory("the export"):
        with progress("planning") as watch:
            plan = make_plan(program, binding, q_tile=q_tile, k_tile=k_tile, watch=watch)
        with progress("exporting") as watch:
            formats = tuple(FORMATS) if to is None else (to,)
            for i, each in enumerate(formats):
                watch(i, len(formats))
                try:
                    found[each] = export_plan(plan, each, kv_heads)
                except MaskcError as error:
                    if to is not None or error.codes != ("E704",):
                        raise
                    found[each] = error.diagnostics[0].message
    if out is not None and ending is not None:
        export = next(iter(found.values()))
        assert not isinstance(export, str)
        write_file(out, _file(export, ending), "give another file: --out FILE")
    if as_json:
        typer.echo(json.dumps({"maskc": 1, "formats": {n: _data(x) for n, x in found.items()}}))
    else:
        lengths = f"{binding.q_len:,} queries x {binding.k_len:,} keys"
        typer.echo(plain("\n".join([f"{program.name}: {lengths}", *_lines(found, to, out)])))


def _ending(out: str, to: str | None) -> str:
    """Raises E503."""
    if to is None:
        raise MaskcError(Diagnostic("E503", "--out takes one format", hint="say which: --to FORMAT"))
    ending = Path(out).suffix
    if ending not in (".npz", ".safetensors", ".json"):
        message = f"--out {out}: cannot tell the kind of file"
        raise MaskcError(Diagnostic("E503", message, hint="end it in .npz, .safetensors or .json"))
    return ending


def _check_given(made_up: tuple[str, ...], no_length: bool) -> None:
    """Raises E501 where a number would be made up that the arrays then hold."""
    if made_up:
        message = f"an export holds what is given, and not everything is: {made_up[0]}"
        raise MaskcError(Diagnostic("E501", message, hint="give it: --arg NAME=@FILE, or --size AXIS=N"))
    if no_length:
        hint = "say how many queries there are: --q 4096"
        raise MaskcError(Diagnostic("E501", "a file is for one length, and none is given", hint=hint))


def _lines(found: dict[str, Export | str], to: str | None, out: str | None) -> list[str]:
    from maskc.exports import FORMATS

    lines = []
    for name, export in found.items():
        if isinstance(export, str):
            lines.append(f"  no   {name:<12} {export.partition('cannot be said: ')[2] or export}")
            continue
        arrays = [f"{n} {_shape(x)}" for n, x in export.arrays.items()]
        options = [f"{n} = {_value(x)}" for n, x in export.options.items()]
        lines.append(f"  yes  {name:<12} {'; '.join(filter(None, (', '.join(arrays), ', '.join(options))))}")
        if to is not None:
            lines.append(f"       {FORMATS[name].call}")
    return lines + ([f"written to {in_line(out)}"] if out is not None else [])


def _shape(x: Any) -> str:
    return f"({', '.join(str(n) for n in x.shape)}{',' if x.ndim == 1 else ''}) {x.dtype}"


def _value(x: Any) -> str:
    return f"{x:,}" if isinstance(x, int) and not isinstance(x, bool) else str(x)


def _data(export: Export | str) -> dict[str, Any]:
    if isinstance(export, str):
        return {"exact": False, "why": export}
    arrays = {n: {"shape": list(x.shape), "dtype": str(x.dtype)} for n, x in export.arrays.items()}
    return {"exact": True, "arrays": arrays, "options": dict(export.options)}


def _file(export: Export, ending: str) -> bytes:
    """Raises E503 for arrays too large for JSON, and E703 where a package is missing."""
    import numpy as np

    if ending == ".json":
        if sum(x.size for x in export.arrays.values()) > _MOST_NUMBERS:
            message = f"--out: more than {_MOST_NUMBERS:,} numbers are too many for JSON"
            raise MaskcError(Diagnostic("E503", message, hint="end it in .npz or .safetensors"))
        arrays = {n: x.tolist() for n, x in export.arrays.items()}
        return (json.dumps({"format": export.format, **arrays, **export.options}) + "\n").encode()
    if ending == ".safetensors":
        try:
            from safetensors.numpy import save
        except ModuleNotFoundError:
            hint = "install it with: pip install 'maskc[hf]', or end it in .npz"
            raise MaskcError(
                Diagnostic("E703", "files in .safetensors need safetensors, which is not installed", hint=hint)
            ) from None
        options = {n: json.dumps(x) for n, x in export.options.items()}
        return save(dict(export.arrays), metadata={"format": export.format, **options})
    buffer = io.BytesIO()
    whole: dict[str, Any] = {**export.arrays, **{n: np.asarray(x) for n, x in export.options.items()}}
    np.savez(buffer, **whole)
    return buffer.getvalue()
