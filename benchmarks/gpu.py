"""Attention on a GPU: correct first, then against compiled FlexAttention and SDPA. Needs torch, triton and lark.

    python benchmarks/gpu.py [--minutes 7.5] [--rounds 12] [--only WORD] [--out FILE] [--dry-run]

Prints a table last, and writes it to docs/benchmarks/gpu-<device>.md as it grows. Every figure is the median of runs
that take turns with those of the others. Other processes use the GPU, so that a row that fails, hangs or brings the
driver down costs no other row. ``--dry-run`` tries all of it on tiny inputs without a GPU, and writes only to --out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import queue
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _gpu_rows import CHECKS, PATTERNS

ROOT = Path(__file__).parents[1]
WORK = Path(__file__).parent / "_gpu_work.py"
ROUNDS = 12
FAILED = 75  # exit status of a process that told of a failure, after which the GPU may be of no use to it
CHECK_SECONDS, ROW_SECONDS = 150.0, 120.0  # the most that a row may take of each
Row = dict[str, Any]


@dataclass
class Run:
    """One run of the benchmark: where results come together."""

    device: str
    deadline: float
    rounds: int
    environment: dict[str, str]
    rows: dict[str, Row] = field(default_factory=dict)
    news: queue.Queue[Row | None] = field(default_factory=queue.Queue)

    def note(self, mode: str, name: str, why: str) -> None:
        """What became of a row that could not be done."""
        self.news.put({"name": name, "correct" if mode == "check" else "failed": why})


class Worker:
    """A process that uses the GPU, and what it says."""

    def __init__(self, run: Run, mode: str, names: list[str]) -> None:
        self.run, self.mode, self.names = run, mode, names
        self.started, self.ready = 0, False
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed when the process has ended
        command = [sys.executable, str(WORK), mode, run.device, str(run.rounds), *names]
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._errors, "text": True}
        self._process = subprocess.Popen(command, env=run.environment, cwd=ROOT, **pipes)
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=_read, args=(self._process.stdout, self._lines), daemon=True).start()

    def hear(self, seconds: float, until_ready: bool = False) -> bool:
        """Take in what it says until it ends, or is ready; False where it has ended. A row may take ``seconds``."""
        since, why = time.monotonic(), ""
        while True:
            limit = min(since + seconds, self.run.deadline)
            try:
                line = self._lines.get(timeout=max(0.1, limit - time.monotonic()))
            except queue.Empty:
                why = "took too long" if time.monotonic() < self.run.deadline else "not finished in time"
                self._process.kill()
                break
            if line is None:
                break
            before = self.started
            self._take(line)
            since = time.monotonic() if self.started > before else since
            if self.ready and until_ready:
                return True
        self._ended(why)
        return False

    def go(self) -> None:
        """Let it measure."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def _take(self, line: str) -> None:
        try:
            told = json.loads(line) if line.startswith("{") else {}
        except ValueError:
            return
        self.started += "start" in told
        self.ready = self.ready or "ready" in told
        if "row" in told:
            self.run.news.put(told["row"])

    def _ended(self, why: str) -> None:
        code = self._process.wait()
        with self._errors:
            if code in (0, FAILED):  # all done, or it said why not
                return
            self._errors.seek(0)
            last = self._errors.read().strip().splitlines()[-1:] or [""]
        why = why or f"the process ended with {code}: {last[0]}"[:200]
        self.run.note(self.mode, self.names[max(0, self.started - 1)], why)


def check(run: Run, names: list[str]) -> None:
    """Have all ``names`` checked, by one process as long as it lives, else by others."""
    left = list(names)
    while left and time.monotonic() < run.deadline:
        worker = Worker(run, "check", left)
        worker.hear(CHECK_SECONDS)
        left = left[max(1, worker.started) :]
    for name in left:
        run.note("check", name, "not reached")
    run.news.put(None)


class Measured:
    """A row that is to be measured by a process of its own: compiled beside others, then alone on the GPU."""

    def __init__(self, run: Run, name: str, slots: threading.Semaphore) -> None:
        self.run, self.name, self._slots = run, name, slots
        self.worker: Worker | None = None
        self._compiled, self._thread = threading.Event(), threading.Thread(target=self._compile, daemon=True)
        self._thread.start()

    def _compile(self) -> None:
        with self._slots:
            if time.monotonic() < self.run.deadline:
                worker = Worker(self.run, "measure", [self.name])
                self.worker = worker if worker.hear(CHECK_SECONDS, until_ready=True) else None
        self._compiled.set()

    def wait(self) -> None:
        """Until it is compiled, or never will be."""
        self._compiled.wait()

    def measure(self) -> None:
        """Now."""
        if time.monotonic() > self.run.deadline:
            self.run.note("measure", self.name, "not reached")
        elif self.worker is not None:
            self.worker.go()
            self.worker.hear(ROW_SECONDS)


