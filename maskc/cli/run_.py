"""``maskc run``: the op on random tensors, compared with the dense reference."""

from __future__ import annotations

import enum
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maskc.cli import options as o
from maskc.cli.style import note
from maskc.setting import MAX_HEADS

if TYPE_CHECKING:
    from maskc.cli.trial import Trial


class Dtype(str, enum.Enum):
    """Dtypes of q, k and v."""

    float32 = "float32"
    float64 = "float64"
    bfloat16 = "bfloat16"
    float16 = "float16"


def command(
    file: o.File,
    name: o.Name = None,
    q: o.Queries = None,
    k: o.Keys = None,
    heads: Annotated[
        int | None, typer.Option("--heads", min=1, max=MAX_HEADS, help="Number of query heads.", show_default="2")
    ] = None,
    kv_heads: Annotated[
        int | None,
        typer.Option("--kv-heads", min=1, max=MAX_HEADS, help="Number of key heads.", show_default="as --heads"),
    ] = None,
    dim: Annotated[int, typer.Option("--dim", min=1, max=o.MAX_DIM, help="Head dimension.")] = 64,
    batch: o.Batch = None,
    layer: o.Layer = 0,
    size: o.Sizes = [],  # noqa: B006
    arg: o.Args = [],  # noqa: B006
    backend: Annotated[str, typer.Option("--backend", help="Which backend computes.")] = "auto",
    dtype: Annotated[Dtype, typer.Option("--dtype", help="Of q, k and v.")] = Dtype.float32,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, ...")] = "cpu",
    seed: o.Seed = 0,
    as_json: o.Json = False,
) -> None:
    """Run the op on random tensors, forward and backward, and compare it with the reference in float64: at every query,
    or at some of them where there are many pairs."""
    from maskc.cli.trial import tolerance, try_op
    from maskc.cli.values import setting

    program = o.program_of(file, name)
    more: dict[str, Any] = {"q": q, "k": k, "heads": heads, "layer": layer, "batch": batch, "seed": seed}
    given = setting([program], usual_heads=2, sizes=size, args=arg, **more)
    note(given.made_up)
    trial = try_op(
        program,
        given,
        kv_heads=kv_heads or given.heads,
        dim=dim,
        batch=given.bind(program).batch,
        backend=backend,
        dtype=dtype.value,
        device=device,
        seed=seed,
    )
    bound = tolerance(dtype.value)
    good = all(error <= bound for error in trial.errors.values())
    if as_json:
        data = {"maskc": 1, "pattern": program.name, "ok": good, "tolerance": bound, **trial.data()}
        typer.echo(json.dumps(data))
    else:
        _print(trial, bound)
    raise typer.Exit(0 if good else 1)


def _print(trial: Trial, bound: float) -> None:
    typer.echo(f"q {list(trial.q_shape)}, k and v {list(trial.k_shape)}, backend {trial.backend}")
    backward = "" if trial.backward_s is None else f", backward {1e3 * trial.backward_s:.1f} ms"
    typer.echo(f"forward {1e3 * trial.forward_s:.1f} ms{backward} (one call, not warm)")
    typer.echo(f"largest error against the reference in float64, relative to the largest value (at most {bound:g}):")
    for what, error in trial.errors.items():
        typer.echo(f"  {what:<10} {error:.2e}  {'ok' if error <= bound else 'TOO LARGE'}")
    queries = trial.q_shape[2]
    if trial.compared < queries:
        typer.echo(
            f"compared at {trial.compared:,} of {queries:,} queries, over all keys; gradients are of these alone"
        )
    if trial.not_given:
        typer.echo(f"not compared: {' and '.join(trial.not_given)}, which {trial.backend} does not give here")
