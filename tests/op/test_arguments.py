"""Arguments of the wrong type or shape: the error names them, and none comes from the inside."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import maskc
from maskc import MaskcError
from maskc.tiles.binding import OWN_NAMES

GRID = "pattern p over grid(y, x) { attend same(y) }"
DOCS = "pattern p(doc: int[token]) { attend same(doc) }"
BIAS = "pattern p(bias: float[head]) { attend causal; score s + bias[h] }"
HUGE = 10**6000  # which Python refuses to write out


def tensors(n: int = 16, heads: int = 2, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    return [torch.ones(1, heads, n, 8).to(dtype) for _ in range(3)]


def refused(code: str, words: str, work: Callable[[], object]) -> None:
    with pytest.raises(MaskcError) as error:
        work()
    assert error.value.codes == (code,)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ({"sizes": {1: 1}}, "E503", "sizes: the names are strings, not 1"),
        ({"sizes": [1]}, "E503", "sizes must be a mapping from names to values, not a list"),
        ({"sizes": 0}, "E503", "sizes must be a mapping"),
        ({"sizes": {"x": 1.5}}, "E503", "sizes: x must be an integer, not 1.5"),
        ({"sizes": {"x": HUGE}}, "E504", "sizes: x must be at most 16777216, not 2**19931 or more"),
        ({"backend": None}, "E701", "no backend is called None"),
        ({"backend": ["cpu"]}, "E701", "no backend is called a list"),
        ({"layout": None}, "E503", "layout must be a string, not None"),
        ({"budget": 1.5}, "E503", "budget must be an integer, not 1.5"),
        ({"budget": -1}, "E504", "budget must be at least 0, not -1"),
        ({"arguments": 3}, "E503", "arguments must be a mapping"),
        ({"arguments": {1: 2}}, "E503", "arguments: the names are strings"),
    ],
)
def test_compile(options: dict[str, Any], code: str, words: str) -> None:
    refused(code, words, lambda: maskc.compile(GRID, heads=2, **options))
    if "sizes" in options:
        op = maskc.compile(GRID, heads=2)
        q, k, v = tensors()
        refused(code, words, lambda: op(q, k, v, **options))
        refused(code, words, lambda: op.decode(q[:, :, :1], k, v, [16], **options))
        refused(code, words, lambda: op.plan(16, 16, **options))
        refused(code, words, lambda: maskc.dense_mask(GRID, 16, 16, **options))
        refused(code, words, lambda: maskc.check_assertions(GRID, 16, 16, **options))


def test_what_is_no_pattern_and_no_path() -> None:
    wrong: Any
    for wrong in (None, 3, b"causal"):
        with pytest.raises(TypeError, match="text must be a string"):
            maskc.parse(wrong)
        with pytest.raises(TypeError, match="path must be a path"):
            maskc.load(wrong)
        with pytest.raises(TypeError, match=r"pattern must be a maskc\.Pattern"):
            maskc.to_spec(wrong)
        with pytest.raises(TypeError, match=r"pattern must be a maskc\.Pattern"):
            maskc.Op(wrong, heads=1)
    refused("E003", "zero byte", lambda: maskc.load("a\0b"))
    refused("E003", "zero byte", lambda: maskc.compile("a\0.mask", heads=1))


NO_LAYOUTS = (
    *("residues:x", "residues:0", "residues:-3", "residues:²", "residues:", "residues:" + "9" * 5000),
    *("blocks:axb", "blocks:2x2,3", "blocks:0x2", "blocks:" + "9" * 5000, "sorted:doc", "rows"),
)


@pytest.mark.parametrize("layout", NO_LAYOUTS)
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_layouts_that_there_are_not(layout: str, backend: str) -> None:
    """Compiling refuses them, also where a plan would never see them: by a short sequence, a backend without tiles."""
    refused("E502", "layout", lambda: maskc.compile("causal", heads=2, layout=layout, backend=backend))


def test_a_layout_by_an_input_that_is_declared() -> None:
    assert maskc.compile(DOCS, heads=2, layout="sorted:doc").layout == "sorted:doc"
    words = "inputs over tokens that it declares: doc"
    refused("E502", words, lambda: maskc.compile(DOCS, heads=2, layout="sorted:dok"))


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_tensors_of_other_kinds(backend: str) -> None:
    op = maskc.compile("causal", heads=2, backend=backend)
    q, k, v = tensors()
    op(q, k, v)  # what was right once says nothing of tensors that are stored otherwise
    for dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
        refused("E511", "computed in 16, 32 or 64 bits", lambda dtype=dtype: op(*tensors(dtype=dtype)))
    refused("E511", "q must be a dense tensor, not one of the layout torch.sparse_coo", lambda: op(q.to_sparse(), k, v))
    nested = torch.nested.nested_tensor([q[0], q[0]])
    refused("E511", "q must be a dense tensor, not a nested one", lambda: op(nested, k, v))
    docs = maskc.compile(DOCS, heads=2, backend=backend)
    refused("E503", "doc: expected a dense tensor", lambda: docs(q, k, v, doc=torch.arange(16).to_sparse()))
    refused("E512", "holds no values", lambda: docs(q, k, v, doc=torch.zeros(16, dtype=torch.int64, device="meta")))
    bias = maskc.compile(BIAS, heads=2, backend=backend)
    refused("E511", "bias must be a dense tensor", lambda: bias(q, k, v, bias=torch.ones(2).to_sparse()))
    refused("E511", "expected a float dtype, found torch.complex64", lambda: bias(q, k, v, bias=[1j, 2j]))


def test_a_scalar_that_is_learned_is_a_table() -> None:
    """As an argument it once was taken for its value, without a gradient."""
    q, k, v = tensors()
    learned = torch.tensor([0.5], requires_grad=True)
    text = "pattern p(x: float) { attend causal; score s * x }"
    refused("E503", "the value requires a gradient", lambda: maskc.compile(text, heads=q.shape[1], x=learned[0]))
    refused(
        "E501", "what is learned or differs from call to call is `x: float[1]`", lambda: maskc.compile(text, heads=2)
    )
    fixed = maskc.compile(text, heads=q.shape[1], x=learned[0].detach())(q, k, v)
    op = maskc.compile("pattern p(x: float[1]) { attend causal; score s * x[0] }", heads=q.shape[1])
    out = op(q, k, v, x=learned)
    torch.testing.assert_close(out, fixed)
    (grad,) = torch.autograd.grad(out.square().sum(), learned)
    assert grad.abs() > 0


def test_a_scale_is_a_number() -> None:
    op = maskc.compile("causal", heads=2)
    q, k, v = tensors()
    learned = torch.tensor(0.5, requires_grad=True)
    refused("E503", "scale requires a gradient", lambda: op(q, k, v, scale=learned))
    refused("E503", "scale requires a gradient", lambda: op.decode(q[:, :, :1], k, v, [16], scale=learned))
    for wrong in ("0.5", [0.5, 1.0], torch.ones(2), 1j, True, np.True_, torch.tensor(True)):
        refused("E503", "scale must be a number", lambda wrong=wrong: op(q, k, v, scale=wrong))
        refused("E503", "scale must be a number", lambda wrong=wrong: op.decode(q[:, :, :1], k, v, [16], scale=wrong))
    for wrong in (math.nan, math.inf, -math.inf, np.float32("nan"), torch.tensor(math.inf)):
        refused("E504", "scale must be finite", lambda wrong=wrong: op(q, k, v, scale=wrong))
        refused("E504", "scale must be finite", lambda wrong=wrong: op.decode(q[:, :, :1], k, v, [16], scale=wrong))
        meta = [x.to("meta") for x in (q, k, v)]
        refused("E504", "scale must be finite", lambda wrong=wrong, meta=meta: op(*meta, scale=wrong))
    wanted = op(q, k, v, scale=0.5)
    assert torch.equal(op(q, k, v, scale=learned.detach()), wanted)
    with torch.no_grad():
        assert torch.equal(op(q, k, v, scale=learned), wanted)


def test_integers_that_are_too_large_say_so() -> None:
    window = "pattern p(n: int) { attend sliding_window(n) }"
    table = "pattern p(w: int[head]) { attend sliding_window(w[h]) }"
    refused("E504", "is too large: integers have 64 bits", lambda: maskc.compile(window, heads=1, n=10**30))
    refused("E504", "2**19931 or more is too large", lambda: maskc.compile(window, heads=1, n=HUGE))
    refused("E504", "w: 100000000000000000000000 is too large", lambda: maskc.compile(table, heads=2, w=[1, 10**23]))
    q, k, v = tensors()
    refused("E504", "is too large", lambda: maskc.compile(DOCS, heads=2)(q, k, v, doc=[-(10**23)] * 16))
    refused("E504", "is too large", lambda: maskc.compile(BIAS, heads=2)(q, k, v, bias=[10**23, 1]))


def test_an_extent_of_zero_is_what_leaves_no_room() -> None:
    op = maskc.compile(GRID, heads=2)
    refused("E506", "another extent is 0: whatever y is, there are 0", lambda: op(*tensors(), sizes={"x": 0}))


def test_inputs_by_name() -> None:
    op = maskc.compile("causal", heads=2)
    wrong: Any
    for wrong in (3, ["a"], {1: 2}):
        refused("E503", "inputs", lambda wrong=wrong: op(*tensors(), inputs=wrong))


def test_a_claim_may_stand_alone() -> None:
    maskc.check_assertions("causal", 4, 4, claims="k <= q")
    refused("E513", "but not k <= q", lambda: maskc.check_assertions("all", 4, 4, claims="k <= q"))
    refused("E503", "claims are strings", lambda: maskc.check_assertions("all", 4, 4, claims=[3]))  # type: ignore[list-item]
    for more in ("pattern z { attend all }", "def f(n) = k < n", "k <= q; k < 3", "maskc 1\nk <= q"):
        refused("E503", "each is one claim", lambda: maskc.check_assertions("all", 4, 4, claims=more))  # noqa: B023
    more = "k <= q }\npattern z { attend all"
    refused("E107", "<claim>:1:8", lambda: maskc.check_assertions("all", 4, 4, claims=more))
    refused("E101", "<claim 2>:1:3", lambda: maskc.check_assertions("all", 4, 4, claims=["k <= q", "k some"]))
    with pytest.raises(TypeError, match="claims must be a sequence of strings, not 3"):
        maskc.check_assertions("all", 4, 4, claims=3)  # type: ignore[arg-type]


def test_masks_that_are_not_written_out() -> None:
    refused("E801", "at most 1.7e+10 are written out", lambda: maskc.dense_mask("causal", 2**20, 2**20))
    refused("E801", "at most", lambda: maskc.dense_mask("causal", 2**12, 2**12, heads=2**12))
    assert maskc.dense_mask("causal", 4, 4, heads=2, batch=3).shape == (3, 2, 4, 4)
    refused(
        "E505",
        "the batch has 2 entries, not 3",
        lambda: maskc.dense_mask("pattern p(doc: int[token]) { attend same(doc) }", 4, 4, batch=2, doc=[[0] * 4] * 3),
    )
    refused("E503", "head must be an integer", lambda: maskc.dense_mask("causal", 4, 4, head="a"))  # type: ignore[arg-type]
    refused("E504", "head must be at most 0, not 1", lambda: maskc.dense_mask("causal", 4, 4, head=1))


def test_trees_out_of_what_is_none() -> None:
    wrong: Any
    for wrong, code in (("abc", "E503"), ([0.5], "E503"), ([math.nan], "E503"), (None, "E503"), ([True], "E503")):
        refused(code, "tree: expected integers", lambda wrong=wrong: maskc.trees.tree_intervals(wrong))
    refused("E504", "too large", lambda: maskc.trees.tree_intervals([10**30]))
    refused("E505", "the parent of each token", lambda: maskc.trees.tree_intervals(np.zeros((2, 2), np.int64)))
    enter, leave = maskc.trees.tree_intervals(torch.tensor([-1, 0]))
    assert (enter.tolist(), leave.tolist()) == ([0, 1], [2, 2])
    with pytest.raises(TypeError, match="one of networkx"):
        maskc.trees.adjacency(None)


def test_a_module_out_of_what_is_none() -> None:
    wrong: Any
    for wrong in ("a", 16.0, None):
        refused("E503", "embed_dim must be an integer", lambda wrong=wrong: maskc.nn.Attention(wrong, 4, "causal"))
    refused("E504", "kv_heads must be at least 1", lambda: maskc.nn.Attention(16, 4, "causal", kv_heads=0))
    refused("E503", "config must be a mapping", lambda: maskc.nn.Attention.from_config(3))  # type: ignore[arg-type]
    module = maskc.nn.Attention(16, 4, "causal")
    refused("E510", "x must be a tensor (batch, length, 16), not (3, 16)", lambda: module(torch.zeros(3, 16)))
    one = maskc.nn.Attention(16, 2, BIAS, learned="bias")
    assert list(one.learned) == ["bias"]


def test_extents_are_no_arguments() -> None:
    """Wherever they are given instead of in ``sizes``."""
    text = "pattern p over grid(y, x) { attend causal }"
    x = torch.zeros(1, 1, 6, 8)
    for call in (lambda: maskc.compile(text, heads=1, y=2), lambda: maskc.compile(text, heads=1)(x, x, x, y=2)):
        with pytest.raises(MaskcError, match=r'sizes=\{"y": \.\.\.\}'):
            call()
    with pytest.raises(MaskcError, match="the length must be a multiple of 4"):
        maskc.compile(text, heads=1, sizes={"y": 4})(x, x, x)


def test_texts_and_paths_that_are_taken_for_each_other() -> None:
    with pytest.raises(MaskcError, match=r"maskc\.parse") as error:
        maskc.load("causal & sinks(4)")
    assert error.value.codes == ("E003",)
    with pytest.raises(MaskcError, match=r"maskc\.load") as error:
        maskc.parse("masks/window.mask")
    assert error.value.codes == ("E101",)
    maskc.parse("causal  # as in window.mask")


def test_a_mask_mod_is_no_pattern() -> None:
    with pytest.raises(TypeError, match="a mask_mod is written anew, in the language"):
        maskc.compile(lambda b, h, q, k: q >= k, heads=1)  # type: ignore[arg-type]


def test_completion_offers_what_is_public() -> None:
    names = [n for n in dir(maskc) if not n.startswith("__")]
    assert set(names) == {*maskc.__all__, "nn", "parallel", "trees"}


NAMED = """
pattern p(layout: int[token], batch: int[batch], to: int = 9, q_len: int[token]) {
    attend layout[k] <= layout[q] & k < batch[b] & k < to & same(q_len)
    assert layout[k] <= layout[q]
}
"""


def test_what_has_the_name_of_a_parameter_goes_into_inputs() -> None:
    order, lengths, same = [3, 1, 2, 0], [4, 2], [0, 0, 0, 1]
    named = {"layout": order, "batch": lengths, "to": 3, "q_len": same}
    at = np.array(order)
    wanted = (at[None] <= at[:, None]) & (np.array(same) == np.array(same)[:, None]) & (np.arange(4) < 3)
    wanted = np.stack([(wanted & (np.arange(4) < n))[None] for n in lengths])
    np.testing.assert_array_equal(maskc.dense_mask(NAMED, 4, 4, inputs=named), wanted)
    maskc.check_assertions(NAMED, 4, 4, inputs=named)
    binding = maskc.make_binding(maskc.parse(NAMED).program, 4, 4, inputs=named)
    assert (binding.batch, binding.args["to"], binding.tables["layout"].tolist()) == (2, 3, order)
    found = maskc.export(NAMED, "varlen", 4, inputs={**named, "layout": [0] * 4, "to": 4, "batch": [4, 4]})
    assert found.options["causal"] is False
    del named["to"]
    op = maskc.compile(NAMED, heads=1, arguments={"to": 3})
    assert op.plan(4, 4, inputs=named).binding.batch == op.bind(4, 4, inputs=named).batch == 2
    op.check(4, 4, inputs=named)
    q, k, v = (torch.randn(2, 1, 4, 8) for _ in range(3))
    scores = (q @ k.mT * 8**-0.5).masked_fill(~torch.from_numpy(wanted), -torch.inf)
    torch.testing.assert_close(op(q, k, v, inputs=named), scores.softmax(-1).nan_to_num(0.0) @ v)


def test_what_is_given_twice() -> None:
    text = "pattern p(n: int, doc: int[token]) { attend same(doc) & sliding_window(n) }"
    doc, program = [0] * 16, maskc.parse(text).program
    op = maskc.compile(text, heads=2, n=3)
    inputs: dict[str, Any] = {"inputs": {"doc": doc}, "doc": doc}
    refused("E503", "'n' is given twice, in arguments", lambda: maskc.compile(text, heads=2, n=3, arguments={"n": 3}))
    for call in (
        lambda: op(*tensors(), **inputs),
        lambda: op.plan(16, 16, **inputs),
        lambda: op.bind(16, 16, **inputs),
        lambda: op.check(16, 16, **inputs),
        lambda: maskc.dense_mask(text, 16, 16, n=3, **inputs),
        lambda: maskc.check_assertions(text, 16, 16, n=3, **inputs),
        lambda: maskc.export(text, "varlen", 16, n=3, **inputs),
        lambda: maskc.make_binding(program, 16, 16, n=3, **inputs),
    ):
        refused("E503", "'doc' is given twice, in inputs and by keyword", call)
    refused("E503", "inputs must be a mapping", lambda: maskc.dense_mask(text, 16, 16, inputs=3))  # type: ignore[arg-type]


def test_hints_give_what_has_the_name_of_a_parameter_in_a_mapping() -> None:
    own = set()
    for function in (
        maskc.compile, maskc.dense_mask, maskc.check_assertions, maskc.export, maskc.make_binding,
        maskc.Op.__call__, maskc.Op.decode, maskc.Op.plan, maskc.Op.bind, maskc.Op.check, maskc.nn.Attention.forward,
        maskc.parallel.partition, maskc.parallel.ContextParallel.__call__, maskc.parallel.ContextParallel.partition,
    ):  # fmt: skip
        parameters = inspect.signature(function).parameters.values()
        own |= {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}
    words = {"heads", "layer", "pattern", "op"}  # of the language, and what methods are given in front
    assert own - words == OWN_NAMES
    text = "pattern p(batch: int[batch]) { attend k < batch[b] }"
    refused("E501", 'give inputs={"batch": ...} with the call', lambda: maskc.dense_mask(text, 4, 4, batch=3))
    wrong: Any = [4]
    with pytest.raises(MaskcError, match=r'give inputs=\{"batch": \.\.\.\}') as error:
        maskc.dense_mask(text, 4, 4, batch=wrong)
    assert error.value.codes == ("E501", "E503")
    text = "pattern p(budget: int) { attend sliding_window(budget) }"
    refused("E501", 'give arguments={"budget": ...} when compiling', lambda: maskc.compile(text, heads=1, budget=3))


@pytest.mark.parametrize(
    "kind",
    [
        lambda x: x.astype(">f4"),
        lambda x: x.astype(">f8"),
        lambda x: x.astype(np.longdouble),
        lambda x: x[::-1].copy()[::-1],
        lambda x: np.broadcast_to(x, (2, 2))[0],
        lambda x: Column(x),
    ],
)
def test_arrays_that_torch_does_not_take(kind: Callable[[Any], object]) -> None:
    """Of another byte order, of more bits, with negative strides, not writable, of a library of its own."""
    bias, op = np.array([0.1, 2.0]), maskc.compile("pattern p(bias: float[head]) { attend k < bias[h] + 1 }", heads=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = op(*tensors(4), bias=kind(bias), return_lse=True)[1]  # type: ignore[call-overload]
    torch.testing.assert_close(found[0, :, 0].double().exp() / math.exp(8**0.5), torch.tensor([2.0, 3.0]).double())


class Column:
    """Numbers as a data frame has them, which lists take for Python's."""

    dtype = np.dtype(np.float64)

    def __init__(self, values: Any) -> None:
        self._values = values

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.asarray(self._values, dtype)


