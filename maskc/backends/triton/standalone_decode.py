"""What a standalone file holds for decoding: the function ``decode``, and how it starts both kernels."""

from __future__ import annotations

__all__ = ["DECODE"]

DECODE = '''

def check_caches(q, k, v, lengths, block_table, start, layer, sizes, tables):
    """``check`` for ``decode``. The values of lengths and pages are not looked at: they may lie on a GPU."""
    check_names("decode", sizes, tables)
    whole = {"lengths": lengths} if start is None else {"lengths": lengths, "start": start}
    pages = {} if block_table is None else {"block_table": block_table}
    check_tensors({"q": q, "k_cache": k, "v_cache": v, **whole, **pages} | {name: tables[name] for name in DOMAINS})
    found = f"found q {tuple(q.shape)}, k_cache {tuple(k.shape)}, v_cache {tuple(v.shape)}"
    layout = "(B, Hk, capacity, D)" if block_table is None else "pages (pages, keys, Hk, D)"
    fits = q.dim() == k.dim() == v.dim() == 4 and q.shape[3] == k.shape[3] and k.shape[:3] == v.shape[:3]
    if not fits or (block_table is None and q.shape[0] != k.shape[0]) or (pages and k.shape[1] == 0):
        raise ValueError(f"expected q (B, H, Nq, D), k_cache {layout} and v_cache the same with Dv, {found}")
    check_heads(q, k.shape[1 if block_table is None else 2], v.shape[3], found)
    check_dtypes(q, k, v)
    check_tables(q, {}, layer, tables)
    whole |= {name: n for name, n in sizes.items() if torch.is_tensor(n)}
    for name, x in {**whole, **pages}.items():
        axes = ("B", "most pages") if name == "block_table" else ("B",)
        if x.dim() != len(axes) or x.shape[0] != q.shape[0]:
            raise ValueError(f"expected {name} of shape ({', '.join(axes)}), found {tuple(x.shape)}")
        integers = x.dtype in (torch.int32, torch.int64) or x.numel() == 0  # an empty list has no type of its own
        if not integers or x.device != q.device:
            raise ValueError(f"expected {name} to be int32 or int64 on the device of q, found {x.dtype} on {x.device}")
    asking = [name for name, x in {"q": q, "k_cache": k, "v_cache": v, **tables}.items() if x.requires_grad]
    if asking and torch.is_grad_enabled():
        raise ValueError(f"decode() computes no gradient, of {', '.join(asking)}: call it under torch.no_grad()")


def run_cached(q, k, v, lengths, block_table, start, scale, given):
    """Output and log-sum-exp (0 where there is no softmax) by two kernels: several program instances share the keys of
    an entry, and the second kernel joins what they leave."""
    batch, heads, rows, _ = q.shape
    axes = "bhnd" if block_table is None else "bnhd"  # of pages, "b" is the page
    page = 0 if block_table is None else k.shape[1]
    capacity = k.shape[2] if block_table is None else block_table.shape[1] * page
    group = heads // k.shape[axes.index("h")]
    pack = max(n for n in range(1, min(group, 64) + 1) if group % n == 0)  # heads that are rows of one tile
    q_tile = min(64, max(16, 1 << (rows * pack - 1).bit_length()))
    tiles = batch * (heads // pack) * -(-rows // (q_tile // pack))
    dims, (_, k_tile, warps, stages) = tile_of("decode", q, v)
    splits = 2
    if q.is_cuda:
        processors = torch.cuda.get_device_properties(q.device).multi_processor_count
        splits = max(1, min(capacity // 256, -(-8 * processors // tiles), 128))
    out = torch.empty((*q.shape[:3], v.shape[3]), dtype=q.dtype, device=q.device)
    parts = torch.empty((splits, *out.shape), dtype=torch.float32, device=q.device)
    lse = torch.zeros(q.shape[:3], dtype=torch.float32, device=q.device)
    values = {**given, **dims, **table_values(given), "Q_TILE": q_tile, "K_TILE": k_tile, "PRECISION": "ieee"}
    values |= {"q_ptr": q, "k_ptr": k, "v_ptr": v, "part_ptr": parts, "lse_ptr": torch.empty_like(parts[..., 0])}
    values |= {"out_ptr": out, "plain_ptr": torch.empty_like(out), "whole_ptr": lse, "scale": scale}
    lengths, starts = (x.contiguous() for x in (lengths, lengths if start is None else start))  # as kernels read them
    values |= {"lengths": lengths, "starts": starts, "STARTED": start is not None}
    values |= {"block_table": lengths if block_table is None else block_table, "PAGE": page, "pages": k.shape[0]}
    values |= dict(zip(("table_sb", "table_sn"), (0, 0) if block_table is None else block_table.stride(), strict=True))
    values |= {"rows": rows, "batch": batch, "splits": splits, "PACK": pack, "group": group, "capacity": capacity}
    for prefix, x, names in (("q", q, "bhnd"), ("k", k, axes), ("v", v, axes), ("o", out, "bhnd")):
        values.update({f"{prefix}_s{axis}": s for axis, s in zip(names, x.stride(), strict=True)})
    for name in SIZES:
        size = given[f"size_{name}"]
        values[f"size_{name}_of"] = size.contiguous() if torch.is_tensor(size) else torch.full_like(lengths, size)
    for kernel, programs in ((attention_cached, tiles * splits), (attention_merge, tiles)):
        arguments = {name: values[name] for name in kernel.arg_names}
        with torch.cuda.device(q.device) if q.is_cuda else contextlib.nullcontext():
            kernel[(programs,)](**arguments, num_warps=warps, num_stages=stages)
    return out, lse


def decode(q, k_cache, v_cache, lengths, /, block_table=None, *, start=None, scale=None, layer=0, return_lse=False,
           sizes=None, tables=None, **more):
    """Attention of the last queries of sequences of unlike lengths over their cached keys, without gradients.

    q is (batch, heads, queries, dim); k_cache and v_cache are (batch, key heads, capacity, dim), or with
    ``block_table`` (batch, most pages) pages (pages, keys a page, key heads, dim). ``lengths`` (batch,) are the keys of
    each entry, its new ones included; 0 is an entry that is not there. ``start`` (batch,) is the position of the first
    key in each cache. ``sizes`` are extents, a number or for each entry one (batch,); ``tables`` and ``more`` as in
    ``attention``, over tokens with room for the longest entry. Gives the output, with ``return_lse`` also the
    log-sum-exp (batch, heads, queries). Queries before an entry's first key get 0 and minus infinity.

    Nothing is read back from a GPU, so nobody looks at what lengths and pages hold: the output of an entry that keeps
    a key beyond its cache, or on a page that there is not, is NaN. Look-ups behind the end of a table give its last
    value.
    """
    tables, sizes = {**(tables or {}), **more}, dict(sizes or {})
    if torch.is_tensor(q):
        lengths = torch.as_tensor(lengths, device=q.device)
        start = None if start is None else torch.as_tensor(start, device=q.device)
    check_caches(q, k_cache, v_cache, lengths, block_table, start, layer, sizes, tables)
    if return_lse and not SOFTMAX:
        raise ValueError("there is no log-sum-exp where weights are not normalised by a softmax")
    q, k_cache, v_cache = (x.resolve_neg() for x in (q, k_cache, v_cache))
    given = {"layer": layer, "heads": q.shape[1], "behind": 0}
    given["tables"] = {name: tables[name].resolve_neg() for name in TABLES}
    given.update({f"size_{name}": sizes[name] for name in SIZES})
    scale = q.shape[3] ** -0.5 if scale is None else float(scale)
    if scale <= 0:
        q, scale = q * scale, 1.0
    if q.numel() == 0:
        out, lse = q.new_zeros((*q.shape[:3], v_cache.shape[3])), q.new_zeros(q.shape[:3], dtype=torch.float32)
    else:
        out, lse = run_cached(q, k_cache, v_cache, lengths, block_table, start, scale, given)
    return (out, lse) if return_lse else out
'''
