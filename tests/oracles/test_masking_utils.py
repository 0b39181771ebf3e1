"""Transformers' mask functions, by themselves, against the words of the prelude."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch")
masking = pytest.importorskip("transformers.masking_utils", reason="needs the extra `oracles`")

from .patterns import Mask, expression, visible  # noqa: E402

pytestmark = pytest.mark.oracle


def theirs(mask_function: Any, q_len: int, k_len: int) -> Mask:
    mask: Mask = masking.sdpa_mask(
        batch_size=1, q_length=q_len, kv_length=k_len, q_offset=k_len - q_len, allow_is_causal_skip=False,
        mask_function=mask_function,
    )[0, 0].numpy()  # fmt: skip
    return mask


@pytest.mark.parametrize(("q_len", "k_len"), [(1, 1), (13, 13), (3, 13), (1, 40)])
@pytest.mark.parametrize(
    ("text", "function"),
    [
        ("causal", "causal_mask_function"),
        ("all", "bidirectional_mask_function"),
        ("sliding_window(1)", ("sliding_window_causal_mask_function", 1)),
        ("sliding_window(5)", ("sliding_window_causal_mask_function", 5)),
        ("window(5, 5)", ("sliding_window_bidirectional_mask_function", 5)),
        ("causal & chunk(4)", ("chunked_causal_mask_function", 4, [0])),
        ("causal & (chunk(4) on token - 3)", ("chunked_causal_mask_function", 4, [3])),
    ],
)
def test_mask_function(text: str, function: Any, q_len: int, k_len: int) -> None:
    name, *arguments = (function,) if isinstance(function, str) else function
    made = getattr(masking, name)
    if arguments:
        made = made(*(torch.tensor(a) if isinstance(a, list) else a for a in arguments))
    np.testing.assert_array_equal(visible(expression(text), q_len, k_len), theirs(made, q_len, k_len))


def test_packed_sequences() -> None:
    ids = np.repeat([0, 1, 2], [4, 7, 2])
    function = masking.and_masks(
        masking.packed_sequence_mask_function(torch.from_numpy(ids)[None]), masking.causal_mask_function
    )
    program = expression("pattern p(doc: int[token]) { attend causal & same(doc) }")
    np.testing.assert_array_equal(visible(program, 13, doc=ids), theirs(function, 13, 13))


def test_packed_sequences_are_found_by_their_positions() -> None:
    """What Transformers infers from ``position_ids`` is the input ``doc`` here."""
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 0, 1, 2]])
    found = masking.find_packed_sequence_indices(positions)
    assert found.tolist() == [[0, 0, 0, 0, 1, 1, 2, 2, 2]]


def test_or_masks() -> None:
    function = masking.or_masks(masking.causal_mask_function, masking.sliding_window_bidirectional_mask_function(2))
    np.testing.assert_array_equal(visible(expression("causal | window(2, 2)"), 9), theirs(function, 9, 9))
