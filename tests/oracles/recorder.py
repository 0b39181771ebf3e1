"""Tiny random Transformers models, and a recorder of the masks that their own code builds.

The recorder is an attention implementation of its own: its mask function materialises what the
model asks for, its attention function notes what arrives in each layer. Reading ``attentions > 0``
would not do: weights underflow to 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from interop import models
from torch import Tensor
from transformers import AttentionInterface, AutoModel, PreTrainedConfig
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "maskc_recorder"
TINY: dict[str, Any] = {**models.TINY, "cls_token_id": 1, "sep_token_id": 2}


@dataclass
class Call:
    """What one layer's attention was given: ``mask`` (batch, heads or 1, queries, keys), True = attend, for the
    keys from absolute position ``kv_offset`` on; ``extra`` are its other keyword arguments."""

    layer: int
    mask: npt.NDArray[np.bool_]
    kv_offset: int
    query: Tensor
    key: Tensor
    value: Tensor
    extra: dict[str, Any]


@dataclass
class _State:
    calls: list[Call] = field(default_factory=list)
    # The offset that a mask was built for, by the identity of the mask, which is kept alive here.
    built: dict[int, tuple[Tensor, int]] = field(default_factory=dict)


_STATE = _State()


def _attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **extra: Any
) -> tuple[Tensor, None]:
    assert attention_mask is not None, "the model asked for no mask"
    _, offset = _STATE.built[id(attention_mask)]
    layer = int(getattr(module, "layer_idx", len(_STATE.calls)))
    mask = attention_mask[..., : key.shape[2]].numpy()
    _STATE.calls.append(Call(layer, mask, offset, query, key, value, extra))
    return query.new_zeros(query.shape[0], query.shape[2], query.shape[1], value.shape[-1]), None


def _mask(*, kv_offset: int = 0, **arguments: Any) -> Tensor:
    skips = {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
    mask = sdpa_mask(kv_offset=kv_offset, **{**arguments, **skips})
    assert mask is not None
    _STATE.built[id(mask)] = (mask, kv_offset)
    return mask


def tiny_model(config_class: type[PreTrainedConfig], implementation: str = NAME, **changes: Any) -> torch.nn.Module:
    """A random model with a few small layers, in evaluation mode, that attends by the recorder.

    A change to None leaves the setting to the configuration class.
    """
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, _mask)
    torch.manual_seed(0)
    settings = {**TINY, **changes}
    config = config_class(**{name: value for name, value in settings.items() if value is not None})
    return AutoModel.from_config(deepcopy(config), attn_implementation=implementation).eval()


@contextmanager
def recording() -> Iterator[list[Call]]:
    """The calls made within, in order; nothing needs a gradient."""
    _STATE.calls, _STATE.built = [], {}
    with torch.no_grad():
        yield _STATE.calls


def tokens(batch: int, length: int) -> Tensor:
    """Token ids that are no special token."""
    return (torch.arange(batch * length) % 50 + 5).view(batch, length)
