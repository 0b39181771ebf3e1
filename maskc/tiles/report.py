"""Figures as words for people."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from maskc.tiles.liveness import Liveness
    from maskc.tiles.reach import Reach

__all__ = ["cache_text", "numbers", "ratio_text", "reach_text", "size_text"]


def ratio_text(value: float, digits: int = 2) -> str:
    """``1.05``; ``-`` for what is no number, as a quotient by nothing."""
    return f"{value:.{digits}f}" if math.isfinite(value) else "-"


def size_text(nbytes: int) -> str:
    """``3.2 KiB``."""
    value, unit = float(nbytes), "bytes"
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{nbytes} bytes" if unit == "bytes" else f"{value:.1f} {unit}"


def cache_text(live: Liveness) -> str:
    """What has to be kept."""
    bound = "" if live.exact else "at most "
    text = f"{bound}{live.most:,} keys are live at once (at query {live.at:,}), {bound}{live.at_end:,} at the end"
    if live.never_seen:
        text += f"; {'' if live.exact else 'at least '}{live.never_seen:,} keys are never seen"
    return text if live.causal else text + "; queries see later keys: not for decoding"


def reach_text(r: Reach) -> str:
    """After how many layers nothing new is heard."""
    whole = "every key up to it" if r.complete else f"{r.reached:,} of {r.keys:,} keys"
    layers = f"{r.layers:,} layer{'' if r.layers == 1 else 's'}"
    if r.level == "tiles":
        layers = f"at least about {layers} (followed on tiles of {r.unit:,} tokens)"
    if r.queries == "last":
        return f"the last query hears of all that it ever will after {layers}: {whole}"
    return f"queries hear of all that they ever will after {layers}: the last one of {whole}"


def numbers(values: tuple[int, ...]) -> str:
    """``0-3, 8``."""
    parts: list[list[int]] = []
    for n in values:
        if parts and parts[-1][1] == n - 1:
            parts[-1][1] = n
        else:
            parts.append([n, n])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)
