"""What the arrays of a format say, pair by pair: the engines' own definitions, written again from their documents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["RULES"]

Array = npt.NDArray[Any]


def flash_attention(a: Mapping[str, Any], q_len: int, k_len: int) -> Array:
    """``flash_attn_varlen_func``: windows count from a query's own key, the last one of the last query."""
    keep = np.zeros((q_len, k_len), np.bool_)
    q_cut, k_cut = a["cu_seqlens_q"], a["cu_seqlens_k"]
    assert (q_cut[0], k_cut[0], q_cut[-1], k_cut[-1]) == (0, 0, q_len, k_len)
    assert a["max_seqlen_q"] >= np.diff(q_cut).max(initial=0)
    assert a["max_seqlen_k"] >= np.diff(k_cut).max(initial=0)
    left, right = a["window_size"]
    right = 0 if a["causal"] else right
    for s in range(len(q_cut) - 1):
        n, m = q_cut[s + 1] - q_cut[s], k_cut[s + 1] - k_cut[s]
        for i in range(n):
            for j in range(m):
                low = left < 0 or i + m - n - left <= j
                keep[q_cut[s] + i, k_cut[s] + j] = low and (right < 0 or j <= i + m - n + right)
    return keep


def flash_attention_4(a: Mapping[str, Any], q_len: int, k_len: int) -> Array:
    """``flash_attn.cute.flash_attn_varlen_func``: None is no bound, and both are dropped where their sum is below 0."""
    keep = np.zeros((q_len, k_len), np.bool_)
    q_cut, k_cut = a["cu_seqlens_q"], a["cu_seqlens_k"]
    assert a.keys() == {"cu_seqlens_q", "cu_seqlens_k", "causal", "window_size"}
    left, right = a["window_size"]
    right = 0 if a["causal"] else right
    if left is not None and right is not None and left + right < 0:
        left = right = None
    for s in range(len(q_cut) - 1):
        i, j = np.arange(q_cut[s + 1] - q_cut[s])[:, None], np.arange(k_cut[s + 1] - k_cut[s])
        own = i + j.size - i.size
        inside = np.ones((i.size, j.size), np.bool_)
        inside &= True if left is None else j >= own - left
        inside &= True if right is None else j <= own + right
        keep[q_cut[s] : q_cut[s + 1], k_cut[s] : k_cut[s + 1]] = inside
    return keep


def varlen_attn(a: Mapping[str, Any], q_len: int, k_len: int) -> Array:
    """``torch.nn.attention.varlen.varlen_attn``: the same under other names, and a window of (-1, 0) is causal."""
    assert "causal" not in a
    names = {"cu_seq_q": "cu_seqlens_q", "cu_seq_k": "cu_seqlens_k", "max_q": "max_seqlen_q", "max_k": "max_seqlen_k"}
    return flash_attention({names.get(n, n): x for n, x in a.items()} | {"causal": False}, q_len, k_len)


def flash_mask(indices: Array, causal: bool, q_len: int) -> Array:
    """One head of ``startend_row_indices``, (keys, 1, 2 or 4), as in the docstring of ``flashmask_attention``."""
    k_len, numbers = indices.shape
    keep = np.ones((q_len, k_len), np.bool_)
    for j, x in enumerate(indices):
        if causal:
            keep[: max(0, j - (k_len - q_len)), j] = False
            keep[x[0] : (x[1] if numbers == 2 else q_len), j] = False
        elif numbers == 2:
            keep[x[0] :, j] = False
            keep[: x[1], j] = False
        else:
            assert numbers == 4
            keep[x[0] : x[1], j] = False
            keep[x[2] : x[3], j] = False
    return keep


def magi_attention(a: Mapping[str, Any], q_len: int, k_len: int) -> Array:
    """``flex_flash_attn_func``: 1 is aligned to the bottom right corner of a slice, 2 to the top left, 3 is both."""
    seen = np.zeros((q_len, k_len), np.int64)
    for (q0, q1), (k0, k1), kind in zip(a["q_ranges"], a["k_ranges"], a["attn_type_map"], strict=True):
        n, m = q1 - q0, k1 - k0
        assert n > 0
        assert m > 0
        part = np.ones((n, m), np.bool_)
        if kind & 1:
            part &= np.tri(n, m, m - n, dtype=np.bool_)
        if kind & 2:
            part &= ~np.tri(n, m, -1, dtype=np.bool_)
        seen[q0:q1, k0:k1] += part
    assert seen.max(initial=0) <= 1, "a pair is in two slices, and would be counted twice"
    return seen > 0