def test_what_would_be_lost_without_a_word() -> None:
    op, (q, k, v) = maskc.compile(BIAS, heads=2), tensors()
    learned = [torch.tensor(1.0, requires_grad=True)] * 2
    missing = np.ma.masked_array([1.0, 2.0], mask=[False, True])
    refused("E503", "give one tensor: torch.stack(bias)", lambda: op(q, k, v, bias=learned))
    with torch.no_grad():
        op(q, k, v, bias=learned)
    op(q, k, v, bias=torch.stack(learned))
    refused("E503", "values are missing in a masked array", lambda: op(q, k, v, bias=missing))
    docs = maskc.compile(DOCS, heads=2)
    labels = np.ma.masked_array(np.zeros(16, np.int64), mask=np.arange(16) > 3)
    refused("E503", "fill them in: doc.filled(...)", lambda: docs(q, k, v, doc=labels))


class Wrapper(torch.Tensor):
    """A tensor that keeps what it holds to itself, as a DTensor does."""

    @staticmethod
    def __new__(cls, x: torch.Tensor) -> Any:
        return torch.Tensor._make_wrapper_subclass(cls, x.shape, dtype=x.dtype)  # type: ignore[attr-defined]

    @classmethod
    def __torch_dispatch__(cls, *_: Any) -> Any:
        raise NotImplementedError


