"""What each program instance of the kernel of sums over pairs adds up: tiles, and the heads and batch entries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from maskc.backends.triton.launch import on_device
from maskc.backends.triton.pairs import Grouping
from maskc.tiles.plan import TilePlan
from maskc.tiles.runs import concatenated_ranges, row_of_runs
from maskc.tiles.tiling import Group, Runs

__all__ = ["DeviceJobs", "PairJobs", "jobs_on", "most_blocks", "pair_jobs"]

Array = npt.NDArray[Any]
Tensor = torch.Tensor
#: Most tiles of heads and batch entries that one instance adds up, so that there are enough instances.
_LONGEST = 64


@dataclass(frozen=True, eq=False)
class PairJobs:
    """int32 arrays. Job ``j`` adds up the tiles ``tile_first[j]`` to ``tile_last[j]`` (excluded) of the lists
    ``tile_rows`` and ``tile_columns``, of the members ``member_first[j]`` to ``member_last[j]`` (excluded) of the
    list ``members``: batch entry times heads plus head."""

    member_first: Array
    member_last: Array
    tile_first: Array
    tile_last: Array
    members: Array
    tile_rows: Array
    tile_columns: Array


def pair_jobs(plan: TilePlan, apart: Grouping) -> PairJobs:
    """The jobs that together hold every live tile of ``plan`` once for each head and batch entry.

    A job has one tile, or some with one difference of row and column where ``apart`` says that these may share
    their sums, and members that may.
    """
    tiles: dict[Runs, tuple[Array, Array]] = {}  # where the tiles of each job begin and end in the lists
    lists: list[Array] = [np.zeros((2, 0))]
    members: list[Array] = [np.zeros(0)]
    jobs: list[Array] = [np.zeros((4, 0))]
    for group in plan.groups:
        inner = _members(group, plan.binding.heads, apart)
        if group.runs not in tiles:
            found, base = _tiles(group.runs, apart.by_difference), sum(x.shape[1] for x in lists)
            longest = max(1, _LONGEST // min(inner.shape[1], _LONGEST))
            cuts = np.append(_cuts(found, longest, apart.by_difference), found.shape[1]) + base
            tiles[group.runs] = cuts[:-1], cuts[1:]
            lists.append(found)
        ranges = _member_ranges(inner, sum(m.size for m in members))
        jobs.append(np.stack([x.ravel() for x in np.broadcast_arrays(*ranges, *tiles[group.runs])]))
        members.append(inner.ravel())
    joined = np.concatenate(jobs, axis=1).astype(np.int32)
    rows, columns = np.concatenate(lists, axis=1).astype(np.int32)
    every = np.concatenate(members).astype(np.int32)
    return PairJobs(joined[0], joined[1], joined[2], joined[3], every, rows, columns)


def _members(group: Group, heads: int, apart: Grouping) -> Array:
    """A row for those that share their sums."""
    each: Array = np.asarray(group.batches)[:, None] * heads + np.asarray(group.heads)[None, :]
    if apart.by_head:
        return each.reshape(-1, 1) if apart.by_batch else each.T
    return each if apart.by_batch else each.reshape(1, -1)


def _member_ranges(inner: Array, base: int) -> tuple[Array, Array]:
    """First and last of at most ``_LONGEST`` members of every row, (ranges, 1) each."""
    first = np.arange(0, inner.shape[1], _LONGEST)
    last = np.minimum(first + _LONGEST, inner.shape[1])
    rows = base + np.arange(inner.shape[0])[:, None] * inner.shape[1]
    return (rows + first).reshape(-1, 1), (rows + last).reshape(-1, 1)


def _tiles(runs: Runs, by_difference: bool) -> Array:
    """Rows and columns of the live tiles, (2, tiles); those of a diagonal side by side."""
    length = runs.end.astype(np.int64) - runs.start
    row, column = np.repeat(row_of_runs(runs), length), concatenated_ranges(runs.start, length)
    order: Sequence[int] | slice | Array = np.argsort(row - column, kind="stable") if by_difference else slice(None)
    return np.stack([row[order], column[order]])


def _cuts(tiles: Array, longest: int, by_difference: bool) -> Array:
    """Where a job's tiles begin."""
    if not by_difference or not tiles.size:
        return np.arange(tiles.shape[1])
    difference = tiles[0] - tiles[1]
    changes = np.flatnonzero(np.diff(difference, prepend=difference[0] - 1))
    within = np.arange(difference.size) - np.repeat(changes, np.diff(np.append(changes, difference.size)))
    return np.flatnonzero(within % longest == 0)


#: Elements of the blocks that are held at once. Sums along diagonals need little more; else an index for each.
_MOST_SUMMED, _MOST_SCATTERED = 1 << 24, 1 << 22


def most_blocks(apart: Grouping, q_tile: int, k_tile: int) -> int:
    """How many blocks are held at once."""
    return max(1, (_MOST_SUMMED if apart.by_difference else _MOST_SCATTERED) // (q_tile * k_tile))


@dataclass(frozen=True, eq=False)
class DeviceJobs:
    """``PairJobs``, or some of them, on a device. ``arguments``: those of the kernel."""

    arguments: dict[str, Tensor]

    @property
    def count(self) -> int:
        """How many jobs there are."""
        return self.arguments["tile_first"].shape[0]

    def chunks(self, most: int) -> Iterator[DeviceJobs]:
        """``most`` jobs at a time."""
        for start in range(0, self.count, most):
            yield DeviceJobs({n: x[start : start + most] if n in _A_JOB else x for n, x in self.arguments.items()})

    def first(self, heads: int, q_tile: int, k_tile: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Batch entry, head, and places of the first query and key of every job's first tile."""
        member = self.arguments["members"][self.arguments["member_first"].long()]
        tile = self.arguments["tile_first"].long()
        q, k = self.arguments["tile_rows"][tile] * q_tile, self.arguments["tile_columns"][tile] * k_tile
        return torch.div(member, heads, rounding_mode="floor"), member % heads, q, k


_A_JOB = ("member_first", "member_last", "tile_first", "tile_last")


def jobs_on(jobs: PairJobs, device: torch.device) -> DeviceJobs:
    """The jobs' arrays on a device."""
    return DeviceJobs({f.name: on_device(getattr(jobs, f.name), device) for f in fields(jobs)})