def flash_infer(a: Mapping[str, Any], q_len: int, k_len: int) -> Array:
    """``scipy.sparse.bsr_matrix``, with a mask for each block."""
    r, c = a["R"], a["C"]
    assert (a["M"], a["N"]) == (q_len, k_len)
    keep = np.zeros((-(-q_len // r) * r, k_len), np.bool_)
    for row in range(len(a["indptr"]) - 1):
        for at in range(a["indptr"][row], a["indptr"][row + 1]):
            col = a["indices"][at]
            block = a["mask"][at] if "mask" in a else True
            keep[row * r : (row + 1) * r, col * c : (col + 1) * c] = block
    assert not keep[q_len:].any() or "mask" not in a
    return keep[:q_len]


def splash_attention(a: Mapping[str, Any], q_len: int, k_len: int) -> Array:
    """``flash_attention_kernel`` of JAX's Splash attention, and ``_flash_attention_dkv_kernel``: what each visits."""
    r, c, masks = a["block_q"], a["block_kv"], a.get("partial_mask_blocks")
    heads = a["block_mask"].shape[0]
    forward, backward = (np.zeros((heads, q_len, k_len), np.int64) for _ in range(2))
    assert a["block_mask"].shape[1] == q_len // r
    assert a["dkv_block_mask"].shape[2] == k_len // c
    for seen, part, by_key in ((forward, "", False), (backward, "dkv_", True)):
        assert a[f"{part}data_next"].shape == a[f"{part}block_mask"].shape
        for h, x, y in np.ndindex(a[f"{part}block_mask"].shape):
            kind, at = a[f"{part}block_mask"][h, x, y], a[f"{part}data_next"][h, x, y]
            i, j = (at, y) if by_key else (x, at)
            assert 0 <= i < q_len // r
            assert 0 <= j < k_len // c
            mask = None if masks is None else masks[a[f"{part}mask_next"][h, x, y]]
            if kind:
                seen[h, i * r : (i + 1) * r, j * c : (j + 1) * c] += 1 if kind == 2 else mask
    assert forward.max(initial=0) <= 1, "a block is visited twice"
    np.testing.assert_array_equal(forward, backward)
    assert forward.any(2).all(), "the sum of a query without keys is 0, and its output NaN"
    return forward > 0


def _flash_mask(a: Mapping[str, Any], q_len: int, k_len: int) -> Array:
    indices = a["startend_row_indices"]
    assert indices.dtype == np.int32
    assert indices.min(initial=0) >= 0
    assert indices.max(initial=0) <= q_len
    return np.stack([np.stack([flash_mask(x, a["causal"], q_len) for x in entry]) for entry in indices])


def _packed(rule: Any) -> Any:
    """Of a format that has batch entries one after another: one mask for all heads of each."""

    def dense(a: Mapping[str, Any], q_len: int, k_len: int, batch: int) -> Array:
        whole = rule(a, batch * q_len, batch * k_len).reshape(batch, q_len, batch, k_len)
        for b in range(batch):
            assert not np.delete(whole[b], b, axis=1).any(), "an entry sees another one"
        return np.stack([whole[b, :, b] for b in range(batch)])[:, None]

    return dense


#: From arrays and options, lengths and the number of batch entries to (batch, heads or 1, queries, keys).
RULES: dict[str, Any] = {
    "varlen": _packed(flash_attention),
    "varlen_cute": _packed(flash_attention_4),
    "varlen_attn": _packed(varlen_attn),
    "magi": _packed(magi_attention),
    "flashmask": lambda a, q_len, k_len, batch: _flash_mask(a, q_len, k_len),
    "flashinfer": lambda a, q_len, k_len, batch: flash_infer(a, q_len, k_len)[None, None],
    "splash": lambda a, q_len, k_len, batch: splash_attention(a, q_len, k_len)[None],
}
