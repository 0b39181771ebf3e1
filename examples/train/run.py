"""Train a small language model twice from the same seed: with dense masks and with maskc. The losses are the same.

    python examples/train/run.py [--steps 200] [--length 512] [--out out/train.png]

Each run has a process of its own, so that its peak memory can be told.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

#: Largest difference between the losses of a step: sums are taken in another order, and errors grow with the steps.
TOLERANCE = 1e-3


@dataclass
class Settings:
    """What is trained on what."""

    steps: int = 200
    batch: int = 2
    length: int = 512
    dim: int = 64
    heads: int = 4
    layers: int = 4
    window: int = 64
    seed: int = 0
    threads: int = 1  # of torch: with few, runs beside other work can be compared


@dataclass
class Run:
    """What came of one run: the losses, the seconds of every step, and the peak memory above the start in MiB."""

    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    memory: float = 0.0


def train(name: str, settings: Settings, report: Any) -> Run:
    """Train one model; ``report(step, loss)`` after every step."""
    import torch
    from model import IMPLEMENTATIONS, LanguageModel
    from text import batches

    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    sizes = {n: getattr(settings, n) for n in ("dim", "heads", "layers", "length", "window")}
    net = LanguageModel(IMPLEMENTATIONS[name], **sizes)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    source = batches(settings.batch, settings.length, settings.seed)
    start, run = _peak(), Run()
    for step in range(settings.steps):
        tokens, doc, position = next(source)
        before = time.perf_counter()
        logits = net(tokens, doc, position)
        # The next byte, but not that of the next document.
        wanted = torch.where(doc[:, 1:] == doc[:, :-1], tokens[:, 1:], -100)
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), wanted.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run.seconds.append(time.perf_counter() - before)
        run.losses.append(loss.item())
        report(step + 1, run.losses[-1])
    run.memory = _peak() - start
    return run


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _child(name: str, settings: Settings, pipe: Any) -> None:
    pipe.send(train(name, settings, lambda step, loss: pipe.send((step, loss))))


def watch(name: str, settings: Settings) -> Run:
    """Train in a process of its own, behind a progress bar."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(name, settings, theirs))
    child.start()
    theirs.close()
    columns = [TextColumn("{task.description:20}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    try:
        with Progress(*columns, TextColumn("loss {task.fields[loss]:.3f}")) as progress:
            task = progress.add_task(name, total=settings.steps, loss=float("nan"))
            while True:
                message = ours.recv()  # EOFError: the process failed, and has said why
                if isinstance(message, Run):
                    return message
                progress.update(task, completed=message[0], loss=message[1])
    finally:
        child.join()


def show(runs: dict[str, Run]) -> float:
    """A table of the runs; the largest difference between their losses."""
    from rich.console import Console
    from rich.table import Table

    table = Table("attention", "last loss", "ms a step (median)", "peak memory of training, MiB")
    for name, run in runs.items():
        middle = sorted(run.seconds)[len(run.seconds) // 2]
        table.add_row(name, f"{run.losses[-1]:.4f}", f"{middle * 1e3:.0f}", f"{run.memory:.0f}")
    one, other = runs.values()
    difference = max(abs(a - b) for a, b in zip(one.losses, other.losses, strict=True))
    console = Console()
    console.print(table)
    console.print(f"largest difference between the losses of a step: {difference:.1e} (tolerance {TOLERANCE:.0e})")
    return difference


def plot(runs: dict[str, Run], path: Path) -> None:
    """The losses, and their differences below."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (top, bottom) = pyplot.subplots(2, 1, figsize=(7, 6), sharex=True, height_ratios=(3, 1))
    for (name, run), style in zip(runs.items(), ("-", "--"), strict=True):
        top.plot(run.losses, style, label=name)
    one, other = runs.values()
    bottom.semilogy([max(abs(a - b), 1e-9) for a, b in zip(one.losses, other.losses, strict=True)], color="gray")
    top.set_ylabel("loss, nats a byte")
    top.legend()
    bottom.set_ylabel("difference")
    bottom.set_xlabel("step")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, bbox_inches="tight")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    defaults = Settings()
    for name in ("steps", "batch", "length", "window", "seed", "threads"):
        parser.add_argument(f"--{name}", type=int, default=getattr(defaults, name))
    parser.add_argument("--out", type=Path, default=Path("out/train.png"))
    given = vars(parser.parse_args())
    out = given.pop("out")
    settings = Settings(**given)
    runs = {name: watch(name, settings) for name in ("eager, dense mask", "maskc")}
    difference = show(runs)
    try:
        plot(runs, out)
        print(f"{out} written")
    except ModuleNotFoundError:
        print("no plot: it needs matplotlib (pip install 'maskc[plot]')")
    return int(difference > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
