"""What is wrong with a call of ``op.decode`` is said before anything is computed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import maskc
from maskc.diagnostics import MaskcError

_Q, _K = (2, 4, 1, 16), (2, 2, 40, 16)
_PAGES = (6, 16, 2, 16)
_F8 = torch.float8_e4m3fn
_TABLE = torch.tensor([[0, 1, 2], [3, 4, -1]], dtype=torch.int32)


def _call(code: str, match: str, text: str = "causal", paged: bool = False, **change: Any) -> None:
    right = {
        "q": torch.zeros(_Q),
        "k_cache": torch.zeros(_PAGES if paged else _K),
        "v_cache": torch.zeros(_PAGES if paged else _K),
        "lengths": torch.tensor([40, 20]),
        **({"block_table": _TABLE} if paged else {}),
    }
    op = maskc.compile(text, heads=4)
    if text == "causal":  # needs no inputs: what was right once says nothing of other calls
        op.decode(**right)
    with pytest.raises(MaskcError, match=match) as error:
        op.decode(**{**right, **change})
    assert error.value.codes == (code,) or error.value.codes == [code]


@pytest.mark.parametrize("paged", [False, True])
def test_tensors(paged: bool) -> None:
    _call("E510", "q must be", paged=paged, q=torch.zeros(2, 4, 16))
    _call("E510", "compiled for 4", paged=paged, q=torch.zeros(2, 8, 1, 16))
    _call("E510", "last dimension", paged=paged, q=torch.zeros(2, 4, 1, 8))
    _call("E511", "float dtype", paged=paged, q=torch.zeros(_Q, dtype=torch.int64))
    _call(
        "E511",
        "k_cache is torch.float16",
        paged=paged,
        k_cache=torch.zeros(_PAGES if paged else _K).half(),
    )
    _call("E510", "agree", paged=paged, v_cache=torch.zeros(2, 2, 3, 16))


def test_pages() -> None:
    _call("E510", r"pages \(num_blocks, block_size, heads, dim\)", paged=True, k_cache=torch.zeros(6, 16, 32))
    _call("E510", "multiple", paged=True, k_cache=torch.zeros(6, 16, 3, 16), v_cache=torch.zeros(6, 16, 3, 16))
    _call("E510", r"block_table must be \(batch", paged=True, block_table=_TABLE[:1])
    _call("E511", "block_table must be int32", paged=True, block_table=_TABLE.float())
    _call("E510", "holds no key", paged=True, k_cache=torch.zeros(6, 0, 2, 16), v_cache=torch.zeros(6, 0, 2, 16))


@pytest.mark.parametrize("paged", [False, True])
def test_lengths(paged: bool) -> None:
    _call("E510", r"one element a batch entry, \(2,\)", paged=paged, lengths=torch.tensor([40]))
    _call("E510", r"one element .*, not \(\)\n.*the same for all of them: \[n\] \* 2", paged=paged, lengths=40)
    _call("E511", "int32 or int64", paged=paged, lengths=torch.tensor([40.0, 20.0]))
    _call("E504", "entry 1 has length -1", paged=paged, lengths=[40, -1])
    _call("E504", "has 60 keys, but its cache holds 4", paged=paged, lengths=[60, 20])
    _call("E504", "entry 0 has length 40 and start 41", paged=paged, start=[41, 0])
    _call("E504", "entry 0 has length 40 and start -1", paged=paged, start=[-1, 0])


def test_pages_that_there_are_not() -> None:
    table = _TABLE.clone()
    table[1, 1] = -1
    _call("E504", "entry 1 keeps keys on page -1", paged=True, block_table=table)
    _call("E504", "entry 0 keeps keys on page 6", paged=True, block_table=_TABLE + 4)
    op = maskc.compile("sliding_window(4)", heads=4, backend="reference")
    table[1, 0] = 99  # no key of which is kept
    table[1, 1] = 4
    op.decode(torch.zeros(_Q), torch.zeros(_PAGES), torch.zeros(_PAGES), [40, 20], table)
    table[1, 1] = 99
    with pytest.raises(MaskcError, match="page 99"):
        op.decode(torch.zeros(_Q), torch.zeros(_PAGES), torch.zeros(_PAGES), [40, 20], table)


_DOCUMENTS = "pattern p(doc: int(0..9)[token]) { attend same(doc) & causal }"


def test_inputs() -> None:
    _call("E501", "needs the input 'doc'", _DOCUMENTS)
    _call("E502", "no input called 'dok'", _DOCUMENTS, dok=torch.zeros(40, dtype=torch.int64))
    _call(
        "E505",
        r"doc: int.* found \(39,\), 39 tokens, but the longest entry has 40 keys\n.*give it for as many",
        _DOCUMENTS,
        doc=torch.zeros(39, dtype=torch.int64),
    )
    _call("E505", "the batch has 2 entries, not 3", _DOCUMENTS, doc=torch.zeros(3, 40, dtype=torch.int64))
    _call("E503", "expected an array of integers|integers", _DOCUMENTS, doc=torch.zeros(40))
    _call("E504", "at most 8|0..9", _DOCUMENTS, doc=torch.full((40,), 9))


def test_what_is_not_computed() -> None:
    _call("E702", "no log-sum-exp", "pattern p { attend causal\n normalize sigmoid }", return_lse=True)
    _call("E702", "no gradients", q=torch.zeros(_Q).requires_grad_())
    slope = torch.zeros(4).requires_grad_()
    _call("E702", "no gradients", "pattern p(slope: float[head]) { attend causal\n score s + slope[h] }", slope=slope)


def test_sizes_that_fit_no_length() -> None:
    _call(
        "E506",
        "text 4 \\+ y \\* x 8|cannot be",
        "pattern p over text ++ grid(y, x) { attend all }",
        sizes={"text": 4, "x": 8},
        lengths=[36, 21],
    )


def test_nothing_in_a_batch() -> None:
    op = maskc.compile("causal", heads=4)
    out, lse = op.decode(
        torch.zeros(0, 4, 1, 16), torch.zeros(0, 2, 40, 16), torch.zeros(0, 2, 40, 8), [], return_lse=True
    )
    assert (out.shape, lse.shape) == ((0, 4, 1, 8), (0, 4, 1))
    none = op.decode(torch.zeros(2, 4, 0, 16), torch.zeros(_K), torch.zeros(_K), [40, 20])
    assert none.shape == (2, 4, 0, 16)


@pytest.mark.parametrize("name", ["lengths", "start"])
@pytest.mark.parametrize(
    ("value", "code", "words"),
    [
        ([40.0, 20.0], "E503", "expected integers, found floats"),
        (np.array([40.0, 20.0]), "E503", "expected integers, found floats"),
        ([float("nan")] * 2, "E503", "expected integers, found floats"),
        ([True, True], "E503", "expected integers, found Booleans"),
        ([1, True], "E503", "expected integers, found Booleans"),
        (np.array([True, True]), "E503", "expected integers, found Booleans"),
        ("ab", "E503", "expected integers, found 'ab'"),
        (["a", "b"], "E503", "expected integers, found strings"),
        ({0: 1}, "E503", "found a dict"),
        ([10**30, 1], "E504", "too large"),
        (np.array([2**64 - 1, 1], np.uint64), "E504", "18446744073709551615 does not fit 64 bits"),
        (torch.tensor([40, 20]).to_sparse(), "E511", "dense tensor"),
    ],
)
def test_lengths_that_are_no_integers(name: str, value: Any, code: str, words: str) -> None:
    _call(code, f"{name}.*{words}", **{name: value})


def test_there_are_lengths() -> None:
    _call("E503", "lengths: expected integers, found None", lengths=None)


def test_lengths_in_sequences_and_arrays() -> None:
    op = maskc.compile("causal", heads=4)
    q, k, v = torch.randn(_Q), torch.randn(_K), torch.randn(_K)
    wanted = op.decode(q, k, v, torch.tensor([40, 20]))
    for lengths in ([40, 20], (40, 20), np.array([40, 20], np.uint8), [np.int64(40), torch.tensor(20)]):
        assert torch.equal(op.decode(q, k, v, lengths), wanted)


@pytest.mark.parametrize("table", [[[0, 1, 2], [3, 4, -1]], "abc", 3, np.zeros((2, 3), np.int64)])
def test_block_tables_that_are_no_tensors(table: Any) -> None:
    _call("E511", "block_table must be a torch tensor", paged=True, block_table=table)


def test_caches_of_other_kinds() -> None:
    _call("E511", "16, 32 or 64 bits", **dict.fromkeys(["q", "k_cache", "v_cache"], torch.zeros(2, 4, 40, 16).to(_F8)))
    _call("E511", "k_cache must be a dense tensor", paged=True, k_cache=torch.zeros(_PAGES).to_sparse())


def test_pages_without_a_table() -> None:
    pages = torch.zeros(_PAGES)
    _call("E510", "need a block_table", k_cache=pages, v_cache=pages)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("paged", [False, True])
@pytest.mark.parametrize("name", ["q", "k_cache", "v_cache"])
def test_nested_tensors(name: str, paged: bool) -> None:
    nested = torch.nested.nested_tensor([torch.zeros(4, 1, 16), torch.zeros(4, 2, 16)])
    _call("E511", f"{name} must be a dense tensor, not a nested one", paged=paged, **{name: nested})


def test_errors_show_what_was_given() -> None:
    """Not the shapes that stand for pages when they are checked."""
    turned = torch.zeros(_PAGES).transpose(1, 2)
    pages = r"k_cache \(6, 2, 16, 16\), v_cache \(6, 2, 16, 16\), where pages are \(num_blocks, "
    exchanged = r"if heads and tokens are exchanged: k_cache\.transpose\(1, 2\), and v_cache alike"
    message = f"multiple of the key heads: .*{pages}.*\n.*{exchanged}"
    _call("E510", message, paged=True, k_cache=turned, v_cache=turned)
    turned = torch.zeros(_K).transpose(1, 2)
    _call("E510", f"multiple of the key heads: .*\n.*{exchanged}", k_cache=turned, v_cache=turned)
    none = torch.zeros(_PAGES)[:0]
    _call("E504", "keeps keys on page 0 .* the cache has no pages", paged=True, k_cache=none, v_cache=none)
    _call("E510", "k_cache and v_cache must agree in batch", v_cache=torch.zeros(_K)[:, :1])
    _call("E510", "k_cache must be pages .*, not None", paged=True, k_cache=None)
