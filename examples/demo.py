"""Three models' masks: as text, in normal form and as a picture; then run on 4096 tokens and compared.

Run it with ``make demo``. Writes pictures to ``out/``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

import maskc
from maskc.cli.show import canvas
from maskc.ir.text import print_program
from maskc.passes import normalise
from maskc.picture.cells import survey
from maskc.picture.panels import mask_panels
from maskc.picture.png import save_png
from maskc.picture.terminal import draw, legend

MODELS = Path(__file__).parent / "models"
OUT = Path("out")
LENGTH, HEADS, DIM = 4096, 2, 64
MILLION, WINDOW = 1 << 20, 1024


@dataclass(frozen=True)
class Example:
    """A pattern file, and what it is run with."""

    name: str
    layer: int = 0
    static: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)


def examples() -> tuple[Example, ...]:
    """The three that are shown. Windows are shorter than in the models, so that 4096 tokens show them."""
    is_global = np.zeros(LENGTH, dtype=bool)
    is_global[[0, 1000, 2500]] = True
    dilation = np.array([1, 4])
    return (
        Example("mistral", static={"window": 1024}),
        Example("gemma3", layer=4, static={"window": 512}),
        Example("longformer", static={"attention_window": 512, "dilation": dilation}, inputs={"is_global": is_global}),
    )


class Row(NamedTuple):
    """What came out for one example: seconds, and largest absolute differences of the outputs."""

    example: Example
    kept: float
    op_s: float
    sdpa_s: float
    to_reference: float
    to_sdpa: float

    @property
    def agrees(self) -> bool:
        return max(self.to_reference, self.to_sdpa) < 1e-4

    def cells(self) -> list[str]:
        """The row of the table."""
        times = [f"{1e3 * s:.0f} ms" for s in (self.op_s, self.sdpa_s)]
        errors = [f"{e:.1e}" for e in (self.to_reference, self.to_sdpa)]
        return [self.example.name, str(self.example.layer), f"{100 * self.kept:.1f} %", *times, *errors]


def main() -> int:
    """Show, run and compare each example; 1 if one of them is off."""
    console = Console(markup=False, highlight=False)
    torch.manual_seed(0)
    rows = []
    for example in examples():
        pattern = maskc.load(MODELS / f"{example.name}.mask")
        kept = show(console, example, pattern)
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("")
            rows.append(run(example, pattern, kept, lambda what, p=progress, t=task: p.update(t, description=what)))
    console.rule(Text("Run and compared"), align="left")
    table = Table("pattern", "layer", "pairs kept", "maskc", "SDPA", "error", "to SDPA")
    for row in rows:
        table.add_row(*row.cells())
    console.print(table)
    console.print(f"{LENGTH} tokens, {HEADS} heads of {DIM}, float32 on the CPU, forward, best of three.")
    console.print("error: largest difference to the reference in float64. to SDPA: largest difference to that.")
    console.print("SDPA: PyTorch's attention with the dense mask, which was made beforehand.")
    console.print(f"Pictures: {', '.join(str(OUT / f'{e.name}.png') for e in examples())}")
    off = million(console)
    return 0 if all(row.agrees for row in rows) and off < 1e-4 else 1


def million(console: Console) -> float:
    """A window over a million tokens; the largest difference to four rows that are computed on their own."""
    console.rule(Text("A million tokens"), align="left")
    op = maskc.compile(f"sliding_window({WINDOW})", heads=1)
    q, k, v = torch.randn(3, 1, 1, MILLION, DIM)
    start = time.perf_counter()
    plan = op.plan(MILLION, MILLION)
    planned = time.perf_counter() - start
    runs = plan.groups[0].runs
    console.print(f"planned in {1e3 * planned:.0f} ms: {len(runs.start)} runs of tiles, nothing of N x N")
    with Progress(
        SpinnerColumn(), TextColumn("attending"), TimeElapsedColumn(), console=console, transient=True
    ) as bar:
        bar.add_task("")
        start = time.perf_counter()
        out = op(q, k, v)
        seconds = time.perf_counter() - start
    off = 0.0
    for row in (0, WINDOW, MILLION // 2 + 1, MILLION - 1):
        keys = slice(max(0, row - WINDOW + 1), row + 1)
        alone = torch.nn.functional.scaled_dot_product_attention(q[:, :, row : row + 1], k[:, :, keys], v[:, :, keys])
        off = max(off, float((out[:, :, row : row + 1] - alone).abs().max()))
    console.print(f"{MILLION} tokens attended in {seconds:.1f} s; four rows differ by {off:.1e} from their own softmax")
    return off


def show(console: Console, example: Example, pattern: maskc.Pattern) -> float:
    """Print the file, the normal form and the picture, and write the PNG; the share of pairs kept."""
    path = MODELS / f"{example.name}.mask"
    program = pattern.program
    values = {**example.static, **example.inputs}
    binding = maskc.make_binding(program, LENGTH, LENGTH, heads=HEADS, layer=example.layer, **values)
    console.rule(Text(f"{path.name}, layer {example.layer}"), align="left")
    console.print(Text(path.read_text(encoding="utf-8").rstrip()), soft_wrap=True)
    console.print(Text("\nIts normal form:\n\n" + print_program(normalise(program), docs=False)), soft_wrap=True)
    surface = canvas()
    cells = survey(program, binding, head=HEADS - 1, rows=surface.rows, columns=surface.columns)
    console.print(draw(cells, surface).append("\n").append_text(legend(cells, surface)).append("\n"), soft_wrap=True)
    panels = mask_panels(program, binding, range(HEADS), cells=256, tile=128)
    save_png(panels, OUT / f"{example.name}.png", title=f"{example.name}, layer {example.layer}")
    return sum(survey(program, binding, head=h, rows=256, columns=256).kept or 0.0 for h in range(HEADS)) / HEADS


def run(example: Example, pattern: maskc.Pattern, kept: float, say: Callable[[str], None]) -> Row:
    """The op beside the reference in float64 and beside PyTorch's own attention with the dense mask."""
    q, k, v = torch.randn(3, 1, HEADS, LENGTH, DIM)
    settings: dict[str, Any] = {"heads": HEADS, "layer": example.layer}
    op = maskc.compile(pattern, **settings, **example.static)
    reference = maskc.compile(pattern, backend="reference", **settings, **example.static)
    say(f"{example.name}: maskc")
    op_s, out = best(lambda: op(q, k, v, **example.inputs))
    say(f"{example.name}: the reference, in float64")
    exact = reference(q.double(), k.double(), v.double(), **example.inputs)
    say(f"{example.name}: the dense mask")
    dense = maskc.dense_mask(pattern, LENGTH, LENGTH, **settings, **example.static, **example.inputs)
    mask = torch.from_numpy(dense)
    say(f"{example.name}: PyTorch's attention with the dense mask")
    sdpa_s, sdpa = best(lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask))
    return Row(example, kept, op_s, sdpa_s, float((out - exact).abs().max()), float((out - sdpa).abs().max()))


def best(call: Callable[[], torch.Tensor]) -> tuple[float, torch.Tensor]:
    """The shortest of three runs in seconds, and the result."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        result = call()
        times.append(time.perf_counter() - start)
    return min(times), result


if __name__ == "__main__":
    sys.exit(main())
