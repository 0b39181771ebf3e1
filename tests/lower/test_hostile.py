"""What a stranger wrote is read, or refused, in bounded time and memory: by the work that it takes, counted."""

from __future__ import annotations

import json
import pickle
import resource
import subprocess
import sys

import pytest

from maskc import parse
from maskc.diagnostics import MaskcError, Source
from maskc.ir import interval
from maskc.ir.nodes import TRUE, Exists, Node, Param, Symbol, Type, index_symbol, postorder
from maskc.ir.ops import apply
from maskc.ir.program import Program, Space
from maskc.ir.size import MAX_NODE_DEPTH, MAX_NODES
from maskc.ir.text import print_node, print_program
from maskc.lower import lower_source, lower_text
from maskc.lower.context import MAX_LABELS, MAX_WARNINGS, Context
from maskc.passes import normalise
from maskc.spec import from_spec
from maskc.syntax.tokens import MAX_TEXT
from tests.lower.hostile import TEXTS

_MEMORY = 3 << 30  # of addresses, most of which Python and its libraries take
_SECONDS = 600  # all take half a minute; any of them took minutes, or for ever


@pytest.fixture(scope="module")
def ends() -> dict[str, str]:
    """What all the texts end in, read in a process of their own that may hang or fill the memory."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.lower.hostile"],
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY)),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_that_grows_is_read_or_refused(name: str, ends: dict[str, str]) -> None:
    text, end = TEXTS[name]
    assert len(text) <= MAX_TEXT
    assert ends[name] == end


def _steps(text: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many evaluations lowering counts."""
    counted = [0]
    count = Context.count

    def counting(self: Context, span: object, steps: int = 1) -> None:
        counted[0] += steps
        count(self, span, steps)  # type: ignore[arg-type]

    monkeypatch.setattr(Context, "count", counting)
    lower_text(text)
    return counted[0]


def test_a_coordinate_is_read_once_at_each_position(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _steps(TEXTS["coordinates doubled"][0], monkeypatch) < 5_000


def test_ranges_are_found_once_for_each_node(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = [0]
    one = interval._interval

    def counting(*args: object) -> interval.Interval:
        seen[0] += 1
        return one(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(interval, "_interval", counting)
    program = lower_text("q < min(" + ", ".join(f"hash(q, {i})" for i in range(MAX_NODE_DEPTH - 10)) + ")")[0]
    nodes = sum(1 for _ in postorder(program.roots()))
    normalise(program)
    assert seen[0] < 10 * nodes


def test_as_deep_as_allowed_is_hashed_pickled_and_planned() -> None:
    import maskc

    cases = "".join(f"{i}: k * {i} % 5\n" for i in range(MAX_NODE_DEPTH - 10))
    pattern = parse(f"(match q % 7 + k {{ {cases}else: 0 }}) < q")
    assert pickle.loads(pickle.dumps(pattern)) == pattern
    assert from_spec(parse("causal").spec()) == parse("causal")
    assert maskc.dense_mask(pattern, 8, 8).shape == (1, 1, 8, 8)
    maskc.tiles.make_plan(pattern.program, maskc.make_binding(pattern.program, 64, 64))


def _doubled(node: Node, levels: int) -> Node:
    for _ in range(levels):
        node = apply("mul", apply("add", node, Symbol("k")), node)
    return node


def test_a_graph_of_any_depth_is_digested_and_pickled() -> None:
    deep = _doubled(Symbol("q"), 5_000)
    assert deep.depth == 10_001
    assert len(deep.digest) == 64
    packed = pickle.dumps(deep)
    assert len(packed) < 1 << 20
    assert pickle.loads(packed) is deep


def test_a_rewritten_program_that_is_too_deep_is_refused() -> None:
    mask = apply("lt", _doubled(Symbol("q"), MAX_NODE_DEPTH), Symbol("k"))
    with pytest.raises(MaskcError) as e:
        normalise(Program("p", (), Space(), Space(), False, mask))
    assert e.value.codes == ("E103",)


def test_messages_show_no_more_of_an_expression_than_anybody_reads() -> None:
    assert len(print_node(_doubled(Symbol("q"), 60))) < 50_000
    assert print_node(_doubled(Symbol("q"), 2)) == "((q + k) * q + k) * ((q + k) * q)"


def test_a_program_whose_text_would_not_end_is_refused() -> None:
    body = apply("lt", _doubled(index_symbol(0), 60), Symbol("k"))
    mask = Exists(index_symbol(0), Param("n", Type.INT), body)
    with pytest.raises(MaskcError) as e:
        print_program(Program("p", (), Space(), Space(), False, mask))
    assert e.value.codes == ("E901",)


def test_ranges_do_not_grow_without_end() -> None:
    low, high = interval.intervals([node := _doubled(Symbol("q"), 60)], {Symbol("q"): (2, 9), Symbol("k"): (1, 1)})[
        node
    ]
    assert 2**62 < low <= 2**128
    assert high == float("inf")


def test_warnings_are_as_many_as_anybody_reads() -> None:
    lets = "".join(f"let a{i} = 1\n" for i in range(500))
    assert len(lower_source(Source(f"pattern p {{\n{lets}attend causal\n}}")).warnings) == MAX_WARNINGS


def test_what_ordinary_patterns_are_far_from() -> None:
    """A case for each layer of the deepest models, and a line for each of many points, are read."""
    assert lower_text("match layer {" + "".join(f"{i}: window({i})\n" for i in range(126)) + "else: causal }")
    assert lower_text(" | ".join(f"q == {i} & k == {i * i}" for i in range(300)))
    assert MAX_NODES > 10 * 160


def test_a_large_table_of_labels_is_read_by_its_distinct_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    from maskc.tiles import values

    labels = [f"a{i}" for i in range(MAX_LABELS)]
    pattern = parse(f"pattern p(m: {{{', '.join(labels)}}}[100000]) {{ attend m[k] == a7 }}")
    seen = [0]
    label = values._label

    def counting(p: object, text: str) -> int:
        seen[0] += 1
        return label(p, text)  # type: ignore[arg-type]

    monkeypatch.setattr(values, "_label", counting)
    held = pattern.with_args(m=["a3", "a1023"] * 50_000)
    assert held.args["m"][:2] == (3, 1023)
    assert seen[0] == 2


def test_a_spec_of_wrong_arguments_is_refused_at_the_first_few() -> None:
    with pytest.raises(MaskcError) as e:
        from_spec({"maskc": 1, "pattern": "causal", "args": {f"a{i}": i for i in range(100_000)}})
    assert e.value.codes == ("E502",) * 20
    assert TRUE.depth == 1
