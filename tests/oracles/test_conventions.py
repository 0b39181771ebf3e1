"""Every library counts its window in its own way: which words of the prelude say which of them.

Each definition below is a transcription of the convention as an arithmetic condition.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from .patterns import Mask, expression, visible

Rule = Callable[[int, int], bool]


def by_rule(rule: Rule, q_len: int, k_len: int) -> Mask:
    """Queries are the last ``q_len`` of ``k_len`` positions."""
    first = k_len - q_len
    return np.array([[rule(q, k) for k in range(k_len)] for q in range(first, k_len)])


W, LEFT, RIGHT, CHUNK = 4, 3, 2, 5
CONVENTIONS: dict[str, tuple[str, Rule]] = {
    "transformers, xformers: sliding_window=W": (
        f"sliding_window({W})",
        lambda q, k: k <= q and q - k < W,
    ),
    "attention-gym, vllm's kernels: window W": (
        f"sliding_window({W + 1})",
        lambda q, k: 0 <= q - k <= W,
    ),
    "the same, as a window to the left": (
        f"window({W})",
        lambda q, k: 0 <= q - k <= W,
    ),
    "flash-attention, jax: window_size=(left, right)": (
        f"window({LEFT}, {RIGHT})",
        lambda q, k: -RIGHT <= q - k <= LEFT,
    ),
    "transformers, bidirectional: sliding_window=W": (
        f"window({W}, {W})",
        lambda q, k: abs(q - k) <= W,
    ),
    "longformer: attention_window=W": (
        f"window({W} // 2, {W} // 2)",
        lambda q, k: abs(q - k) <= W / 2,
    ),
    "llama 4: attention_chunk_size=C": (
        f"causal & chunk({CHUNK})",
        lambda q, k: k <= q and q // CHUNK == k // CHUNK,
    ),
    "attention sinks: the first n keys": (
        f"causal & (sinks(2) | sliding_window({W}))",
        lambda q, k: k <= q and (k < 2 or q - k < W),
    ),
    "sparse transformer: every n-th key": (
        f"causal & strided({W})",
        lambda q, k: k <= q and (q - k) % W == 0,
    ),
    "prefix lm: the first n tokens see each other": (
        "causal | prefix(3)",
        lambda q, k: k <= q or k < 3,
    ),
    "longformer, dilated: w keys on a side, d apart": (
        "dilated(2, 3)",
        lambda q, k: (q - k) % 3 == 0 and abs(q - k) <= 6,
    ),
    "block-causal": (
        f"causal on token // {CHUNK}",
        lambda q, k: k // CHUNK <= q // CHUNK,
    ),
}


@pytest.mark.parametrize("who", CONVENTIONS)
@pytest.mark.parametrize(("q_len", "k_len"), [(1, 1), (13, 13), (1, 9), (4, 13), (13, 14)])
def test_convention(who: str, q_len: int, k_len: int) -> None:
    """With fewer queries than keys the last query is the last key, as in flash-attention and in decoding."""
    text, rule = CONVENTIONS[who]
    np.testing.assert_array_equal(visible(expression(text), q_len, k_len), by_rule(rule, q_len, k_len))


def test_conventions_differ() -> None:
    """No two of the windows are the same, so that none can stand in for another by mistake."""
    names = [n for n in CONVENTIONS if "window" in n and n != "the same, as a window to the left"]
    masks = [by_rule(CONVENTIONS[n][1], 13, 13) for n in names]
    assert len({m.tobytes() for m in masks}) == len(names) >= 5


def natten_keys(index: int, length: int, kernel: int, dilation: int = 1) -> set[int]:
    """The keys of a query along one axis, as NATTEN's kernels find them (window start, then steps of the dilation).

    Transcribed from `get_window_start` of NATTEN 0.15 (odd sizes).
    """
    half = kernel // 2
    if dilation == 1:
        start = max(index - half, 0) + (index + half >= length) * (length - index - half - 1)
        return set(range(start, start + kernel))
    start = index - half * dilation
    if start < 0:
        start = index % dilation
    elif index + half * dilation >= length:
        residue, whole = index % dilation, length // dilation * dilation
        rest = length - whole
        start = length - rest + residue - 2 * half * dilation if residue < rest else whole + residue - kernel * dilation
    return {start + i * dilation for i in range(kernel)}


def natten_even_keys(index: int, length: int, kernel: int) -> set[int]:
    """As above for even sizes, as NATTEN has it from 0.20 on: one key more to the left."""
    left, right = kernel // 2, kernel // 2 - 1
    start = max(index - left, 0) + (index + right >= length) * (length - index - right - 1)
    return set(range(start, start + kernel))


def along(keys: Callable[[int], set[int]], length: int) -> Mask:
    mask = np.zeros((length, length), bool)
    for i in range(length):
        mask[i, list(keys(i))] = True
    return mask


def axis(text: str, length: int) -> Mask:
    return visible(expression(f"pattern p over grid(x) {{ attend {text} }}"), length, sizes={"x": length})


@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("length", [21, 22, 23, 26])
def test_neighborhood_of_natten(length: int, kernel: int, dilation: int) -> None:
    ours = axis(f"neighborhood(x, {kernel}, dilation = {dilation})", length)
    np.testing.assert_array_equal(ours, along(lambda i: natten_keys(i, length, kernel, dilation), length))


@pytest.mark.parametrize("kernel", [2, 4, 6])
@pytest.mark.parametrize("length", [6, 9, 12])
def test_even_neighborhood_of_natten(length: int, kernel: int) -> None:
    ours = axis(f"neighborhood(x, {kernel})", length)
    np.testing.assert_array_equal(ours, along(lambda i: natten_even_keys(i, length, kernel), length))


@pytest.mark.parametrize("kernel", [1, 2, 3, 6])
def test_causal_neighborhood_of_natten(kernel: int) -> None:
    """Along a causal axis the window is the last ``kernel`` keys, clipped at the start."""
    ours = axis(f"neighborhood(x, {kernel}, causal = true)", 11)
    np.testing.assert_array_equal(ours, by_rule(lambda q, k: 0 <= q - k < kernel, 11, 11))


def test_neighborhood_in_the_plane() -> None:
    """Axes are independent; the picture is no square."""
    height, width = 9, 12
    program = expression("pattern p over grid(y, x) { attend neighborhood(y, 3) & neighborhood(x, 5) }")
    ours = visible(program, height * width, sizes={"y": height, "x": width})
    rows = along(lambda i: natten_keys(i, height, 3), height)
    columns = along(lambda i: natten_keys(i, width, 5), width)
    np.testing.assert_array_equal(ours, np.kron(rows, columns))


@pytest.mark.parametrize("kernel", [3, 7])
def test_nat_and_dinat(kernel: int) -> None:
    """The pattern files of the two models, on a picture that is no square."""
    from .patterns import model

    height, width, dilation = 14, 22, 2
    sizes = {"y": height, "x": width}
    n = height * width
    for name, step in [("nat", 1), ("dinat", dilation)]:
        values = {} if name == "nat" else {"dilation": np.array([1, dilation])}
        ours = visible(model(name), n, layer=1, sizes=sizes, kernel_size=kernel, **values)
        rows = along(lambda i, d=step: natten_keys(i, height, kernel, d), height)  # type: ignore[misc]
        columns = along(lambda i, d=step: natten_keys(i, width, kernel, d), width)  # type: ignore[misc]
        np.testing.assert_array_equal(ours, np.kron(rows, columns))


def test_duo_attention() -> None:
    """Retrieval heads see everything before, streaming heads the first and the latest."""
    from .patterns import model

    retrieval = np.array([[True, False], [False, False]])
    for layer in range(2):
        for head in range(2):
            ours = visible(
                model("duo_attention"), 4, 30, heads=2, h=head, layer=layer, retrieval=retrieval, sink=3, recent=5
            )
            streaming = not retrieval[layer, head]
            expected = by_rule(lambda q, k, s=streaming: k <= q and (not s or k < 3 or q - k < 5), 4, 30)  # type: ignore[misc]
            np.testing.assert_array_equal(ours, expected)


def test_dilated_longformer() -> None:
    """Transformers has none; the dilation multiplies the distances, head by head."""
    from .patterns import model

    n, dilation = 24, np.array([1, 3])
    chosen = np.arange(n) == 5
    for head in range(2):
        ours = visible(model("longformer"), n, heads=2, h=head, is_global=chosen, dilation=dilation, attention_window=6)
        d = int(dilation[head])
        expected = by_rule(lambda q, k, d=d: q == 5 or k == 5 or ((q - k) % d == 0 and abs(q - k) <= 3 * d), n, n)  # type: ignore[misc]
        np.testing.assert_array_equal(ours, expected)
