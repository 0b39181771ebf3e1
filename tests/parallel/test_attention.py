"""Attention over a sequence that is divided among processes: see ``processes.py`` for what they check."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import torch.distributed as dist

import maskc
from maskc.parallel import Chunk, ContextParallel, Partition

from .processes import run


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A process group of this process."""
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("this torch has no gloo")
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="this torch has no gloo")
def test_three_processes(tmp_path: Path) -> None:
    run(3, str(tmp_path))


@pytest.mark.usefixtures("alone")
def test_one_process_needs_nobody() -> None:
    op = maskc.compile("causal & sliding_window(30)", heads=2)
    attend = ContextParallel(op)
    q, k, v = (torch.randn(1, 2, 100, 16) for _ in range(3))
    torch.testing.assert_close(attend(q, k, v, attend.partition(100)), op(q, k, v))


@pytest.mark.usefixtures("alone")
def test_inputs_are_not_kept_and_may_change_in_place() -> None:
    op = maskc.compile("pattern p(doc: int[token]) { attend same(doc) }", heads=2)
    attend, doc = ContextParallel(op), torch.arange(100) // 30
    division = attend.partition(100, doc=doc)
    q, k, v = (torch.randn(1, 2, 100, 16) for _ in range(3))
    for length in (20, 7):
        doc.copy_(torch.arange(100) // length)
        torch.testing.assert_close(attend(q, k, v, division, doc=doc), op(q, k, v, doc=doc.clone()))
    gone = weakref.ref(doc)
    del doc
    gc.collect()
    assert gone() is None


LEARNED = """pattern p(doc: int[token], slope: float[head], of: float[q]) {
    attend causal & same(doc)
    score s + slope[h] * (k - q) + of[q]
}"""
MISTAKES: list[tuple[str, dict[str, Any], str]] = [
    (LEARNED, {"slope": None}, "E501"),
    (LEARNED, {"slope": torch.zeros(3)}, "E505"),
    (LEARNED, {"slope": torch.zeros(2, device="meta")}, "E512"),
    (LEARNED, {"slope": "steep"}, "E503"),
    (LEARNED, {"of": torch.zeros(99)}, "E505"),
    (LEARNED, {"scale": True}, "E503"),
    (LEARNED, {"scale": float("nan")}, "E504"),
    (LEARNED, {"dropout": 0.1}, "E702"),
    (LEARNED.replace("attend", "normalize sigmoid\nattend"), {"return_lse": True}, "E702"),
]


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(("text", "change", "code"), MISTAKES)
def test_mistakes_are_said_before_anything_is_sent(text: str, change: dict[str, Any], code: str) -> None:
    attend, doc = ContextParallel(maskc.compile(text, heads=2)), np.arange(100) // 30
    given = {"doc": doc, "slope": torch.zeros(2), "of": torch.zeros(100), **change}
    q, k, v = (torch.randn(1, 2, 100, 16) for _ in range(3))
    _refused(code, attend, q, k, v, attend.partition(100, doc=doc), **{n: x for n, x in given.items() if x is not None})


@pytest.mark.usefixtures("alone")
def test_what_cannot_be_sent() -> None:
    attend = ContextParallel(maskc.compile("causal", heads=2))
    q, k, v = (torch.randn(1, 2, 100, 16) for _ in range(3))
    division = attend.partition(100)
    _refused("E512", attend, *(x.to("meta") for x in (q, k, v)), division)
    _refused("E702", torch.vmap(lambda x: attend(x, k, v, division)), q[None])
    _refused("E702", torch.func.grad(lambda x: attend(q, x, v, division).sum()), k)
    flex = ContextParallel(maskc.compile("causal", heads=2, backend="flex"))
    _refused("E702", flex, *(x[..., :8] for x in (q, k, v)), division)


def _refused(code: str, call: Callable[..., Any], *args: Any, **options: Any) -> None:
    with (
        mock.patch("maskc.parallel.attention.exchange", side_effect=AssertionError("sent")),
        pytest.raises(maskc.MaskcError) as error,
    ):
        call(*args, **options)
    assert error.value.diagnostics[0].code == code


@pytest.mark.usefixtures("alone")
def test_assertions_are_those_of_the_whole_sequence() -> None:
    doc = np.arange(400) // 40
    q, k, v = (torch.randn(1, 2, 400, 16) for _ in range(3))
    # Two chunks of one rank: the second attends over keys that are counted from its own first one.
    division = Partition(400, ((Chunk(0, 160), Chunk(160, 400)),), np.ones(1), np.zeros(1, np.int64), "balanced")
    text = "pattern p(doc: int[token]) {{ attend causal & same(doc)\n assert {} }}"
    for claim in ("doc[k] == k // 40", "k < size(k) & size(k) == 400", "q - k < 40"):
        op = maskc.compile(text.format(claim), heads=2, check=True)
        out = ContextParallel(op)(q, k, v, division, doc=doc)
        torch.testing.assert_close(out, op(q, k, v, doc=doc))
    op = maskc.compile(text.format("q - k < 39"), heads=2, check=True)
    _refused("E513", ContextParallel(op), q, k, v, division, doc=doc)


@pytest.mark.usefixtures("alone")
def test_divisions_are_sent_around_without_what_is_remembered() -> None:
    """Arrays are told apart by numbers that another process has given to others."""
    attend, doc = ContextParallel(maskc.compile(LEARNED, heads=2)), np.arange(5000) // 30
    division = attend.partition(5000, doc=doc)
    q, k, v = (torch.randn(1, 2, 5000, 16) for _ in range(3))
    attend(q, k, v, division, doc=doc, slope=torch.zeros(2), of=torch.zeros(5000))
    assert division.memory
    for again in (pickle.loads(pickle.dumps(division)), copy.deepcopy(division)):
        assert again.digest == division.digest
        assert again.to_dict() == division.to_dict()
        assert not again.memory


def test_how_many_groups_is_told_and_copied() -> None:
    op = maskc.compile("causal", heads=2)
    assert copy.deepcopy(ContextParallel(op, overlap=4)).overlap == 4
    assert ContextParallel(op).overlap is None
    for overlap, code in ((0, "E504"), (2.0, "E503"), (True, "E503")):
        with pytest.raises(maskc.MaskcError) as error:
            ContextParallel(op, overlap=overlap)  # type: ignore[arg-type]
        assert error.value.diagnostics[0].code == code
    assert pickle.loads(pickle.dumps(maskc.parallel.partition(op, 100, 2, exchange=7))).exchange == 7


def test_without_a_process_group() -> None:
    op = maskc.compile("causal", heads=2)
    q, k, v = (torch.randn(1, 2, 100, 16) for _ in range(3))
    with pytest.raises(ValueError, match="process group"):
        ContextParallel(op)(q, k, v, maskc.parallel.partition(op, 100, 1))
