"""Compiling and calling: what arrives where, and what is refused."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

import maskc
from maskc import MaskcError, backends
from maskc.backends import Request


def tensors(q_len=6, k_len=6, heads=2, kv_heads=2, batch=1, dim=8):
    g = torch.Generator().manual_seed(0)
    shapes = [(batch, heads, q_len, dim), (batch, kv_heads, k_len, dim), (batch, kv_heads, k_len, dim)]
    return [torch.randn(s, generator=g) for s in shapes]


def compiled(text, heads=2, **options):
    return maskc.compile(text, heads=heads, backend="reference", **options)


def test_the_ways_to_say_which_pattern(tmp_path):
    path = tmp_path / "two.mask"
    path.write_text("pattern one() { attend causal }\npattern two(w: int = 2) { attend sliding_window(w) }\n")
    one, two = maskc.load(path, name="one"), maskc.load(str(path), name="two")
    assert (one.name, two.name) == ("one", "two")
    wanted = compiled(two, w=3)(*tensors())
    for source in (path, str(path), path.read_text(), two, two.program):
        assert torch.equal(compiled(source, name="two", w=3)(*tensors()), wanted)
    for name in (None, "three"):
        with pytest.raises(MaskcError, match="one, two") as error:
            maskc.load(path, name=name)
        assert error.value.codes == ("E205",)
    with pytest.raises(TypeError, match="not 3"):
        compiled(3)


def test_repr_says_what_it_is():
    op = compiled(
        "pattern p(w: int = 2, t: int[head]) over grid(y, x) { attend window(w) & k < t[h] }",
        w=5,
        t=[1, 2],
        sizes={"y": 2},
    )
    assert repr(op) == "<op <pattern p(w=5, t=<table 2>)>: heads=2, layer=0, y=2, backend='reference'>"


def test_an_input_given_to_compile_is_the_default_for_calls():
    text = "pattern p(doc: int[token], bias: float[head]) { attend same(doc); score s + bias[h] * k }"
    q, k, v = tensors()
    bias = torch.tensor([0.5, 1.0], requires_grad=True)
    op = compiled(text, doc=[0, 0, 0, 1, 1, 1], bias=bias)
    default = op(q, k, v)
    assert torch.equal(default, op(q, k, v, doc=[0, 0, 0, 1, 1, 1]))
    assert not torch.equal(default, op(q, k, v, doc=[0, 1, 2, 3, 4, 5]))
    assert not torch.equal(default, op(q, k, v, bias=[0.0, 0.0]))
    default.sum().backward()
    assert bias.grad.abs().sum() > 0


def test_names_that_are_parameters_of_the_call_go_into_inputs():
    op = compiled(
        "pattern p(scale: float[head], name: int = 1) { attend k < name; score s * scale[h] }", arguments={"name": 2}
    )
    q, k, v = tensors()
    doubled = op(q, k, v, inputs={"scale": [2.0, 2.0]})
    torch.testing.assert_close(doubled, op(q, k, v, scale=2 * 8**-0.5, inputs={"scale": [1.0, 1.0]}))


@pytest.mark.parametrize("name", ["scale", "return_lse", "sizes", "inputs"])
def test_an_input_that_a_call_takes_for_its_own_argument_is_told(name: str):
    op = compiled(f"pattern p({name}: int[token]) {{ attend causal on {name} }}")
    q, k, v = tensors()
    values = torch.tensor([0, 1, 1, 2, 2, 2])
    more = {} if name == "inputs" else {name: values}
    with pytest.raises(MaskcError, match=rf"E501.* needs the input '{name}'\n.*inputs={{'{name}': ...}}"):
        op(q, k, v, **more)
    wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=values <= values[:, None])
    torch.testing.assert_close(op(q, k, v, inputs={name: values}), wanted)


def test_a_mask_may_read_a_float_input():
    op = compiled("pattern p(gate: float[k]) { attend gate[k] > 0.5 }")
    q, k, v = tensors(batch=2)
    gate = torch.tensor([[0.0, 1, 1, 0, 0, 1], [1.0, 0, 0, 0, 0, 0]], requires_grad=True)
    out = op(q, k, v, gate=gate)
    wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=(gate > 0.5)[:, None, None])
    torch.testing.assert_close(out, wanted)


def test_sizes_may_come_with_the_call():
    op = compiled("pattern p() over grid(y, x) { attend y[q] == y[k] }")
    q, k, v = tensors()
    assert not torch.equal(op(q, k, v, sizes={"y": 2}), op(q, k, v, sizes={"y": 3}))
    with pytest.raises(MaskcError, match="leave them open"):
        op(q, k, v)


T = torch.zeros


@pytest.mark.parametrize(
    ("q", "k", "v", "code", "words"),
    [
        (T(1, 2, 3), T(1, 2, 3, 4), T(1, 2, 3, 4), "E510", "must be (batch, heads, length, dim)"),
        (T(1, 3, 3, 4), T(1, 3, 3, 4), T(1, 3, 3, 4), "E510", "compiled for 2"),
        (T(1, 2, 3, 4), T(1, 2, 3, 4), T(1, 2, 4, 4), "E510", "k and v must agree"),
        (T(2, 2, 3, 4), T(1, 2, 3, 4), T(1, 2, 3, 4), "E510", "batch entries"),
        (T(1, 2, 3, 4), T(1, 2, 3, 5), T(1, 2, 3, 4), "E510", "same last dimension"),
        (T(1, 2, 3, 4), T(1, 3, 3, 4), T(1, 3, 3, 4), "E510", "multiple"),
        (T(1, 2, 3, 4), T(1, 0, 3, 4), T(1, 0, 3, 4), "E510", "must not be 0"),
        (T(1, 2, 3, 4), T(1, 2, 3, 4), T(1, 2, 3, 4).half(), "E511", "v is torch.float16"),
        (T(1, 2, 3, 4).int(), T(1, 2, 3, 4).int(), T(1, 2, 3, 4).int(), "E511", "float dtype"),
        (T(1, 2, 3, 4), np.zeros((1, 2, 3, 4)), T(1, 2, 3, 4), "E511", "must be a torch tensor"),
        (T(1, 2, 3, 4), T(1, 2, 3, 4, device="meta"), T(1, 2, 3, 4), "E512", "k is on meta"),
        (T(1, 2, 4, 4), T(1, 2, 3, 4), T(1, 2, 3, 4), "E506", "one sequence"),
    ],
)
def test_tensors_that_cannot_be_attended_with(q, k, v, code, words):
    with pytest.raises(MaskcError) as error:
        compiled("causal")(q, k, v)
    assert error.value.codes == (code,)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("inputs", "code", "words"),
    [
        ({}, "E501", "needs the input 'bias'"),
        ({"bias": T(2), "dock": [0]}, "E502", "did you mean 'doc'?"),
        ({"bias": T(2), "w": 3}, "E502", "give it to compile"),
        ({"bias": T(3)}, "E505", "expected the shape (2,), found (3,)"),
        ({"bias": T(2).int()}, "E511", "expected a float dtype"),
        ({"bias": T(2, device="meta")}, "E512", "bias is on meta"),
        ({"bias": "high"}, "E503", "expected a tensor of floats"),
        ({"bias": T(2), "doc": [0, 0, 0, 0, 0, 8]}, "E504", "found 8 at [5]"),
        ({"bias": T(2), "doc": T(2, 6).int()}, "E505", "expected the shape (6,) or (1, 6)"),
    ],
)
def test_inputs_that_are_wrong(inputs, code, words):
    op = compiled(
        "pattern p(w: int = 2, bias: float[head], doc: int(0..8)[token])"
        " { attend window(w) & same(doc); score s + bias[h] }"
    )
    with pytest.raises(MaskcError) as error:
        op(*tensors(), **{"doc": [0] * 6, **inputs})
    assert error.value.codes == (code,)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"w": 3.5}, "E503"),
        ({"v": 3}, "E502"),
        ({"t": [1]}, "E505"),
        ({"t": None}, "E501"),
        ({"sizes": {"y": 2}}, "E502"),
        ({"layer": -1}, "E504"),
        ({"heads": 0}, "E504"),
    ],
)
def test_arguments_are_checked_when_compiling(options, code):
    options = {"heads": 2, "t": [1, 2], **options}
    if options["t"] is None:
        del options["t"]
    with pytest.raises(MaskcError) as error:
        maskc.compile(
            "pattern p(w: int = 2, t: int[head]) { attend window(w) & k < t[h] }", backend="reference", **options
        )
    assert error.value.codes == (code,)


class Picky:
    """A backend that can do a part only."""

    calls = 0

    def supports(self, program, request):
        if request.dtype == "float64":
            return backends.Refusal("it computes in float32", "convert with .float()")
        return None

    def run(self, compiled, q, k, v, *, binding, floats, scale, return_lse):
        self.calls += 1
        return torch.full_like(q, 7.0), None


@pytest.fixture
def picky(monkeypatch):
    backend = Picky()
    row = backends.BackendRow("picky", "For a test.", "picky")
    load = backends.BackendRow.load
    monkeypatch.setattr(backends.BackendRow, "load", lambda self: backend if self is row else load(self))
    monkeypatch.setattr(backends, "BACKENDS", (row, backends.backend_row("reference")))
    return backend


def test_auto_takes_the_first_backend_that_can(picky):
    op = maskc.compile("causal", heads=2)
    assert (op(*tensors()) == 7).all()
    assert not (op(*(t.double() for t in tensors())) == 7).any()
    assert picky.calls == 1


def test_a_named_backend_never_falls_back(picky):
    op = maskc.compile("causal", heads=2, backend="picky")
    with pytest.raises(MaskcError) as error:
        op(*(t.double() for t in tensors()))
    assert error.value.codes == ("E702",)
    for words in ("it computes in float32", "convert with .float()", "backend='reference'"):
        assert words in str(error.value)
    with pytest.raises(MaskcError, match="did you mean 'picky'") as error:
        maskc.compile("causal", heads=2, backend="piky")
    assert error.value.codes == ("E701",)


def test_a_backend_whose_package_is_missing(monkeypatch):
    row = backends.BackendRow("cuda", "For a test.", "no_such_package")
    monkeypatch.setattr(backends, "BACKENDS", (row, backends.backend_row("reference")))
    with pytest.raises(MaskcError, match="no_such_package") as error:
        maskc.compile("causal", heads=2, backend="cuda")
    assert error.value.codes == ("E703",)
    assert backends.choose("auto", maskc.parse("causal").program, Request())[0].name == "reference"


def test_check_mode_notices_a_wrong_backend(picky):
    with pytest.raises(RuntimeError, match="differs from the reference"):
        maskc.compile("causal", heads=2, check=True)(*tensors())


def test_equal_inputs_get_the_same_binding_so_that_plans_are_found_again(monkeypatch):
    seen = []

    class Recorder(Picky):
        def run(self, compiled, q, k, v, *, binding, floats, scale, return_lse):
            seen.append((binding, compiled.remember("plan", binding, object)))
            return q, None

    row = backends.BackendRow("recorder", "For a test.", "recorder")
    monkeypatch.setattr(backends.BackendRow, "load", lambda self: Recorder())
    monkeypatch.setattr(backends, "BACKENDS", (row,))
    op = maskc.compile("pattern p(doc: int[token]) { attend same(doc) }", heads=2)
    for doc in ([0] * 6, torch.zeros(6).long(), [1] * 6, [0] * 6):
        op(*tensors(), doc=doc)
    (b0, p0), (b1, p1), (b2, p2), (b3, p3) = seen
    assert b0 is b1 is b3
    assert b2 is not b0
    assert p0 is p1 is p3
    assert p2 is not p0


def test_assertions_are_checked_at_every_pair():
    text = """pattern p(w: int, future: int = 0) {
        attend -future <= q - k < w
        assert k <= q
        assert some k
        assert some q
    }"""
    pattern = maskc.parse(text)
    maskc.check_assertions(pattern, 20, 20, w=3)
    with pytest.raises(MaskcError, match="query 0 keeps key 1, but not k <= q") as error:
        maskc.check_assertions(pattern, 20, 20, w=3, future=1)
    assert error.value.codes == ("E513",)
    with pytest.raises(MaskcError) as error:
        compiled(pattern, w=0).check(4, 20)
    assert error.value.codes == ("E513", "E513")
    assert "query 16 keeps no key" in str(error.value)
    assert "no query keeps key 0" in str(error.value)
    with pytest.raises(MaskcError, match="query 0 keeps key 1"):
        compiled(pattern, w=3, future=1, check=True)(*tensors())


def test_the_first_counterexample_names_head_and_batch_entry():
    pattern = maskc.parse("pattern p(n: int[head], doc: int[token]) { attend doc[k] < n[h]; assert some k }")
    with pytest.raises(MaskcError, match="in batch entry 1, head 1, query 0 keeps no key"):
        maskc.check_assertions(pattern, 3, 3, heads=2, n=[9, 1], doc=[[0, 0, 0], [1, 1, 1]])


def test_what_planning_a_call_may_cost_is_given_when_compiling():
    q, text = torch.ones(1, 1, 300, 16), "hash(q, k) % 2 == 0"
    for backend in ("cpu", "flex"):
        op = maskc.compile(text, heads=1, backend=backend, budget=10)
        for some in (op, pickle.loads(pickle.dumps(op))):
            for work in (lambda some=some: some(q, q, q), lambda some=some: some.plan(300, 300)):
                with pytest.raises(MaskcError, match=r"maskc.compile\(..., budget=") as error:
                    work()
                assert error.value.codes == ("E801",)
    many = maskc.compile("pattern p(w: int[head]) { attend sliding_window(w[h]) }", heads=9, w=range(9), budget=10**5)
    with pytest.raises(MaskcError, match="help: give fewer heads or batch entries at once, or raise the limit"):
        many.plan(300, 300)
    for budget in (None, 10**12):
        maskc.compile(text, heads=1, backend="cpu", budget=budget)(q, q, q)


def test_ops_can_be_copied_and_pickled():
    op = compiled("pattern p(w: int, doc: int[token]) { attend window(w) & same(doc) }", w=2, doc=[0, 0, 1, 1, 1, 1])
    wanted = op(*tensors())
    for other in (copy.deepcopy(op), pickle.loads(pickle.dumps(op))):
        assert torch.equal(other(*tensors()), wanted)
        assert repr(other) == repr(op)
