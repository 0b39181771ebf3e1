"""Runs the page's evaluator under node, and gives back what it computes."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import maskc.picture

EVALUATOR = Path(maskc.picture.__file__).parent / "evaluate.js"
NODE = shutil.which("node")

_PROGRAM = """
const maskc = require(process.argv[1]);
const chunks = [];
process.stdin.on("data", (c) => chunks.push(c));
process.stdin.on("end", async () => {
  const job = JSON.parse(Buffer.concat(chunks).toString());
  const block = await maskc.inflate(job.block);
  const plain = (x) => (Number.isFinite(x) ? x : String(x));
  const answers = job.questions.map((ask) => {
    try {
      return run(job, block, ask);
    } catch (error) {
      return { error: `${error instanceof maskc.Inexact ? "Inexact" : "Error"}: ${error.message}` };
    }
  });
  process.stdout.write(JSON.stringify(answers));

  function run(job, block, ask) {
    if (ask.runs) {
      const r = maskc.runs(block, ask.runs);
      return Object.fromEntries(Object.entries(r).map(([n, v]) => [n, Array.from(v)]));
    }
    if (ask.array) return Array.from(maskc.array(block, ask.array), plain);
    const e = new maskc.Evaluator(job.nodes, maskc.tables(block, job.tables));
    const at = { h: 0, b: 0, layer: 0, ...ask.at };
    if (ask.why) {
      const x = new maskc.Examiner(e, job.texts, job.sources);
      return maskc.sentence(ask.q, ask.k, x.examine(ask.root, ask.q, ask.k, at));
    }
    return Array.from(e.full(ask.root, Float64Array.from(ask.q), Float64Array.from(ask.k), at), plain);
  }
});
"""


def run_node(job: dict[str, Any]) -> list[Any]:
    """The answers to ``job["questions"]``; an error is a dict with its text."""
    assert NODE is not None
    done = subprocess.run(
        [NODE, "-e", _PROGRAM, str(EVALUATOR)], input=json.dumps(job), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    answers: list[Any] = json.loads(done.stdout)
    return answers
