"""Every word of the prelude against a definition written without it."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest

from maskc.ir.evaluate import dense
from maskc.lower import _prelude, lower_text
from maskc.tiles.binding import make_binding

N = 37
Q, K = np.arange(N)[:, None], np.arange(N)[None, :]
D = Q - K
DOC = np.sort(np.random.default_rng(0).integers(0, 5, N))
MARK = np.random.default_rng(1).random(N) < 0.1


def natten(n: int, w: int, stride: int = 1, dilation: int = 1, causal: bool = False) -> np.ndarray:
    """NATTEN's rule for one axis, query by query."""
    keep = np.zeros((n, n), bool)
    for i in range(n):
        residue, x = i % dilation, i // dilation
        length = len(range(residue, n, dilation))
        if causal:
            leader = min(x // stride * stride + stride - 1, length - 1)
            start, end = max(leader - w + 1, 0), x + 1
        else:
            leader = min(x // stride * stride + stride // 2, length - 1)
            left, right = w // 2, w // 2 + w % 2 - 1
            start = max(leader - left, 0)
            if leader + right >= length:
                start += length - right - leader - 1
            start, end = max(start, 0), start + w
        for y in range(start, min(end, length)):
            keep[i, residue + dilation * y] = True
    return keep


CASES: dict[str, tuple[str, np.ndarray]] = {
    "all": ("all", Q >= 0 * K),
    "none": ("none", Q < 0 * K),
    "causal": ("causal", D >= 0),
    "self": ("self", D == 0),
    "window": ("window(3, 2)", (D <= 3) & (D >= -2)),
    "sliding_window": ("sliding_window(4)", (D >= 0) & (D < 4)),
    "dilated": ("dilated(2, 3)", np.isin(D, [-6, -3, 0, 3, 6])),
    "strided": ("strided(5)", D % 5 == 0),
    "chunk": ("chunk(8)", Q // 8 == K // 8),
    "prefix": ("prefix(6)", K < 6 + 0 * Q),
    "sinks": ("sinks(4)", K < 4 + 0 * Q),
    "same": ("same(doc)", DOC[:, None] == DOC[None]),
    "different": ("different(doc)", DOC[:, None] != DOC[None]),
    "padding": ("padding(30)", K < 30 + 0 * Q),
    "global": ("global(mark)", MARK[:, None] | MARK[None]),
    "stripe": ("stripe(8, 2)", (K % 8 >= 6) & (Q >= 0)),
    "diagonals": ("diagonals(2, 3, 4)", np.isin(D, [2, 6, 10])),
    "halo": ("halo(token, 8, 3)", (Q // 8 * 8 - 3 <= K) & (Q // 8 * 8 + 11 > K)),
    "shifted_window": ("shifted_window(token, 8, 3)", (Q + 5) // 8 == (K + 5) // 8),
    "axial": ("axial(token // 6)", Q // 6 == K // 6),
    "neighborhood": ("neighborhood(token, 7)", natten(N, 7)),
}


def mask(text: str, n: int = N, **values: object) -> np.ndarray:
    inputs = "doc: int[token], mark: bool[token]" if "doc" in text or "mark" in text else ""
    body = f"pattern p({inputs}) {{ attend {text} }}" if inputs else text
    (program,) = lower_text(body)
    given = {"doc": DOC, "mark": MARK}
    used = {p.name: given[p.name] for p in program.params}
    return dense(program, make_binding(program, n, n, **used, **values))  # type: ignore[arg-type]


def test_every_definition_is_covered() -> None:
    elsewhere = {"random", "ancestor", "edges", "adjacent"}
    names = {n for n in _prelude().definitions if not n.startswith("_")}
    assert names == set(CASES) | elsewhere


@pytest.mark.parametrize("name", CASES)
def test_definition(name: str) -> None:
    text, expected = CASES[name]
    np.testing.assert_array_equal(mask(text), expected)


@pytest.mark.parametrize("name", CASES)
def test_block_form(name: str) -> None:
    """Pulled back along `token // 3`: what holds of the blocks holds of their tokens."""
    if "doc" in CASES[name][0] or "mark" in CASES[name][0] or "token" in CASES[name][0] or name == "chunk":
        pytest.skip("speaks of tokens, not of blocks")
    expected = CASES[name][1]
    blocks = np.arange(N) // 3
    np.testing.assert_array_equal(mask(f"({CASES[name][0]}) on token // 3"), expected[blocks][:, blocks])


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("n", [11, 24, 37])
def test_neighborhood_is_nattens(n: int, causal: bool) -> None:
    for w in (1, 2, 3, 6, 7):
        for stride in range(1, w + 1):
            for dilation in (1, 2, 3):
                if w * dilation > n:
                    continue
                text = f"neighborhood(token, {w}, {stride}, {dilation}, {'true' if causal else 'false'})"
                np.testing.assert_array_equal(mask(text, n), natten(n, w, stride, dilation, causal), text)


def test_neighborhood_on_a_grid() -> None:
    text = "pattern p over grid(y, x) { attend neighborhood(y, 4) & neighborhood(x, 3, dilation = 2) }"
    (program,) = lower_text(text)
    got = dense(program, make_binding(program, 70, 70, sizes={"y": 7, "x": 10}))
    expected = np.kron(natten(7, 4), np.ones((10, 10), bool)) & np.kron(np.ones((7, 7), bool), natten(10, 3, 1, 2))
    np.testing.assert_array_equal(got, expected)


def test_random_keeps_n_keys_in_every_row() -> None:
    first = mask("random(5)")
    assert (first.sum(1) == 5).all()
    assert (first != mask("random(5, seed = 1)")).any()
    assert (first[0] != first[1]).any()
    np.testing.assert_array_equal(first, mask("random(5)"))
    blocks = mask("random(3, among = size(token // 4)) on token // 4")
    assert set(blocks.sum(1)) <= {12, 9}  # The last block holds one token.
    np.testing.assert_array_equal(blocks[0], blocks[3])
    assert (mask("random(40)").sum(1) <= N).all()


def test_ancestors_of_a_tree() -> None:
    from maskc.trees import tree_intervals

    parents = [-1, 0, 0, 1, 1, 2, 5, 5, -1, 8]
    enter, exit_ = tree_intervals(parents)
    graph = nx.DiGraph((p, i) for i, p in enumerate(parents) if p >= 0)
    graph.add_nodes_from(range(len(parents)))
    expected = np.eye(len(parents), dtype=bool)
    for i in range(len(parents)):
        for a in nx.ancestors(graph, i):
            expected[i, a] = True
    (program,) = lower_text("pattern p(enter: int[token], exit: int[token]) { attend ancestor(enter, exit) }")
    got = dense(program, make_binding(program, 10, 10, enter=enter, exit=exit_))
    np.testing.assert_array_equal(got, expected)


def test_edges_of_a_graph() -> None:
    from maskc.trees import adjacency, neighbours

    graph = nx.gnp_random_graph(N, 0.1, seed=0, directed=True)
    expected = nx.to_numpy_array(graph, nodelist=range(N)).astype(bool)
    (program,) = lower_text("pattern p(see: bool[q, k]) { attend adjacent(see) }")
    np.testing.assert_array_equal(
        dense(program, make_binding(program, N, N, see=adjacency(graph, loops=False))), expected
    )
    table = neighbours(graph, loops=False)
    width = table.shape[1]
    (program,) = lower_text(f"pattern p(near: int[token, {width}]) {{ attend edges(near, {width}) }}")
    np.testing.assert_array_equal(dense(program, make_binding(program, N, N, near=table)), expected)
