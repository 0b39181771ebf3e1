"""Versions of Transformers: those that are too old are refused, and the masks of older ones are read."""

from __future__ import annotations

import pytest

import maskc

torch = pytest.importorskip("torch", reason="needs torch")
transformers = pytest.importorskip("transformers", reason="needs the extra `hf`")

from maskc.interop.transformers import register  # noqa: E402
from maskc.interop.transformers.attention import mask  # noqa: E402
from maskc.interop.transformers.inputs import documents_of  # noqa: E402


@pytest.mark.parametrize("version", ["4.56.2", "5.4.0", "5.21.1"])
def test_one_that_is_too_old_is_refused(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformers, "__version__", version)
    with pytest.raises(maskc.MaskcError, match=f"5.22 or later is needed, and {version} is installed") as error:
        register()
    assert error.value.codes == ("E703",)


@pytest.mark.parametrize("version", ["5.22.0", "5.23.0.dev0", "6.0.0rc1"])
def test_others_are_not(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformers, "__version__", version)
    register()


def test_documents_of_masks_that_say_nothing_of_positions() -> None:
    """As up to Transformers 5.22: what is packed is told by the documents alone."""
    from transformers.masking_utils import and_masks, causal_mask_function, packed_sequence_mask_function

    doc = torch.tensor([[0, 0, 0, 1, 1, 2], [0, 1, 1, 1, 1, 1]])
    function = and_masks(causal_mask_function, packed_sequence_mask_function(doc))
    handle = mask(batch_size=2, q_length=6, kv_length=6, mask_function=function)
    found = documents_of(handle.request)
    assert found is not None
    assert torch.equal(found.doc, doc)
    assert found.position.tolist() == [[0, 1, 2, 0, 1, 0], [0, 0, 1, 2, 3, 4]]
