"""Chunks, drafts and prefixes, as ``docs/serving.md`` shows them, give what plain attention does."""

from __future__ import annotations

import pytest
import torch

import maskc
from maskc.diagnostics import MaskcError

Tensor = torch.Tensor
_HEADS, _BLOCK = 4, 4


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _paged(cache: Tensor) -> tuple[Tensor, Tensor]:
    """A cache (B, Hkv, N, D) in pages, and the table."""
    batch, heads, tokens, dim = cache.shape
    pages = cache.transpose(1, 2).reshape(batch * tokens // _BLOCK, _BLOCK, heads, dim)
    return pages, torch.arange(len(pages), dtype=torch.int32).view(batch, -1)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_entries_with_fewer_new_tokens(backend: str) -> None:
    """What fills an entry up may hold anything, and asks for no page that the window has left behind."""
    window, rows = 6, 5
    lengths, new = torch.tensor([30, 24, 3, 32]), torch.tensor([1, 5, 2, 3])
    text = f"pattern p(first: int[batch]) {{ attend sliding_window({window}) & q >= first[b] }}"
    op = maskc.compile(text, heads=_HEADS, backend=backend)
    plain = maskc.compile(f"sliding_window({window})", heads=_HEADS, backend=backend)
    q, k, v = _random(4, _HEADS, rows, 16), _random(4, 2, 32, 16, seed=1), _random(4, 2, 32, 16, seed=2)
    (k_pages, table), (v_pages, _) = _paged(k), _paged(v)
    for b, (length, count) in enumerate(zip(lengths.tolist(), new.tolist(), strict=True)):
        q[b, :, : rows - count] = torch.nan
        table[b, : max(0, length - count - window + 1) // _BLOCK] = -1
    out, lse = op.decode(q, k_pages, v_pages, lengths, table, first=lengths - new, return_lse=True)
    for b, (length, count) in enumerate(zip(lengths.tolist(), new.tolist(), strict=True)):
        wanted = plain(q[b : b + 1, :, rows - count :], k[b : b + 1, :, :length], v[b : b + 1, :, :length])
        torch.testing.assert_close(out[b : b + 1, :, rows - count :], wanted)
        assert not out[b, :, : rows - count].any()
        assert lse[b, :, : rows - count].eq(-torch.inf).all()
    with pytest.raises(MaskcError, match="keeps keys on page -1"):
        plain.decode(q.nan_to_num(), k_pages, v_pages, lengths, table)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_trees_of_drafts(backend: str) -> None:
    """Every draft gets what it gets at the end of its own line of drafts."""
    parents, lengths = [-1, 0, 0, 1, 1], torch.tensor([20, 5, 13])
    text = "pattern tree(context: int[batch], sees: bool[q, 8]) { attend k < context[b] | sees[q, k - context[b]] }"
    op = maskc.compile(text, heads=_HEADS, backend=backend)
    causal = maskc.compile("causal", heads=_HEADS, backend=backend)
    sees, lines = torch.zeros(5, 8, dtype=torch.bool), []
    for draft, parent in enumerate(parents):
        lines.append([*([] if parent < 0 else lines[parent]), draft])
        sees[draft, lines[draft]] = True
    q, k, v = _random(3, _HEADS, 5, 16), _random(3, 2, 20, 16, seed=1), _random(3, 2, 20, 16, seed=2)
    out = op.decode(q, k, v, lengths, context=lengths - 5, sees=sees)
    for b, length in enumerate(lengths.tolist()):
        for draft, line in enumerate(lines):
            at = [*range(length - 5), *(length - 5 + i for i in line)]
            wanted = causal(q[b : b + 1, :, draft : draft + 1], k[b : b + 1, :, at], v[b : b + 1, :, at])
            torch.testing.assert_close(out[b : b + 1, :, draft : draft + 1], wanted)


def test_a_shared_prefix_that_is_read_once() -> None:
    shared, rest = 12, torch.tensor([7, 0, 3])
    prefix = maskc.compile("pattern p over every_query -> prefix { attend all }", heads=_HEADS)
    causal = maskc.compile("causal", heads=_HEADS)
    q, own = _random(3, _HEADS, 1, 16), [_random(3, 2, 7, 16, seed=i) for i in (1, 2)]
    common = [_random(1, 2, shared, 16, seed=i) for i in (3, 4)]
    far, far_lse = prefix.decode(q.transpose(0, 2), *common, [shared], return_lse=True)
    near, near_lse = causal.decode(q, *own, shared + rest, start=[shared] * 3, return_lse=True)
    weight = torch.sigmoid(near_lse - far_lse.permute(2, 1, 0))[..., None]
    whole = [torch.cat([a.expand(3, -1, -1, -1), b], dim=2) for a, b in zip(common, own, strict=True)]
    wanted = causal.decode(q, *whole, shared + rest)
    torch.testing.assert_close(torch.lerp(far.transpose(0, 2), near, weight), wanted)
