"""What Splash attention needs to know of a mask: ``maskc.export`` beside JAX's own reading, which looks at every block.

``python benchmarks/splash.py [--most 32768] [--rounds 3] [--markdown]``, with ``pip install jax``. Both make the arrays
of the forward pass and of dK and dV, for blocks of 512 x 512; JAX's are ``process_mask`` and ``process_mask_dkv`` of
its lazy masks. They take turns; medians.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import maskc

BLOCK = 512
SPLASH = "jax.experimental.pallas.ops.tpu.splash_attention"
if importlib.util.find_spec("jax") is None:
    print("this benchmark needs JAX: pip install jax")
    sys.exit()
masks = importlib.import_module(f"{SPLASH}.splash_attention_mask")
info = importlib.import_module(f"{SPLASH}.splash_attention_mask_info")

#: The pattern, and JAX's mask of so many tokens.
CASES: dict[str, tuple[str, Callable[[int], Any]]] = {
    "causal": ("causal", lambda n: masks.CausalMask((n, n))),
    "window of 4096": ("sliding_window(4096)", lambda n: masks.LocalMask((n, n), (4095, 0), 0)),
    "sinks and window": (
        "causal & (sinks(512) | sliding_window(4096))",
        lambda n: masks.CausalMask((n, n)) & (_Sinks(n) | masks.LocalMask((n, n), (4095, 0), 0)),
    ),
}


class _Sinks(masks._ComputableMask):  # type: ignore[misc, name-defined]
    """The first 512 keys."""

    def __init__(self, n: int) -> None:
        super().__init__(shape=(n, n), mask_function=lambda q, k: k < 512)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.shape == other.shape  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return hash((type(self), self.shape))


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def theirs(mask: Any) -> None:
    """Both readings, not those that are remembered."""
    info._process_mask.cache_clear()
    whole = masks.MultiHeadMask([mask])
    info.process_mask(whole, (BLOCK, BLOCK))
    info.process_mask_dkv(whole, (BLOCK, BLOCK))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--most", type=int, default=32768, help="tokens of the longest one that JAX reads")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--markdown", action="store_true")
    given = parser.parse_args()
    bar = "| {} | {} | {} | {} | {} |" if given.markdown else "{:<18} {:>9} {:>10} {:>10} {:>8}"
    if given.markdown:
        version, load = importlib.import_module("jax").__version__, os.getloadavg()[0]
        print("# Splash attention's masks\n")
        print(f"By `python benchmarks/splash.py --markdown`: JAX {version}, {os.cpu_count()} cores (load {load:.1f}).")
        print("Both make the arrays of the forward pass and of dK and dV, for blocks of 512 x 512; medians of")
        print(f"{given.rounds} turns. JAX looks at every block, and was asked for {given.most:,} tokens at most.\n")
    print(bar.format("mask", "tokens", "maskc, s", "JAX, s", "times"), flush=True)
    if given.markdown:
        print(bar.format(*["---"] * 5))
    for name, (text, mask) in CASES.items():
        for n in (8192, 32768, 131072, 1 << 20):

            def ours(text: str = text, n: int = n) -> None:
                maskc.export(text, "splash", n, q_tile=BLOCK, k_tile=BLOCK)

            ours()
            own, other = [], []
            for _ in range(given.rounds):
                own.append(seconds(ours))
                if n <= given.most:
                    other.append(seconds(lambda mask=mask, n=n: theirs(mask(n))))
            a = statistics.median(own)
            b = statistics.median(other) if other else None
            print(
                bar.format(
                    name, f"{n:,}", f"{a:.3f}", "" if b is None else f"{b:.2f}", "" if b is None else f"{b / a:.0f}"
                ),
                flush=True,
            )


if __name__ == "__main__":
    main()
