"""``maskc prove``: whether what a pattern asserts holds at every pair."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maskc.cli import options as o
from maskc.cli.style import plain
from maskc.diagnostics import Diagnostic, MaskcError

if TYPE_CHECKING:
    from maskc.assertions import Proof


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
    size: o.Sizes = [],  # noqa: B006
    arg: o.Args = [],  # noqa: B006
    seed: o.Seed = 0,
    as_json: o.Json = False,
) -> None:
    """Prove what a pattern asserts, for all pairs of a length, or show the first counterexample.

    Nothing is sampled: tiles that could hold a counterexample are found as the planner finds live tiles, so that a
    million tokens take milliseconds.
    """
    from maskc.assertions import prove, with_claims
    from maskc.cli.values import setting

    program, source = o.read(file, name)
    if claim:
        program = with_claims(program, tuple(claim), source)
    if not program.assertions:
        hint = "say what to prove: --claim 'k <= q', or write `assert k <= q` into the pattern"
        raise MaskcError(Diagnostic("E504", f"{program.name!r} asserts nothing", hint=hint))
    given = setting([program], q=q, k=k, heads=heads, layer=layer, sizes=size, args=arg, seed=seed)
    for note in given.made_up:
        typer.echo(f"note: {plain(note)}", err=True)
    binding = given.bind(program)
    proofs = []
    for assertion in program.assertions:
        start = time.perf_counter()
        proofs.append((prove(program, binding, assertion), time.perf_counter() - start))
    if as_json:
        lengths = {"q_len": binding.q_len, "k_len": binding.k_len, "heads": binding.heads, "batch": binding.batch}
        typer.echo(json.dumps({"maskc": 1, **lengths, "claims": [_data(*p) for p in proofs]}))
    else:
        for proof, seconds in proofs:
            holds = f"holds: {proof.claim}" if proof.holds else f"does not hold: {proof}"
            typer.echo(f"{plain(holds)} ({1000 * seconds:,.1f} ms)")
    if not all(proof.holds for proof, _ in proofs):
        raise typer.Exit(1)
    if not as_json:
        copies = f"{binding.heads} head{'' if binding.heads == 1 else 's'}"
        typer.echo(f"proved for {binding.q_len:,} queries x {binding.k_len:,} keys, {copies}")


def _data(proof: Proof, seconds: float) -> dict[str, Any]:
    place = {"batch": proof.batch, "head": proof.head, "query": proof.query, "key": proof.key}
    return {
        "claim": proof.claim,
        "holds": proof.holds,
        "counterexample": None if proof.holds else place,
        "seconds": seconds,
    }
