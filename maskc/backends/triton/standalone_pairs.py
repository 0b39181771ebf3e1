"""What a standalone file holds for gradients of what a score reads by query and key together, such as position biases:
it starts ``attention_pairs`` for some blocks of pairs after others, and adds these to the tables with torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from maskc.backends.triton.jobs import most_blocks
from maskc.backends.triton.pairs import grouping, is_by_difference
from maskc.ir.nodes import Lookup

__all__ = ["pairs_text"]

_READ = """

# What the score reads by query and key together: the input, where, and whether that is a function of q - k.
BY_PAIRS = [
{rows}
]
# How many pairs the blocks hold at once, and how many tiles a program instance adds up: there are to be enough of them.
MOST_PAIRS, MOST_TILES = {most}, 64
"""

_PULL_PAIRS = '''

def live_tiles(found):
    """The mask, row and column of every live tile of a plan."""
    lines, parts = found["schedule"].flatten(0, 1).long(), []
    for word, at in (("full", 1), ("part", 3)):
        first, count = lines[:, at], lines[:, at + 1] - lines[:, at]
        line = torch.arange(len(lines), device=lines.device).repeat_interleave(count)
        column = torch.arange(len(line), device=lines.device) + (first - count.cumsum(0) + count)[line]
        if not found[f"{{word.upper()}}_RUN"]:
            column = found[f"{{word}}_tiles"].long()[column]
        parts.append(torch.stack([line // found["tile_rows"], lines[line, 0], column]))
    return torch.cat(parts, 1)


def pair_jobs(found, q_tile, k_tile):
    """For every mask of a plan, lists of what program instances add up: tiles from ``tile_first`` to ``tile_last``
    (excluded) of ``tile_rows`` and ``tile_columns``, of ``members`` from ``member_first`` to ``member_last``: batch
    entry times heads plus head. An instance takes one of the former and one of the latter stretches."""
    batch, heads = found["plan_of"].shape
    masks, rows, columns = live_tiles(found)
    every, jobs = torch.arange(batch * heads, device=rows.device).view(batch, heads), []
    for i in range(len(found["schedule"])):
        entries = every[found["plan_of"] == i].view(1 if BY_BATCH else batch, -1)  # batch entries, heads
        members = {members}
        size = members.shape[1]
        first = torch.arange(0, size, MOST_TILES, device=rows.device)
        base = torch.arange(len(members), device=rows.device)[:, None] * size
        lists = {{"members": members, "member_first": base + first}}
        lists["member_last"] = base + (first + MOST_TILES).clamp(max=size)
{tiles}
        jobs.append({{name: x.flatten().to(torch.int32) for name, x in lists.items()}})
    return jobs


def along_diagonals(blocks):
    """Sums (blocks, rows + columns - 1, 1) over the pairs with one difference of row and column, from 1 - columns to
    rows - 1."""
    count, rows, columns = blocks.shape
    # Row r of the view starts r elements before row r of the padded blocks does: it is moved right by r.
    padded = torch.nn.functional.pad(blocks.flip(2), (0, rows)).view(count, -1)
    return padded[:, : rows * (rows + columns - 1)].view(count, rows, -1).sum(1)[..., None]


def pull_pairs(total, given, values, q, k, v):
    """Add to ``total`` the gradients of what the score reads by query and key together: an instance of the kernel
    leaves a block of sums over tiles that read the same elements at the same places."""
    (batch, heads), device = q.shape[:2], q.device
    dims, (q_tile, k_tile, warps, stages) = tile_of("pairs", q, v)
    found = plan(given, batch, heads, q_tile, k_tile, device, False)
    if "jobs" not in found:  # they are kept with the plan
        found["jobs"] = pair_jobs(found, q_tile, k_tile)
    values = {{**given, **values, **dims, **table_values(given), "heads": heads, "group": heads // k.shape[1]}}
    values |= {{"Q_TILE": q_tile, "K_TILE": k_tile, "PRECISION": "ieee"}}
    values.update({{"RAGGED_Q": given["q_len"] % q_tile != 0, "RAGGED_K": given["k_len"] % k_tile != 0}})
    for prefix, x in (("q", q), ("k", k), ("v", v), ("do", values["do_ptr"])):
        values.update({{f"{{prefix}}_s{{axis}}": s for axis, s in zip("bhnd", x.stride(), strict=True)}})
    most = max(1, MOST_PAIRS // (q_tile * k_tile))
    for lists in found["jobs"]:
        tiles = len(lists["tile_first"])
        jobs = tiles * len(lists["member_first"])
        for start in range(0, jobs, most):
            job = torch.arange(start, min(start + most, jobs), device=device)
            member, tile = job // tiles, job % tiles
            mine = {{name: lists[name][member] for name in ("member_first", "member_last")}}
            mine |= {{name: lists[name][tile] for name in ("tile_first", "tile_last")}}
            blocks = [torch.empty((len(job), q_tile, k_tile), dtype=torch.float32, device=device) for _ in BY_PAIRS]
            named = {{**values, **lists, **mine, **{{f"table_{{i}}_ptr": x for i, x in enumerate(blocks)}}}}
            arguments = {{name: named[name] for name in attention_pairs.arg_names}}
            with torch.cuda.device(device) if q.is_cuda else contextlib.nullcontext():
                attention_pairs[(len(job),)](**arguments, num_warps=warps, num_stages=stages)
            entry = lists["members"][mine["member_first"].long()].long()
            row, column = (lists[name][mine["tile_first"].long()].long() for name in ("tile_rows", "tile_columns"))
            first = entry // heads, entry % heads, row * q_tile + given["offset"], column * k_tile
            pull_blocks(total, given, blocks, *(x[:, None, None] for x in first))


def pull_blocks(total, given, blocks, b, h, q, k):
    """Add blocks (blocks, rows, columns) to ``total``: their sums belong where the first tile of each reads, whose
    batch entry, head and first positions are given."""
    for (name, places, by_difference), sums in zip(BY_PAIRS, blocks, strict=True):
        _, rows, columns = sums.shape
        if by_difference:
            row = torch.arange(1 - columns, rows, device=q.device)[:, None]
            pull(total[name], places(q + row, k, b, h, given), along_diagonals(sums))
        else:
            row, column = (torch.arange(n, device=q.device) for n in (rows, columns))
            pull(total[name], places(q + row[:, None], k + column, b, h, given), sums)
'''

#: Where a program instance adds up tiles along diagonals, and where one tile.
_TILES_ALONG = """        # Tiles of a diagonal side by side, and cut where the next one starts, or after some of them.
        row, column = (x[masks == i] for x in (rows, columns))
        difference, order = (row * q_tile - column * k_tile).sort(stable=True)
        at = torch.arange(len(order), device=rows.device)
        starts = torch.cat([at[:1] == 0, difference[1:] != difference[:-1]])
        within = at - torch.where(starts, at, 0).cummax(0).values
        cuts = (within % max(1, MOST_TILES // min(size, MOST_TILES)) == 0).nonzero()
        lists |= {"tile_rows": row[order], "tile_columns": column[order], "tile_first": cuts}
        lists["tile_last"] = torch.cat([cuts[1:], torch.full_like(cuts[:1], len(order))])"""
_TILES_ALONE = """        row, column = (x[masks == i] for x in (rows, columns))
        at = torch.arange(len(row), device=rows.device)
        lists |= {"tile_rows": row, "tile_columns": column, "tile_first": at, "tile_last": at + 1}"""

#: The members whose sums are shared are a row; by whether they are kept apart by the head, and by the batch entry.
_MEMBERS = {
    (False, False): "entries.reshape(1, -1)  # all share their sums",
    (False, True): "entries  # the heads of a batch entry share their sums",
    (True, False): "entries.T  # the batch entries of a head share their sums",
    (True, True): "entries.reshape(-1, 1)  # none shares its sums",
}


def pairs_text(
    lookups: Sequence[Lookup], batched: frozenset[str], function: Callable[[str, Lookup], str]
) -> tuple[str, str]:
    """Functions of the file that say where sums over pairs belong, and all that brings them there.
    ``function``: the text of the former for a look-up, by the name that it gets."""
    apart = grouping(lookups, batched, True)
    places = "".join("\n\n" + function(f"places_{i}", node) for i, node in enumerate(lookups))
    rows = [f"    ({json.dumps(n.name)}, places_{i}, {is_by_difference(n)})," for i, n in enumerate(lookups)]
    read = _READ.format(rows="\n".join(rows), most=most_blocks(apart, 1, 1))
    members = _MEMBERS[apart.by_head, apart.by_batch]
    return places, read + _PULL_PAIRS.format(
        members=members, tiles=_TILES_ALONG if apart.by_difference else _TILES_ALONE
    )
