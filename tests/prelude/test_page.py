"""``docs/constructs.md`` is written from the prelude."""

from __future__ import annotations

from pathlib import Path

from maskc.lower import prelude_files
from maskc.syntax import tree as t
from maskc.syntax.parse import parse

ROOT = Path(__file__).parents[2]
_TITLES = {"basic": "Masks of one sequence", "grid": "Along a coordinate", "graph": "Graphs"}


def _entry(d: t.Definition, source: str) -> str:
    code = source[d.span.start : d.span.end]
    indented = "\n".join("    " + line if line else "" for line in code.split("\n"))
    return f"### `{d.name.id}`\n\n{d.doc}\n\n{indented}\n"


def page() -> str:
    parts = [
        "# The constructs\n",
        "Everything below is written in the language itself, in the files of `maskc/prelude`; copy what you need to",
        "change. A name that starts with `_` is a part of another definition. Along a coordinate, say `... on c`:",
        "`causal on t`, `window(1, 1) on token // 64`.\n",
    ]
    for path in prelude_files():
        source = path.read_text()
        parts.append(f"## {_TITLES[path.stem]}\n")
        parts += [_entry(d, source) for d in parse(source).items if isinstance(d, t.Definition)]
    return "\n".join(parts)


def test_the_page_is_up_to_date(golden) -> None:  # type: ignore[no-untyped-def]
    golden.check(ROOT / "docs" / "constructs.md", page())


def test_every_definition_is_explained() -> None:
    for path in prelude_files():
        for d in parse(path.read_text()).items:
            assert isinstance(d, t.Definition)
            assert d.doc, f"{d.name.id} in {path.name} has no doc comment"
