"""Tiles, warps and stages by architecture: one row each.

Rows for 90 are what was fastest on an H200 or H100 (``docs/benchmarks/gpu-tiles.md``); the others are chosen so that
kernels fit a chip's shared memory and registers without spilling (``docs/benchmarks/kernels.md``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = [
    "LONG_ROWS",
    "Config",
    "Rows",
    "Target",
    "candidates",
    "config",
    "fits",
    "joins",
    "parse_target",
    "shared_memory",
]


@dataclass(frozen=True)
class Target:
    """A chip: ``kind`` "cuda" with a compute capability such as 90, or "hip" with a name such as "gfx942"."""

    kind: str
    arch: int | str

    def __str__(self) -> str:
        return f"{self.kind}:{self.arch}"

    @property
    def warp_size(self) -> int:
        """Threads a warp."""
        return 64 if self.kind == "hip" else 32


@dataclass(frozen=True)
class Config:
    """Queries and keys a tile, warps a program instance, stages of the software pipeline."""

    q_tile: int
    k_tile: int
    warps: int
    stages: int


#: What a plan's rows of tiles are like: mostly masked; else in another order than the tokens' own, long, or short;
#: "usual": not known.
Rows = Literal["usual", "short", "long", "placed", "masked"]

_SMALL = Config(16, 16, 4, 1)

#: Most shared memory of one block in bytes.
_SHARED: dict[int | str, int] = {
    80: 166912,
    86: 101376,
    87: 166912,
    89: 101376,
    90: 232448,
    100: 232448,
    103: 232448,
    120: 101376,
    121: 101376,
    "gfx90a": 65536,
    "gfx942": 65536,
    "gfx950": 163840,
}

#: Configurations by architecture, stage of the computation and padded head dimension; 16-bit dtypes. Before each stands
#: from how many values on it is taken that mask and score compute of a pair: the more, the smaller the tiles, so that
#: registers do not spill. Those of "pairs" are square: tiles along a diagonal can share a sum.
_TABLE: dict[int | str, dict[tuple[str, int], dict[int, Config]]] = {
    80: {
        ("forward", 64): {0: Config(128, 64, 8, 3), 8: Config(128, 32, 8, 3)},
        ("forward", 128): {0: Config(128, 32, 8, 2), 8: Config(64, 32, 8, 2), 17: Config(32, 64, 8, 2)},
        ("forward", 256): {0: Config(64, 32, 8, 2)},
        ("dq", 64): {0: Config(128, 64, 8, 3), 6: Config(128, 32, 8, 2), 17: Config(128, 16, 8, 2)},
        ("dq", 128): {0: Config(64, 64, 8, 2), 8: Config(32, 64, 8, 2)},
        ("dq", 256): {0: Config(32, 32, 8, 1)},
        ("dkv", 64): {0: Config(32, 128, 8, 2), 8: Config(32, 64, 4, 2)},
        ("dkv", 128): {0: Config(64, 64, 8, 1), 3: Config(32, 64, 8, 1), 16: Config(32, 32, 8, 1)},
        ("dkv", 256): {0: Config(32, 32, 8, 1)},
        ("pairs", 64): {0: Config(32, 32, 8, 2)},
        ("pairs", 128): {0: Config(32, 32, 8, 2)},
        ("pairs", 256): {0: Config(32, 32, 8, 1)},
    },
    90: {
        ("forward", 64): {0: Config(64, 64, 4, 3), 8: Config(64, 32, 4, 3)},
        ("forward", 128): {0: Config(64, 64, 4, 3), 8: Config(64, 32, 4, 3)},
        ("forward", 256): {0: Config(128, 64, 8, 2), 8: Config(128, 32, 8, 2), 17: Config(64, 32, 8, 2)},
        ("dq", 64): {0: Config(64, 64, 4, 2), 8: Config(64, 32, 4, 3)},
        ("dq", 128): {0: Config(64, 64, 4, 2), 8: Config(64, 32, 4, 2), 17: Config(64, 32, 8, 2)},
        ("dq", 256): {0: Config(64, 32, 8, 1)},
        ("dkv", 64): {0: Config(64, 64, 4, 3), 8: Config(32, 64, 4, 3)},
        ("dkv", 128): {0: Config(32, 64, 4, 3), 8: Config(32, 64, 8, 3), 11: Config(16, 64, 8, 3)},
        ("dkv", 256): {0: Config(32, 64, 8, 1), 11: Config(16, 64, 8, 1)},
        ("pairs", 64): {0: Config(64, 64, 8, 1)},
        ("pairs", 128): {0: Config(64, 64, 8, 1)},
        ("pairs", 256): {0: Config(32, 32, 8, 1)},
    },
    100: {
        ("forward", 64): {0: Config(128, 64, 8, 3), 7: Config(128, 32, 8, 3)},
        ("forward", 128): {0: Config(128, 64, 8, 3), 3: Config(128, 32, 8, 3), 17: Config(64, 32, 8, 3)},
        ("forward", 256): {0: Config(128, 64, 8, 2), 3: Config(128, 32, 8, 2), 17: Config(64, 32, 8, 2)},
        ("dq", 64): {0: Config(128, 64, 8, 2), 8: Config(128, 32, 4, 2), 17: Config(128, 32, 8, 2)},
        ("dq", 128): {0: Config(128, 64, 8, 2), 8: Config(128, 32, 8, 2), 17: Config(64, 32, 8, 2)},
        ("dq", 256): {0: Config(64, 32, 8, 1)},
        ("dkv", 64): {0: Config(32, 128, 4, 2), 8: Config(32, 128, 8, 2)},
        ("dkv", 128): {0: Config(32, 128, 8, 1), 8: Config(32, 64, 8, 1)},
        ("dkv", 256): {0: Config(32, 64, 8, 1), 16: Config(16, 64, 8, 1)},
        ("pairs", 64): {0: Config(64, 64, 4, 1)},
        ("pairs", 128): {0: Config(64, 64, 8, 1)},
        ("pairs", 256): {0: Config(32, 32, 8, 1)},
    },
    "gfx942": {
        ("forward", 64): {0: Config(128, 64, 8, 2), 8: Config(128, 32, 8, 2)},
        ("forward", 128): {0: Config(128, 32, 8, 2), 8: Config(64, 32, 8, 2)},
        ("forward", 256): {0: Config(64, 32, 8, 1)},
        ("dq", 64): {0: Config(64, 64, 4, 2), 8: Config(64, 32, 4, 2)},
        ("dq", 128): {0: Config(64, 32, 4, 2), 17: Config(64, 16, 4, 2)},
        ("dq", 256): {0: Config(32, 32, 8, 1)},
        ("dkv", 64): {0: Config(32, 64, 4, 2)},
        ("dkv", 128): {0: Config(32, 64, 4, 1), 3: Config(16, 64, 4, 1), 16: Config(32, 32, 4, 1)},
        ("dkv", 256): {0: Config(16, 32, 4, 1)},
        ("pairs", 64): {0: Config(64, 64, 8, 1)},
        ("pairs", 128): {0: Config(64, 64, 8, 1)},
        ("pairs", 256): {0: Config(32, 32, 8, 1)},
    },
}
#: For 90. Where rows are long, tiles of dQ have more rows: what they read is read half as often. Where most tiles are
#: masked, arithmetic takes longer than loads, and three small instances a multiprocessor overlap more of it. Where all
#: tokens have places of their own, addresses take registers. See ``tune.rows_of``, and docs/benchmarks/gpu-tiles.md.
_BY_ROWS: dict[tuple[Rows, str, int], Config] = {
    ("long", "dq", 64): Config(64, 64, 4, 3),
    ("long", "dq", 128): Config(128, 64, 8, 3),
    ("placed", "dq", 128): Config(128, 64, 8, 3),
    ("short", "dkv", 128): Config(64, 64, 4, 2),
    ("long", "dkv", 128): Config(64, 64, 4, 2),
    ("placed", "dkv", 128): Config(64, 128, 8, 3),
    ("masked", "forward", 128): Config(64, 32, 4, 3),
    ("masked", "dkv", 128): Config(64, 64, 4, 2),
}
#: For exact products of float32 on NVIDIA's chips, by stage and the head dimension up to which: these are no matter of
#: matrix units, and operands go through registers. What spills nothing; larger tiles spill kilobytes a thread.
_EXACT: dict[tuple[str, int], Config] = {
    ("forward", 64): Config(64, 32, 8, 2),
    ("forward", 128): Config(32, 64, 8, 2),
    ("forward", 256): Config(16, 16, 8, 2),
    ("decode", 64): Config(16, 16, 4, 2),
    ("decode", 128): Config(16, 16, 4, 2),
    ("decode", 256): Config(16, 16, 8, 2),
    ("dq", 64): Config(32, 32, 8, 2),
    ("dq", 128): Config(16, 32, 8, 2),
    ("dq", 256): Config(16, 16, 8, 2),
    ("dkv", 64): Config(32, 64, 8, 2),
    ("dkv", 128): Config(32, 32, 8, 2),
    ("dkv", 256): Config(16, 16, 8, 2),
}
#: Dtypes of 32 bits; the second one is the first with products of fewer bits.
_WIDE = ("float32", "tf32")
#: Architectures without a row of their own use that of another.
_LIKE: dict[int | str, int | str] = {86: 80, 89: 80, 103: 100, 120: 80, 121: 80}


#: What else may be faster than the table's row, by stage; ``fits`` leaves what a chip and a head dimension allow.
_OTHERS: dict[str, tuple[Config, ...]] = {
    "forward": (
        Config(64, 64, 4, 3),
        Config(128, 64, 8, 3),
        Config(128, 64, 4, 3),
        Config(128, 128, 8, 2),
        Config(128, 32, 4, 4),
        Config(64, 32, 4, 3),
        Config(64, 128, 4, 2),
    ),
    "decode": (
        Config(16, 128, 4, 2),
        Config(16, 64, 4, 3),
        Config(16, 32, 4, 4),
        Config(16, 64, 2, 3),
        Config(16, 32, 2, 3),
    ),
    "dq": (
        Config(128, 64, 8, 3),
        Config(64, 64, 4, 3),
        Config(128, 64, 8, 2),
        Config(64, 64, 4, 2),
        Config(128, 32, 8, 3),
        Config(64, 128, 8, 2),
        Config(64, 32, 4, 2),
    ),
    "dkv": (
        Config(64, 128, 8, 3),
        Config(64, 128, 8, 2),
        Config(32, 128, 8, 3),
        Config(64, 64, 4, 2),
        Config(64, 64, 8, 2),
        Config(32, 64, 4, 3),
        Config(32, 128, 4, 2),
    ),
}
#: Keys a row of tiles, on average, from which on it counts as long: what was measured on an H200 changed places there.
LONG_ROWS = 3840
#: What the interpreter may compare.
_INTERPRETED = (_SMALL, Config(32, 16, 4, 1), Config(16, 32, 4, 1))
#: What ``fits`` counts at most for a thread. Kernels for which it counts more were found to spill much, see
#: docs/benchmarks/kernels.md for those of the table.
_REGISTERS = 245


#: Chips by the names that they are sold under, in lower case.
_CHIPS: dict[str, int | str] = {
    **dict.fromkeys(("a30", "a100"), 80),
    **dict.fromkeys(("a10", "a40", "a6000"), 86),
    **dict.fromkeys(("l4", "l40", "l40s"), 89),
    **dict.fromkeys(("h100", "h200", "gh200"), 90),
    **dict.fromkeys(("b200", "gb200"), 100),
    **dict.fromkeys(("b300", "gb300"), 103),
    **dict.fromkeys(("mi210", "mi250", "mi250x"), "gfx90a"),
    **dict.fromkeys(("mi300", "mi300a", "mi300x", "mi325x"), "gfx942"),
    **dict.fromkeys(("mi350x", "mi355x"), "gfx950"),
}


def parse_target(text: str) -> Target:
    """``cuda:90`` or ``hip:gfx942``, or by what others call it: ``sm_90``, ``gfx942``, ``h100``. Raises ValueError for
    chips that are not in the table: compilers end the whole process where they do not know one."""
    kind, _, arch = text.partition(":")
    name = text.lower()
    if name.startswith("sm"):
        kind, arch = "cuda", name.removeprefix("sm").removeprefix("_").removesuffix("a")
    elif name in _CHIPS or name.startswith("gfx"):
        arch = str(_CHIPS.get(name, name))
        kind = "cuda" if arch.isdecimal() else "hip"
    found = Target(kind, int(arch) if kind == "cuda" and arch.isdecimal() and len(arch) < 5 else arch)
    known = [str(Target("hip" if isinstance(a, str) else "cuda", a)) for a in _SHARED]
    if str(found) not in known:
        raise ValueError(f"expected one of {', '.join(known)}, not {text!r}")
    return found


def shared_memory(target: Target) -> int:
    """Most shared memory of one block in bytes; that of the smallest relative where the chip is not listed."""
    return _SHARED.get(target.arch, 65536 if target.kind == "hip" else 101376)


def config(
    stage: str, target: Target | None, head_dim: int, dtype: str, pair_values: int = 1, kind: Rows = "usual"
) -> Config:
    """The configuration for ``stage`` ("forward", "decode", "dq", "dkv" or "pairs"); target None: the interpreter.

    ``dtype``: "tf32" for float32 with products of tf32. ``pair_values``: values that mask and score compute of a pair.
    Where they are many, tiles are smaller, so that registers do not spill. ``kind``: of the plan's rows.
    """
    if target is None:
        return _SMALL
    rows = _TABLE.get(_LIKE.get(target.arch, target.arch))
    if rows is None:
        rows = _TABLE["gfx942" if target.kind == "hip" else 90 if int(target.arch) >= 90 else 80]
    wanted = 64 if head_dim <= 64 else 128 if head_dim <= 128 else 256
    if dtype == "float32" and target.kind == "cuda" and stage != "pairs":
        return _EXACT[stage, wanted]
    if dtype in _WIDE:
        wanted = min(256, 2 * wanted)
    if stage == "decode":
        # Fastest on an H100; where shared memory is small, as many stages as fit.
        return Config(16, 64 if wanted < 256 else 32, 4, 3 if shared_memory(target) > 1 << 17 else 2)
    if dtype in _WIDE and head_dim > 128 and stage != "pairs":  # as wide as 16 bits and 512, which has no row
        side = 16 if shared_memory(target) < 1 << 17 else 32
        return Config(16, side, 4, 1) if stage == "dkv" else Config(side, 16, 4, 1)
    if rows is _TABLE[90] and pair_values < 8 and (kind, stage, wanted) in _BY_ROWS:
        return _BY_ROWS[kind, stage, wanted]
    steps = rows[stage, wanted]
    return steps[max(values for values in steps if values <= pair_values)]


def joins(stage: str, target: Target | None, chosen: Config, width: int) -> bool:
    """Whether a stage may have full and partial tiles as one sequence; target None: the interpreter. ``width``: the
    largest dimension of a head, padded. On an H200 tiles of 64 x 64 gained from it, but for dK and dV with D = 64."""
    if target is None:
        return stage in ("forward", "dkv")
    square = (chosen.q_tile, chosen.k_tile, chosen.warps) == (64, 64, 4)
    return target.arch == 90 and square and (stage == "forward" or (stage == "dkv" and width > 64))


def candidates(
    stage: str,
    target: Target | None,
    head_dim: int,
    value_dim: int,
    dtype: str,
    pair_values: int = 1,
    kind: Rows = "usual",
) -> tuple[Config, ...]:
    """The configurations that are worth measuring, that of ``config`` first. Dimensions are padded."""
    width = max(head_dim, value_dim)
    default = config(stage, target, width, dtype, pair_values, kind)
    if target is None:
        return _INTERPRETED
    size = 4 if dtype in _WIDE else 2
    others = [c for c in _OTHERS.get(stage, ()) if fits(c, stage, target, head_dim, value_dim, size)]
    return tuple(dict.fromkeys([default, *others]))


def fits(chosen: Config, stage: str, target: Target, head_dim: int, value_dim: int, size: int) -> bool:
    """Whether a kernel's tiles of elements of ``size`` bytes fit the chip, by a rough count: operands that stay and
    ``stages`` of those that move in shared memory; accumulators, scores and addresses of what moves in registers."""
    rows, cols = (chosen.k_tile, chosen.q_tile) if stage == "dkv" else (chosen.q_tile, chosen.k_tile)
    both = head_dim + value_dim
    staying = rows * (head_dim if stage in ("forward", "decode") else both) * size
    moving = chosen.stages * cols * both * size
    sums = {"dq": head_dim, "dkv": both}.get(stage, value_dim)
    scores = 1.5 if stage in ("forward", "decode") else 2.5
    registers = (rows * (sums + scores * cols) + cols * both) / (chosen.warps * target.warp_size)
    return staying + moving <= shared_memory(target) and registers <= _REGISTERS
