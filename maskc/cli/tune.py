"""``maskc tune``: the fastest tiles of a pattern's GPU kernels on this machine, and such results as files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maskc.cli import options as o
from maskc.cli.emit import Dtype, table
from maskc.cli.files import write_file
from maskc.cli.style import in_line, note, plain
from maskc.diagnostics import Diagnostic, MaskcError
from maskc.setting import MAX_HEADS

if TYPE_CHECKING:
    from maskc.backends.triton.records import Record
    from maskc.backends.triton.tune import Choice
    from maskc.ir.program import Program
    from maskc.setting import Setting


def command(
    ctx: typer.Context,
    file: Annotated[
        str | None,
        typer.Argument(metavar="FILE", help="A pattern file, or a mask: causal, or in quotes; - for standard input."),
    ] = None,
    name: o.Name = None,
    q: o.Queries = None,
    k: o.Keys = None,
    heads: o.Heads = None,
    kv_heads: Annotated[
        int | None,
        typer.Option("--kv-heads", min=1, max=MAX_HEADS, help="Number of key heads.", show_default="as --heads"),
    ] = None,
    batch: o.Batch = None,
    layer: o.Layer = 0,
    size: o.Sizes = [],  # noqa: B006
    arg: o.Args = [],  # noqa: B006
    dim: Annotated[int, typer.Option("--dim", min=1, max=256, help="Head dimension.")] = 128,
    dtype: Annotated[Dtype, typer.Option("--dtype", help="Of q, k and v.")] = Dtype.bfloat16,
    backward: Annotated[bool, typer.Option("--backward", help="The kernels of the gradients, too.")] = False,
    seconds: Annotated[float, typer.Option("--seconds", min=0, help="Time to take for each kernel, about.")] = 30.0,
    again: Annotated[bool, typer.Option("--again", help="Measure what was measured before, too.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="Print what is known.")] = False,
    export: Annotated[
        Path | None, typer.Option("--export", metavar="OUT.json", help="Write what is known to a file.")
    ] = None,
    import_: Annotated[
        Path | None, typer.Option("--import", metavar="IN.json", help="Take over what such a file knows.")
    ] = None,
    seed: o.Seed = 0,
    as_json: o.Json = False,
) -> None:
    """Measure which tiles are fastest on this GPU, for calls like this one, and keep that for later runs."""
    from maskc.backends import backend_row

    if sum([file is not None, listed, export is not None, import_ is not None]) != 1:
        hint = "give one of: a pattern FILE, --list, --export OUT.json, --import IN.json"
        raise MaskcError(Diagnostic("E501", "it is not clear what to do", hint=hint))
    if file is None:
        _refuse_idle(ctx)
    backend_row("triton").load()  # says what to do where the package is missing
    if file is None:
        _exchange(export, import_, as_json)
        return
    from maskc.cli.values import setting

    program = o.program_of(file, name)
    more: dict[str, Any] = {"q": q, "k": k, "heads": heads, "layer": layer, "batch": batch, "seed": seed}
    given = setting([program], sizes=size, args=arg, **more)
    note(given.made_up)
    shape = (given.bind(program).batch, kv_heads or given.heads, dim)
    found = _measured(program, given, shape, dtype.value, backward, seconds, again, quiet=as_json)
    if as_json:
        typer.echo(json.dumps({"maskc": 1, "kernels": [_data(c) for c in found]}))
    else:
        typer.echo("\n".join(table([_row(c) for c in found])))


def _refuse_idle(ctx: typer.Context) -> None:
    """Raises E503 for options of a call where none is measured: whoever gives one believes that it chooses results."""
    for p in ctx.command.params:
        source = ctx.get_parameter_source(str(p.name))
        if p.name not in ("listed", "export", "import_", "as_json") and source is not None and source.name != "DEFAULT":
            hint = "leave it out: --list, --export and --import are of all that is known"
            raise MaskcError(Diagnostic("E503", f"{p.opts[0]} is for a pattern FILE", hint=hint))


def _exchange(export: Path | None, import_: Path | None, as_json: bool) -> None:
    from maskc.backends.triton.records import dump_records, known_records, load_records, store

    if import_ is not None:
        try:
            records = load_records(_content(import_))
        except OSError as error:
            raise MaskcError(Diagnostic("E003", f"cannot read {import_}: {error.strerror}")) from None
        except ValueError as error:
            raise MaskcError(Diagnostic("E503", f"{import_} is no file of `maskc tune --export`: {error}")) from None
        stored = store(records)
        _say({"taken_over": stored}, records, as_json, f"{stored} of {len(records)} results taken over")
        return
    records = known_records()
    if export is not None:
        write_file(export, dump_records(records), "give another file: --export FILE")
        _say({"file": str(export)}, records, as_json, f"{len(records)} results in {in_line(str(export))}")
    elif as_json:
        typer.echo(dump_records(records).rstrip())
    else:
        typer.echo(plain("\n".join(table([_known(r) for r in records]))) if records else "nothing has been measured")


def _say(found: dict[str, Any], records: Sequence[Record], as_json: bool, text: str) -> None:
    """What became of ``records``: ``found`` beside their number as JSON, or ``text``."""
    typer.echo(json.dumps({"maskc": 1, "results": len(records), **found}) if as_json else text)


def _content(path: Path) -> bytes:
    """The file, or as much of it as tells that it is too long. Raises OSError."""
    from maskc.backends.triton.records import LONGEST_FILE

    with path.open("rb") as file:
        return file.read(LONGEST_FILE + 1)


def _measured(
    program: Program,
    given: Setting,
    shape: tuple[int, int, int],
    dtype: str,
    backward: bool,
    seconds: float,
    again: bool,
    quiet: bool,
) -> tuple[Choice, ...]:
    """Run the op's kernels on random tensors, measuring. ``shape``: batch entries, key heads, head dimension."""
    import torch

    import maskc
    from maskc.backends.triton import Entry
    from maskc.backends.triton.launch import interpreting
    from maskc.cli.trial import arguments_of

    if not (torch.cuda.is_available() or interpreting()):
        hint = "run this where the GPU is; --import takes over what was measured there"
        raise MaskcError(Diagnostic("E702", "there is no GPU here to measure on", hint=hint))
    device = "cpu" if interpreting() else "cuda"
    batch, kv_heads, dim = shape
    torch.manual_seed(0)
    q, k, v, grad = (
        torch.randn(batch, h, n, dim, device=device, dtype=getattr(torch, dtype))
        for h, n in ((given.heads, given.q_len), *[(kv_heads, given.k_len)] * 2, (given.heads, given.q_len))
    )
    static, inputs = arguments_of(program, given, q)
    options: dict[str, Any] = {"heads": given.heads, "layer": given.layer, "sizes": given.sizes}
    op = maskc.compile(program, backend="triton", arguments=static, **options)
    found, names = op.entry_of(q, k, v, inputs, {})
    assert isinstance(found, Entry)
    entry = dataclasses.replace(found, autotune="again" if again else "on", budget=seconds, _memory={})
    floats = [inputs[n].detach() for n in names]
    if not quiet:
        typer.echo(f"measuring, at most about {seconds:g} s for each kernel ...", err=True)
    out, lse, plain_out = entry.forward(q, k, v, floats, dim**-0.5)
    if backward:
        entry.backward(q, k, v, floats, out if entry.plain_output else plain_out, lse, grad, None, dim**-0.5)
    return entry.choices


