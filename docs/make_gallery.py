"""Writes docs/gallery.md, and the thumbnails that it shows, from the files of examples/gallery.

python docs/make_gallery.py        # all patterns, about a minute
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from maskc.cli.values import setting
from maskc.ir.nodes import Type
from maskc.ir.program import Program
from maskc.lower import lower_file
from maskc.pattern import Pattern
from maskc.picture.panels import mask_panels
from maskc.picture.svg import thumbnail
from maskc.setting import Setting, fixed_length
from maskc.tiles import make_plan

DOCS = Path(__file__).resolve().parent
GALLERY = DOCS.parent / "examples" / "gallery"
PAGE, PICTURES = DOCS / "gallery.md", DOCS / "pictures" / "gallery"
INDEX = PICTURES / "index.json"

MEASURED, DRAWN = 4096, 1024
#: Scalars without a default: how much of an input there is.
_AMOUNT = 8


def patterns() -> Iterator[tuple[str, Path, Program, str]]:
    """Key, file, program and a sentence about it, in the order of the page."""
    for path in sorted(GALLERY.rglob("*.mask"), key=lambda p: (p.parent, p.name)):
        name = path.relative_to(GALLERY).as_posix()
        programs = lower_file(str(path))
        head = path.read_text(encoding="utf-8").split("\n", 1)[0].removeprefix("## ").split(": ", 1)[1]
        for program in programs:
            said = program.doc.strip().split("\n")[0] if len(programs) > 1 else ""
            own = "" if not said or ": " in said else said
            yield f"{name}::{program.name}", path, program, own or head[0].upper() + head[1:]


def given(program: Program, length: int) -> Setting:
    """``length`` keys, as many queries or as the sizes of a grid allow, and values made up where the pattern has
    no default. Raises MaskcError."""
    args = [f"{p.name}={_AMOUNT}" for p in program.params if p.is_scalar and p.default is None and p.type is Type.INT]
    found = setting([program], q=length, k=length, args=args)
    queries = fixed_length(program.q_space, found.sizes)
    if program.cross and queries not in (None, length):
        sizes = [f"{name}={n}" for name, n in found.sizes.items()]
        found = setting([program], q=queries, k=length, args=args, sizes=sizes)
    return found


def measured(program: Program) -> dict[str, Any]:
    """What the plan says at a length of about 4096, with tiles of 128 by 128."""
    at = given(program, MEASURED)
    binding = at.bind(program)
    plan = make_plan(program, binding)
    s = plan.stats
    pairs = binding.heads * binding.batch * binding.q_len * binding.k_len
    return {
        "lengths": [at.q_len, at.k_len],
        "density": s.useful_pairs / pairs,
        "tiles": [s.full, s.partial, s.empty],
        "speedup": s.speedup,
        "waste": s.waste if s.useful_pairs else None,
        "live": None if program.cross or s.liveness is None else s.liveness.most,
    }


def picture(program: Program) -> str:
    """The thumbnail, at a length of about 1024."""
    return thumbnail(mask_panels(program, given(program, DRAWN).bind(program), cells=48)[0])


def picture_of(key: str) -> Path:
    """Where a pattern's thumbnail is kept."""
    return PICTURES / (key.replace(".mask::", "-").replace("/", "-") + ".svg")


def page(index: dict[str, dict[str, Any]]) -> str:
    """The page, from what was measured."""
    lines = [*_INTRODUCTION]
    folder = ""
    for key, path, program, sentence in patterns():
        here = path.parent.relative_to(GALLERY).as_posix()
        if here != folder:
            folder = here
            lines += ["", f"## {here}", "", _HEAD, _RULE]
        link = f"[{program.name}](../{path.relative_to(DOCS.parent).as_posix()})"
        image = f'<img src="{picture_of(key).relative_to(DOCS).as_posix()}" width="96" alt="">'
        lines.append(f"| {image} | {link} | {sentence} | {' | '.join(_figures(index[key]))} |")
    return "\n".join(lines) + "\n"


def _figures(row: dict[str, Any]) -> list[str]:
    waste = "-" if row["waste"] is None else f"{row['waste']:.3g}"
    live = "-" if row["live"] is None else f"{row['live']:,}"
    density = f"{100 * row['density']:.3g} %"
    return [density, " ".join(f"{n:,}" for n in row["tiles"]), f"{row['speedup']:.2g}", waste, live]


_HEAD = "| | pattern | what it says | density | full, partial, empty tiles | speed-up | waste | live keys |"
_RULE = "|---|---|---|--:|--:|--:|--:|--:|"
_INTRODUCTION = (
    "# Gallery",
    "",
    "Every pattern of [examples/gallery](../examples/gallery/README.md), seen and measured.",
    "",
    "- The picture is the first head over about 1024 tokens, queries downward, keys to the right: dark is kept.",
    "- The figures are of about 4096 tokens in tiles of 128 x 128, with the defaults of the file; what has none is",
    "  made up. *Density* is the share of the pairs that is kept. *Speed-up* is over computing all tiles, as the cost",
    "  model of `maskc plan` predicts it. *Waste* is pairs computed over pairs kept. *Live keys* are the most that a",
    "  KV cache has to hold at once; `-` where queries and keys are two sequences.",
    "",
    "To see one closely: `maskc show examples/gallery/classics/longformer.mask --q 4096 --html longformer.html`.",
    "This page is written by `python docs/make_gallery.py`.",
)


def main() -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    for old in PICTURES.glob("*.svg"):
        old.unlink()
    index: dict[str, dict[str, Any]] = {}
    for key, _, program, _ in patterns():
        index[key] = {"hash": Pattern(program).hash, **measured(program)}
        picture_of(key).write_text(picture(program), encoding="utf-8")
    INDEX.write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(index), encoding="utf-8")


if __name__ == "__main__":
    main()
