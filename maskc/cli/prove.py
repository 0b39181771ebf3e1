"""``maskc prove``: whether what a pattern asserts holds at every pair."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maskc.cli import options as o
from maskc.cli.style import note, plain
from maskc.diagnostics import Diagnostic, MaskcError
from maskc.ir.binding import MAX_BATCH

if TYPE_CHECKING:
    from maskc.assertions import Proof
    from maskc.ir.binding import Binding
    from maskc.ir.program import Program


def command(
    file: o.File,
    claim: Annotated[
        list[str],
        typer.Option(
            "--claim", metavar="MASK", help="Prove this instead, such as 'k <= q' or 'some k'; may be repeated."
        ),
    ] = [],  # noqa: B006
    name: o.Name = None,
    q: o.Queries = None,
    k: o.Keys = None,
    heads: o.Heads = None,
    layer: o.Layer = 0,
    batch: Annotated[
        int | None,
        typer.Option("--batch", min=1, max=MAX_BATCH, help="Batch entries.", show_default="those of the inputs, or 1"),
    ] = None,
    size: o.Sizes = [],  # noqa: B006
    arg: o.Args = [],  # noqa: B006
    seed: o.Seed = 0,
    as_json: o.Json = False,
) -> None:
    """Prove what a pattern asserts, for all pairs of a length, all heads and all batch entries, or show the first
    counterexample.

    Nothing is sampled: tiles that could hold a counterexample are found as the planner finds live tiles, so that a
    million tokens take milliseconds.
    """
    from maskc.assertions import with_claims
    from maskc.cli.values import setting

    program, source = o.read(file, name)
    if claim:
        program = with_claims(program, tuple(claim), source)
    if not program.assertions:
        hint = "say what to prove: --claim 'k <= q', or write `assert k <= q` into the pattern"
        raise MaskcError(Diagnostic("E504", f"{program.name!r} asserts nothing", hint=hint))
    more: dict[str, Any] = {"q": q, "k": k, "heads": heads, "layer": layer, "batch": batch, "seed": seed}
    given = setting([program], sizes=size, args=arg, **more)
    note(given.made_up)
    binding = given.bind(program)
    proofs = _proofs(program, binding, show=not as_json)
    looked_at = _looked_at(program, binding)
    if as_json:
        lengths = {"q_len": binding.q_len, "k_len": binding.k_len, "heads": binding.heads, "batch": binding.batch}
        claims = [_data(*p) for p in proofs]
        typer.echo(json.dumps({"maskc": 1, **lengths, "layer": binding.layer, "for": looked_at, "claims": claims}))
    if not all(proof.holds for proof, _ in proofs):
        raise typer.Exit(1)
    if not as_json:
        typer.echo(f"proved for {looked_at}")


def _proofs(program: Program, binding: Binding, show: bool) -> list[tuple[Proof, float]]:
    """Every assertion's proof and the seconds it took, each printed once it is there. Raises E801 of those that take
    too much work, after the others."""
    from maskc.assertions import prove_all

    proofs: list[tuple[Proof, float]] = []
    refused: list[Diagnostic] = []
    start = time.perf_counter()
    for proof in prove_all(program, binding):
        seconds, start = time.perf_counter() - start, time.perf_counter()
        if isinstance(proof, MaskcError):
            refused.extend(proof.diagnostics)
            continue
        proofs.append((proof, seconds))
        if show:
            holds = f"holds: {proof.claim}" if proof.holds else f"does not hold: {proof}"
            typer.echo(f"{plain(holds)} ({1000 * seconds:,.1f} ms)")
    if refused:
        raise MaskcError(refused)
    return proofs


def _looked_at(program: Program, binding: Binding) -> str:
    """What a proof speaks of: there is no proof for other lengths, nor for heads, layers and batch entries that differ
    and were not there."""
    from maskc.tiles.binding import mask_roots
    from maskc.varying import varying

    differs = varying(program, mask_roots(program))
    parts = [f"{binding.q_len:,} queries x {binding.k_len:,} keys", _counted(binding.heads, "head")]
    parts += [f"layer {binding.layer}"] if "layer" in differs else []
    if binding.batch > 1:
        parts.append(_counted(binding.batch, "batch entry", "batch entries"))
    elif "batch" in differs:
        parts.append("batch entry 0 (for more: --batch)")
    else:
        parts.append("every batch entry" + (" with these inputs" if "inputs" in differs else ""))
    return ", ".join(parts)


def _counted(number: int, one: str, many: str = "") -> str:
    """``3 heads``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _data(proof: Proof, seconds: float) -> dict[str, Any]:
    place = {"batch": proof.batch, "head": proof.head, "query": proof.query, "key": proof.key}
    return {
        "claim": proof.claim,
        "holds": proof.holds,
        "counterexample": None if proof.holds else place,
        "seconds": seconds,
    }