def _row(choice: Choice) -> dict[str, object]:
    c, record = choice.config, choice.record
    times = [None] * 2 if record is None else [f"{1e3 * s:.3f}" for s in (record.seconds, record.default_seconds)]
    return {
        "kernel": choice.stage,
        "tile": f"{c.q_tile} x {c.k_tile}",
        "warps": c.warps,
        "stages": c.stages,
        "source": choice.source,
        "ms": times[0],
        "default ms": times[1],
    }


def _known(record: Record) -> dict[str, object]:
    s, c = record.situation, record.config
    return {
        "pattern": s.pattern[:12],
        "kernel": s.stage,
        "device": s.device,
        "q x k": f"{s.q_len} x {s.k_len}",
        "rows": s.rows,
        "D": f"{s.head_dim}, {s.value_dim}",
        "dtype": s.dtype,
        "tile": f"{c.q_tile} x {c.k_tile}",
        "warps": c.warps,
        "stages": c.stages,
        "ms": f"{1e3 * record.seconds:.3f}",
        "default ms": f"{1e3 * record.default_seconds:.3f}",
    }


def _data(choice: Choice) -> dict[str, object]:
    trials = [
        {"config": dataclasses.asdict(t.config), "seconds": t.seconds if t.times else None, "why": t.why}
        for t in choice.trials
    ]
    return {
        "kernel": choice.stage,
        "config": dataclasses.asdict(choice.config),
        "source": choice.source,
        "trials": trials,
    }
