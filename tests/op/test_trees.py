"""Trees and graphs as inputs of patterns."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import maskc
from maskc.trees import adjacency, neighbours, tree_intervals

ANCESTOR = "pattern p(enter: int[token], exit: int[token]) { attend enter[k] <= enter[q] & enter[q] < exit[k] }"
SEE = "pattern p(see: bool[q, k]) { attend see[q, k] }"
LIST = "pattern p(n: int, near: int[token, n]) { attend any(j in 0..n: k == near[q, j]) }"


def ancestors(parents):
    """By climbing: who is an ancestor of whom, oneself included."""
    out = np.zeros((len(parents),) * 2, bool)
    for token in range(len(parents)):
        at = token
        while at >= 0:
            out[token, at] = True
            at = parents[at]
    return out


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=20), st.randoms())
def test_intervals_say_who_is_an_ancestor(draws, random):
    names = list(range(len(draws)))
    random.shuffle(names)  # a parent may come after its child
    parents = [-1] * len(draws)
    for i, x in enumerate(draws):
        parents[names[i]] = -1 if x % (i + 1) == i else names[x % (i + 1)]
    enter, exit_ = tree_intervals(parents)
    mask = maskc.dense_mask(ANCESTOR, len(draws), len(draws), enter=enter, exit=exit_)[0, 0]
    assert (mask == ancestors(parents)).all()
    assert (exit_ - enter == ancestors(parents).sum(axis=0)).all()


def test_a_networkx_tree_with_nodes_in_an_order_of_their_own():
    tree = nx.DiGraph([("root", "left"), ("root", "right"), ("left", "leaf")])
    nodes = ["leaf", "root", "right", "left"]
    enter, exit_ = tree_intervals(tree, nodes)
    given = tree_intervals([3, -1, 1, 1])
    assert (ancestors([3, -1, 1, 1]) == maskc.dense_mask(ANCESTOR, 4, 4, enter=enter, exit=exit_)[0, 0]).all()
    assert (exit_ - enter).tolist() == (given[1] - given[0]).tolist()


def test_a_deep_tree_does_not_exhaust_the_stack():
    enter, exit_ = tree_intervals([-1, *range(20000)])
    assert (enter == np.arange(20001)).all()
    assert (exit_ == 20001).all()


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ([1, 0], "its own ancestor"),
        ([5], "parent of token 0 is 5"),
        (nx.Graph([(0, 1)]), "undirected"),
        (nx.DiGraph([(0, 2), (1, 2)]), "2 parents"),
    ],
)
def test_what_is_no_forest(tree, words):
    with pytest.raises(maskc.MaskcError, match=words) as error:
        tree_intervals(tree)
    assert error.value.codes == ("E504",)


@pytest.mark.parametrize("directed", [False, True])
@pytest.mark.parametrize("loops", [False, True])
def test_both_forms_of_a_graph_say_the_same(directed, loops):
    graph = nx.gnp_random_graph(12, 0.2, seed=1, directed=directed)
    nodes = list(reversed(range(12)))
    see, near = adjacency(graph, nodes, loops=loops), neighbours(graph, nodes, loops=loops)
    wanted = np.array([[graph.has_edge(a, b) or (loops and a == b) for b in nodes] for a in nodes])
    assert (see == wanted).all()
    assert (maskc.dense_mask(SEE, 12, 12, see=see)[0, 0] == wanted).all()
    assert (maskc.dense_mask(LIST, 12, 12, n=near.shape[1], near=near)[0, 0] == wanted).all()
    assert near.shape[1] == wanted.sum(axis=1).max()


def test_neighbourhoods_of_a_given_width():
    graph = nx.path_graph(4)
    assert neighbours(graph, width=5).shape == (4, 5)
    with pytest.raises(maskc.MaskcError, match="3 neighbours, more than width=2") as error:
        neighbours(graph, width=2)
    assert error.value.codes == ("E505",)


@pytest.mark.parametrize(("nodes", "words"), [([0, 0], "two tokens"), ([0, 9], "no node 9")])
def test_nodes_must_be_those_of_the_graph(nodes, words):
    with pytest.raises(maskc.MaskcError, match=words):
        adjacency(nx.path_graph(4), nodes)