def measure(run: Run, rows: list[Measured]) -> None:
    """Measure rows that are right, one after another, once all are compiled."""
    for row in rows:
        row.wait()
    for row in rows:
        if run.rows[row.name].get("correct") == "yes":
            row.measure()
    run.news.put(None)


def _read(pipe: Any, lines: queue.Queue[str | None]) -> None:
    for line in pipe:
        lines.put(line)
    lines.put(None)


def gather(run: Run, threads: int, path: Path | None, head: str) -> None:
    """Take in what the threads tell until all have ended; the page is written again with every piece of news."""
    while threads:
        row = run.news.get()
        if row is None:
            threads -= 1
            continue
        run.rows[row["name"]].update(row)
        what = row.get("failed") or row.get("correct") or ", ".join(f"{n} {ms:.2f}" for n, ms in row["times"].items())
        print(f"{row['name']}: {what}", flush=True)
        if path is not None:
            write_page(path, head, run.rows.values())


# -- The page ------------------------------------------------------------------------------------------------------

_DENSE = ("flash causal", "cudnn causal", "flash full", "cudnn full")
HEADS = (
    "pattern | correct | fwd | flex | x | SDPA | masked | TFLOP/s | bwd | flex | x | SDPA | masked | TFLOP/s"
    " | tiles | compile s | plan ms | first s | host us | flex | MiB | flex MiB | notes"
)


def table(rows: Iterable[Row]) -> list[str]:
    """Markdown: milliseconds, and how many times as long FlexAttention takes."""
    lines = [f"| {HEADS} |", "|" + "---|" * (HEADS.count("|") + 1)]
    for r in rows:
        times, peak = r.get("times", {}), r.get("peak", {})
        cells = [r["name"], r.get("correct", "")]
        for way, factor in (("forward", 1.0), ("backward", 2.5)):
            mine, flex = times.get(f"maskc {way}"), times.get(f"flex {way}")
            cells += [_number(mine), _number(flex), _number(flex / mine if mine and flex else None)]
            cells += [_dense(times, way), _number(times.get(f"masked {way}"))]
            cells.append(_number(factor * r["work"] / mine / 1e9 if mine and r["work"] else None, 0))
        cells += [_number(100 * r["tiles"], 1) + " %" if "tiles" in r else "", _number(r.get("compile_s"), 1)]
        cells += [_number(r.get("plan_ms"), 1), _number(r.get("first_s"), 1)]
        cells += [_number(r.get("host", {}).get(n), 0) for n in ("maskc", "flex")]
        cells += [_number(peak[n] / 2**20 if n in peak else None, 0) for n in ("maskc", "flex")]
        notes = [*r.get("notes", []), *([r["failed"]] if "failed" in r else [])]
        notes += [f"decode(): {times['decode() forward']:.3f} ms"] if "decode() forward" in times else []
        lines.append("| " + " | ".join([*cells, "; ".join(notes).replace("|", "/")]) + " |")
    return lines


