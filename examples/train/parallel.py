"""Train the same model in one process, and in two that divide every sequence between them. The losses are the same.

    python examples/train/parallel.py [--steps 20] [--length 1024] [--ranks 2]

The processes are on this machine and use its CPU; on GPUs the backend would be "nccl", and ``torchrun`` would start
them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

sys.path.insert(0, str(Path(__file__).parent))

WIDTHS = {"dim": 64, "heads": 4, "layers": 4, "window": 64}
#: Largest difference between the losses of a step: sums are taken in another order.
TOLERANCE = 1e-3


def train(rank: int, ranks: int, steps: int, length: int, folder: str) -> None:
    """What each process does; the first one stores the losses."""
    from model import LanguageModel
    from text import batches

    from maskc.nn import Attention
    from maskc.parallel import partition

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting-{ranks}", rank=rank, world_size=ranks)
    torch.manual_seed(0)  # the same parameters everywhere
    net = LanguageModel(Attention, length=length, **WIDTHS)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    source, losses = batches(2, length, seed=0), []
    for _ in range(steps):
        tokens, doc, position = next(source)  # in practice each rank would read its own tokens, and all of ``doc``
        wanted = torch.nn.functional.pad(
            torch.where(doc[:, 1:] == doc[:, :-1], tokens[:, 1:], -100), (0, 1), value=-100
        )
        division = partition([block.attention.op for block in net.blocks], length, ranks, doc=doc)
        mine = [division.shard(x, rank, dim=1) for x in (tokens, position, wanted)]
        logits = net(mine[0], doc, mine[1], division)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), mine[2].flatten(), reduction="sum")
        loss = loss / (wanted >= 0).sum()  # over all tokens, not those of this rank
        optimizer.zero_grad()
        loss.backward()
        for p in net.parameters():  # the ranks' gradients add up, as their losses do
            dist.all_reduce(p.grad)
        dist.all_reduce(loss.detach())
        optimizer.step()
        losses.append(loss.item())
    if rank == 0:
        torch.save(losses, f"{folder}/{ranks}")
    dist.destroy_process_group()


def losses_of(ranks: int, steps: int, length: int) -> list[float]:
    """The losses of a run in ``ranks`` processes."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(train, (ranks, steps, length, folder), nprocs=ranks)
        found: list[float] = torch.load(f"{folder}/{ranks}")
    return found


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    for name, usual in {"steps": 20, "length": 1024, "ranks": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=usual)
    given: Any = parser.parse_args(words)
    one, many = (losses_of(ranks, given.steps, given.length) for ranks in (1, given.ranks))
    for step, (a, b) in enumerate(zip(one, many, strict=True), 1):
        print(f"step {step:3}: loss {a:.5f} in one process, {b:.5f} in {given.ranks}")
    difference = max(abs(a - b) for a, b in zip(one, many, strict=True))
    print(f"largest difference between the losses of a step: {difference:.1e} (tolerance {TOLERANCE:.0e})")
    return int(difference > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
