"""``maskc why``: which clause of the mask decides about one query and one key."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from maskc.clauses import Clause, Examiner, deciding, source_texts
from maskc.cli import options as o
from maskc.cli.style import note, plain
from maskc.diagnostics import Diagnostic, MaskcError
from maskc.setting import MAX_LENGTH

if TYPE_CHECKING:
    from maskc.ir.binding import Binding
    from maskc.ir.program import Program

__all__ = ["command", "examined", "sentence_of"]

_MOST_LINES = 60
_MOST_NAMED = 40  # clauses that a sentence lists; as in the page


def command(
    file: o.File,
    query: Annotated[
        int, typer.Argument(metavar="Q", min=0, max=MAX_LENGTH - 1, help="Absolute position of the query.")
    ],
    key: Annotated[int, typer.Argument(metavar="K", min=0, max=MAX_LENGTH - 1, help="Position of the key.")],
    name: o.Name = None,
    q: o.Queries = None,
    k: o.Keys = None,
    head: o.Head = 0,
    heads: o.EnoughHeads = None,
    layer: o.Layer = 0,
    size: o.Sizes = [],  # noqa: B006
    arg: o.Args = [],  # noqa: B006
    seed: o.Seed = 0,
    as_json: o.Json = False,
) -> None:
    """Say why a query sees a key, or why not: which clause decides, and the values in it."""
    from maskc.cli.values import setting

    program = o.program_of(file, name)
    length = max(256, query + 1, key + 1)
    given = setting(
        [program], q=q, k=k, head=head, heads=heads, layer=layer, sizes=size, args=arg, seed=seed, length=length
    )
    binding = given.bind(program)
    if not (binding.offset <= query < binding.offset + binding.q_len and key < binding.k_len):
        there = f"queries {binding.offset} to {binding.offset + binding.q_len - 1}, keys 0 to {binding.k_len - 1}"
        raise MaskcError(Diagnostic("E504", f"there is no query {query} with a key {key}: there are {there}"))
    whole = examined(file, program, binding, head, query, key)
    note([*given.made_up, *o.of_batch(binding)])
    sentence = sentence_of(query, key, whole)
    if as_json:
        typer.echo(json.dumps({"maskc": 1, "query": query, "key": key, "sees": whole.holds, "why": sentence}))
        return
    place = f"{program.name}, layer {layer}, head {head}"
    lines = [sentence, "", place, *_tree(whole)]
    sys.stdout.write(plain("\n".join(lines)) + "\n")


def examined(file: str, program: Program, binding: Binding, head: int, query: int, key: int) -> Clause:
    """The mask at one pair, its clauses named as they are written in ``file``."""
    from maskc.cli.checking import source_of

    texts = {} if file == "-" else source_texts(source_of(file), program)
    return Examiner(program, binding, head, query, key, texts).examine()


def sentence_of(query: int, key: int, whole: Clause) -> str:
    """Whether the query sees the key, and which clause decides it."""
    decides = deciding(whole)
    start = f"Query {query} {'sees' if whole.holds else 'does not see'} key {key}"
    if not decides.parts:
        return f"{start}, for {_named(whole if whole is decides else _around(whole, decides), decides)}."
    parts = [_named(part, deciding(part)) for part in decides.parts[:_MOST_NAMED]]
    if len(decides.parts) > _MOST_NAMED:
        parts.append(f"and {len(decides.parts) - _MOST_NAMED} more")
    return f"{start}. {'All of these hold' if decides.holds else 'None of these holds'}: {'; '.join(parts)}."


def _around(clause: Clause, inner: Clause) -> Clause:
    """The smallest clause around ``inner`` that is written in the file; else ``inner``."""
    if clause is inner:
        return inner
    below = [_around(part, inner) for part in clause.parts if _within(part, inner)]
    found = below[0] if below else inner
    return found if found.source else clause if clause.source else found


def _within(clause: Clause, inner: Clause) -> bool:
    return clause is inner or any(_within(part, inner) for part in clause.parts)


def _named(clause: Clause, decides: Clause) -> str:
    """`sinks(4)`, where `k < 4` is 7 < 4 (false)"""
    written = clause.source or clause.text
    shown = f"`{written}`"
    if written != decides.text and not decides.parts:
        shown += f", where `{decides.text}`"
    if decides.values:
        shown += f" is {decides.values}" if "where" in shown else f", that is {decides.values}"
    return shown + f" ({'true' if decides.holds else 'false'})"


def _tree(whole: Clause) -> list[str]:
    lines: list[str] = []

    def walk(clause: Clause, depth: int) -> None:
        mark = "yes" if clause.holds else "no "
        what = clause.source or (clause.kind if clause.parts else clause.text)
        if clause.source and clause.parts:
            what += f"   [{clause.kind}]"
        elif clause.source and clause.source != clause.text:
            what += f"   [{clause.text}]"
        values = f"   {clause.values}" if clause.values else ""
        lines.append(f"{'  ' * depth}{mark} {what}{values}")
        for part in clause.parts:
            walk(part, depth + 1)

    walk(whole, 1)
    hidden = len(lines) - _MOST_LINES
    return lines if hidden <= 0 else [*lines[:_MOST_LINES], f"  ... and {hidden} lines more"]