def _number(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _dense(times: dict[str, float], way: str) -> str:
    """The fastest of SDPA's kernels: causal where the pattern is, else over all keys."""
    for kind in ("causal", "full"):
        some = {n: times[f"{n} {way}"] for n in _DENSE if n.endswith(kind) and f"{n} {way}" in times}
        if some:
            best = min(some, key=lambda n: some[n])
            return f"{some[best]:.2f} ({best})"
    return ""


def targets(rows: dict[str, Row]) -> list[str]:
    """What was hoped for on an H100 or H200, and what came out."""

    def ratio(name: str, way: str) -> float | None:
        times = rows.get(name, {}).get("times", {})
        mine, flex = times.get(f"maskc {way}"), times.get(f"flex {way}")
        return flex / mine if mine and flex else None

    def rate(name: str, way: str) -> float | None:
        row = rows.get(name, {})
        mine = row.get("times", {}).get(f"maskc {way}")
        return (1.0 if way == "forward" else 2.5) * row["work"] / mine / 1e9 if mine else None

    wanted = [(n, w, "times FlexAttention", 1.0, ratio) for n in ("full 8k", "causal 8k", "causal 32k") for w in _WAYS]
    some = [r for r in rows if r.startswith(("window 1024, 32k", "window 2048", "sinks and", "documents"))]
    wanted += [(n, w, "times FlexAttention", 1.2, ratio) for n in some for w in _WAYS]
    some = [r for r in rows if r.startswith(("dilated", "3-D grid"))]
    wanted += [(n, w, "times FlexAttention", 1.5, ratio) for n in some for w in _WAYS]
    wanted += [("full 8k", "forward", "TFLOP/s", 390.0, rate), ("full 8k", "backward", "TFLOP/s", 290.0, rate)]
    for way in _WAYS:
        dense = rate("full 8k", way)
        sparse = [
            n for n, r in rows.items() if dense and r.get("tiles", 1) < 0.9 and "D 64" not in n and "decode" not in n
        ]
        wanted += [(n, way, "TFLOP/s, 0.85 of the dense kernel's", 0.85 * (dense or 0.0), rate) for n in sparse]
    lines = ["| pattern | pass | at least | measured | |", "|---|---|---|---|---|"]
    for name, way, what, least, measure in wanted:
        found = measure(name, way)
        if found is not None:
            reached = "yes" if found >= least else "no"
            lines.append(f"| {name} | {way} | {least:.3g} {what} | {found:.3g} | {reached} |")
    return lines


_WAYS = ("forward", "backward")


def page_text(head: str, rows: Iterable[Row]) -> str:
    """The whole page."""
    every = list(rows)
    timed = [r for r in every if not r.get("check")]
    checks = [f"| {r['name']} | {r.get('correct', '')} |" for r in every if r.get("check")]
    parts = [*table(timed), "", "## Checks without times", "", "| call | correct |", "|---|---|", *checks]
    return "\n".join([head, *parts, "", "## Targets", "", *targets({r["name"]: r for r in timed}), ""])


def write_page(path: Path, head: str, rows: Iterable[Row]) -> None:
    """Write the page, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(page_text(head, rows), encoding="utf-8")
    os.replace(new, path)


def head_of(device: str) -> tuple[str, str]:
    """The name of the device, and the head of its page; asked of a process of its own, which leaves the GPU alone."""
    code = (
        "import json, torch, triton\n"
        "print(json.dumps([torch.cuda.get_device_name() if torch.cuda.is_available() else '', torch.__version__,"
        " triton.__version__]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    name, torch, triton = json.loads(done.stdout.splitlines()[-1])
    name = name if device == "cuda" else "no GPU (a trial of the benchmark: the times mean nothing)"
    versions = f"torch {torch}, triton {triton}, Python {platform.python_version()}"
    return (
        name,
        f"""# Attention on {name}

By `python benchmarks/gpu.py`; {versions}; bfloat16; times in ms, medians of runs that take turns.
fwd and bwd are maskc's; "x" is how many times as long compiled FlexAttention takes. SDPA is the faster of its flash and
cuDNN kernels over all keys (causal where the pattern is); "masked" is SDPA with a dense mask. TFLOP/s count computed
tiles of 64 x 64. "compile s": first forward and backward pass at a small length with little compiled yet; "first s":
the first one at this length after that. "host us": what submitting a forward pass takes of the processor. MiB:
allocated during a forward and a backward pass beyond what was there.
""",
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=7.5, help="what is not reached by then is left out")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="how often everything is measured")
    parser.add_argument("--only", default="", help="rows whose name holds this")
    parser.add_argument("--out", type=Path, help="the page; by default docs/benchmarks/gpu-<device>.md")
    parser.add_argument("--dry-run", action="store_true", help="tiny inputs, without a GPU")
    asked = parser.parse_args()
    begun = time.monotonic()
    device = "cpu" if asked.dry_run else "cuda"
    name, head = head_of(device)
    if not name:
        print("no GPU that torch can use: nothing to measure (try --dry-run)")
        return 0
    timed = [p.name for p in PATTERNS if asked.only in p.name]
    checked = [c.name for c in CHECKS if asked.only in c.name]
    path = asked.out
    if path is None and not asked.dry_run:
        slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        path = ROOT / "docs" / "benchmarks" / f"gpu-{slug}.md"
    with tempfile.TemporaryDirectory() as caches:
        path_of = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PYTHONPATH": path_of, "MASKC_CACHE_DIR": f"{caches}/maskc"}
        environment |= {"TRITON_CACHE_DIR": f"{caches}/triton", "MASKC_CHECK": "0"}
        environment |= {"TORCHINDUCTOR_CACHE_DIR": f"{caches}/inductor", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
        environment |= {"TRITON_INTERPRET": "1"} if asked.dry_run else {}
        rounds = asked.rounds if device == "cuda" else 1
        run = Run(device, begun + 60 * asked.minutes, rounds, environment)
        run.rows = {n: {"name": n} for n in timed} | {n: {"name": n, "check": True} for n in checked}
        # Compiling takes most of the time: of rows to be measured beside the checks.
        workers = 1 if asked.dry_run else max(1, min(7, (os.cpu_count() or 1) // 2))
        rows = [Measured(run, name, slots) for slots in [threading.Semaphore(workers)] for name in timed]
        names = [*timed, *checked]
        shares = [names[i::workers] for i in range(workers) if names[i::workers]]
        for share in shares:
            threading.Thread(target=check, args=(run, share), daemon=True).start()
        gather(run, len(shares), path, head)
        threading.Thread(target=measure, args=(run, rows), daemon=True).start()
        gather(run, 1, path, head)
    if path is not None:
        print(f"\nwritten to {path}")
    print("\n" + page_text(head, run.rows.values()))
    return int(any(r.get("correct") != "yes" for r in run.rows.values()))


if __name__ == "__main__":
    sys.exit(main())
