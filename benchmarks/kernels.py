"""What kernels take of each chip, compiled ahead of time: no GPU is needed. Writes docs/benchmarks/kernels.md.

python benchmarks/kernels.py [--quick]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from maskc.backends.triton.aot import Shape
from maskc.backends.triton.configs import parse_target
from maskc.backends.triton.emit import emit
from maskc.lower import lower_text

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks" / "kernels.md"
TARGETS = ("cuda:80", "cuda:90", "cuda:100", "cuda:120", "hip:gfx942")
STAGES = ("forward", "dq", "dkv")
PATTERNS = {
    "causal": "causal",
    "sinks and window": "sinks(4) | sliding_window(1024)",
    "documents": "pattern p(doc: int[token]) { attend same(doc) & causal }",
    "3-D grid": "pattern p over grid(t, y, x)"
    " { attend neighborhood(t, 18) & neighborhood(y, 24) & neighborhood(x, 24) }",
    "soft cap and sink": "pattern p(sink: float[head]) { attend causal\n"
    " score 30.0 * tanh(s / 30.0)\n normalize softmax(sink = sink[h]) }",
}
HEAD = """# What kernels take of each chip

Compiled ahead of time by `python benchmarks/kernels.py` with the default configuration, bfloat16, no GPU involved:
tiles are queries x keys; registers are a thread's; spilled and shared memory are in bytes; shared memory is shown with
the most that a block of the chip has. On AMD chips registers count accumulators too. No row says how fast a kernel is.

"""


def rows(quick: bool) -> list[str]:
    """The lines of the table."""
    lines = [
        "| pattern | chip | D | kernel | tile | warps | stages | registers | spilled | shared | matrix instruction |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, text in PATTERNS.items():
        # Every chip for the first pattern; the others on one, which shows what their masks cost.
        for target in TARGETS if name == "causal" and not quick else ("cuda:90",):
            for dim in (64, 128):
                for each in emit(
                    lower_text(text)[0], {}, parse_target(target), Shape(head_dim=dim, value_dim=dim), STAGES
                ):
                    r = each.row()
                    lines.append(
                        f"| {name} | {target} | {dim} | {r['kernel']} | {r['tile']} | {r['warps']} | {r['stages']} "
                        f"| {r['registers']} | {r['spilled']} | {r['shared']} / {r['limit']} | {r['matrix']} |"
                    )
                    print(lines[-1], flush=True)
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one chip; print only")
    quick = parser.parse_args().quick
    lines = rows(quick)
    if not quick:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(HEAD + "\n".join(lines) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