def test_tensors_that_wrap_others() -> None:
    (q, k, v), op = tensors(), maskc.compile(DOCS, heads=2)
    doc = torch.zeros(16, dtype=torch.long)
    words = ": expected a plain tensor, found a Wrapper\n  help: give the tensor that it wraps"
    refused("E503", "doc" + words, lambda: op(q, k, v, doc=Wrapper(doc)))
    refused("E503", "lengths" + words, lambda: op.decode(q[:, :, :1], k, v, Wrapper(doc[:1]), doc=doc))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (lambda x: torch.nested.nested_tensor([x]), "a nested one\n  help: convert: doc.to_padded_tensor(0)"),
        (lambda x: x.to_sparse(), "one of the layout torch.sparse_coo\n  help: convert: doc.to_dense()"),
        (
            lambda x: torch.quantize_per_tensor(x.float(), 1, 0, torch.quint8),
            "a quantised one\n  help: convert: doc.dequantize()",
        ),
        (lambda x: x.numpy().astype(object), "found dtype object"),
    ],
)
def test_what_inputs_are_converted_by(kind: Callable[[Any], object], words: str) -> None:
    op, doc = maskc.compile(DOCS, heads=2), torch.zeros(16, dtype=torch.long)
    refused("E503", words, lambda: op(*tensors(), doc=kind(doc)))  # type: ignore[call-overload]
