"""Text found on this machine: the sources of Python's own library, packed into rows of bytes."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from pathlib import Path

import torch


def documents(seed: int, longest: int) -> Iterator[bytes]:
    """Stretches of source files, 32 to ``longest`` bytes, at random and without end."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    texts = [t for t in (f.read_bytes() for f in files) if len(t) > 2 * longest]
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    while True:
        text = texts[draw(0, len(texts))]
        size = draw(32, longest)
        start = draw(0, len(text) - size)
        yield text[start : start + size]


def batches(batch: int, length: int, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Tokens, the number of each token's document, and its position therein: (batch, length) each, without end."""
    source = documents(seed, length * 3 // 4)
    while True:
        yield tuple(torch.stack(x) for x in zip(*(_row(source, length) for _ in range(batch)), strict=True))  # type: ignore[misc]


def _row(source: Iterator[bytes], length: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    tokens: list[int] = []
    doc: list[int] = []
    position: list[int] = []
    number = 0
    while len(tokens) < length:
        text = next(source)[: length - len(tokens)]
        tokens += text
        doc += [number] * len(text)
        position += range(len(text))
        number += 1
    return torch.tensor(tokens), torch.tensor(doc), torch.tensor(position)
