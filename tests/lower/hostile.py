"""Texts below the limit on their size that grow beyond all bounds if nobody counts. Run as a program it prints, for
each by name, what reading it ends in: ``ok``, or the codes of what is wrong."""

from __future__ import annotations

import json
import pickle

from maskc.check import check_source
from maskc.diagnostics import MaskcError, Source
from maskc.reading import parse
from maskc.syntax.format import format_text
from maskc.syntax.tokens import MAX_TEXT


def _lets(first: str, rule: str, count: int, last: str, head: str = "pattern p") -> str:
    """``let c0 = first``, and each further one by the rule from that before it, as ``{c}``, and its number."""
    lets = "".join(f"let c{i} = {rule.format(c=f'c{i - 1}', i=i)}\n" for i in range(1, count + 1))
    return f"{head} {{\nlet c0 = {first}\n{lets}{last.format(c=f'c{count}')}\n}}"


def _defs(formal: str, body: str, count: int, last: str) -> str:
    """``f0``, and each further one as the one before it of itself."""
    name = formal.partition(":")[0]
    twice = "".join(f"def f{i}({formal}) = f{i - 1}(f{i - 1}({name}))\n" for i in range(1, count + 1))
    return f"def f0({formal}) = {body}\n{twice}{last.format(f=f'f{count}')}"


def _names(count: int, each: str, between: str = ", ") -> str:
    return between.join(each.format(i=i) for i in range(count))


_GRID = "pattern p over text ++ image: grid(y, x)"

#: By name: a text, and what it ends in.
TEXTS: dict[str, tuple[str, str]] = {
    "coordinates doubled": (_lets("token", "{c} + {c}", 30, "attend same({c})"), "ok"),
    "coordinates of grids doubled": (_lets("y", "{c} + {c} * x", 30, "attend same({c})", _GRID), "ok"),
    "coordinates of coordinates": (_defs("c: coord", "c + 1", 10, "same({f}(token))"), "E103"),
    "extents doubled": (_lets("token", "{c} + {c}", 30, "attend k < size({c})"), "ok"),
    "extents of coordinates": (_defs("c: coord", "c + 1", 10, "q < size({f}(token))"), "E103"),
    "masks doubled": (_lets("q < k", "{c} & {c}", 40, "attend {c}"), "E901"),
    "masks crossed": (_lets("q < k", "({c} & q < {i}) | ({c} & k < {i})", 30, "attend {c}"), "ok"),
    "squares": (_lets("q", "{c} * {c}", 36, "attend {c} < k"), "ok"),
    "squares of a number": (_lets("2147483647", "{c} * {c}", 36, "attend {c} < k"), "ok"),
    "squares of an index": (_defs("x", "(x + 7) * (x + 7)", 5, "any(i in 0..4: {f}(i) == k)"), "E901"),
    "counts of counts": (
        _lets("n", "match any(i in 0..{c}: i == layer + {i}) {{ true: 3; else: 4 }}", 25,
              "attend any(i in 0..{c}: k == i)", "pattern p(n: int)"),
        "ok",
    ),
    "numbers within numbers": (_defs("x", "x * 3 // 2 % 77", 13, "{f}(q) < k"), "E103"),
    "a long minimum": (f"q < min({_names(4000, 'q * 1 + {i}')})", "E103"),
    "many segments": (f"pattern p over {_names(2500, 'a{i}', ' ++ ')} {{ attend {_names(2500, 'q in a{i}', ' | ')} }}",
                      "E901"),
    "many axes": (f"pattern p over grid({_names(5000, 'a{i}')}) {{ attend same(a3) }}", "E901"),
    "many lets": (f"pattern p {{\n{_names(5400, 'let a{i}=1', chr(10))}\nattend causal\n}}", "E901"),
    "many parameters": (f"pattern p({_names(5000, 'a{i}: int')}) {{ attend causal }}", "E901"),
    "many parameters of a definition": (f"def f({_names(4000, 'a{i}: int = 0')}) = a3 < q\nf | f()", "E901"),
    "many calls of many parameters": (
        f"pattern s_({_names(256, 'a{i}: int = 0')}) {{ attend causal }}\n" + _names(8000, "s_()", " | "), "E901"
    ),
    "many labels": (f"pattern p(m: {{{_names(9000, 'a{i}')}}}) {{ attend m == a7 }}", "E901"),
    "many definitions": (_names(5000, "def a{i}=q", "\n") + "\ncausal", "ok"),
    "many patterns": (_names(1600, "pattern p{i}(a: int) {{ attend causal }}", "\n"), "ok"),
    "many similar names": (
        f"{_names(3000, 'def abcdef{i}=q', chr(10))}\n{_names(25, 'def z{i}=abcdeg{i}x', chr(10))}\ncausal", "E201"
    ),
    "a fault that is found again and again": (
        "def f0(m: mask) = (m on token // 2) | (m on token // 3)\n"
        + "".join(f"def f{i}(m: mask) = f{i - 1}(f{i - 1}(m))\n" for i in range(1, 4))
        + f"{_names(3000, 'def abcd{i}=q', chr(10))}\npattern p {{ attend f3(abce) }}",
        "E201",
    ),
    "many cases": (f"match layer {{ {_names(4000, '{i}: causal', chr(10))}\nelse: all }}", "E901"),
    "a case of many": (f"match layer {{ {_names(8000, '{i}', ' | ')}: causal\nelse: all }}", "E901"),
    "many cases of Booleans": (
        f"pattern p({_names(12, 'b{i}: bool')}) {{ attend match {_names(12, 'b{i}')} {{\n"
        + f"{' | '.join([', '.join(['true'] * 12)] * 20)}: causal\n" * 30 + "else: all } }",
        "ok",
    ),
    "many points": ("def at(x, y) = q == x & k == y\n" + _names(2000, "at({i}, {i} * 7)", " | "), "E901"),
    "comments": ("#\n" * 31_000 + "causal", "ok"),
    "comments between definitions": (_names(3500, "#\ndef a{i}=q", "\n") + "\ncausal", "ok"),
}  # fmt: skip


def _end(text: str) -> str:
    """What a text ends in, if everything is done with it that is done before a mask is computed."""
    try:
        check_source(Source(text))
        format_text(text)
        if "pattern p1" not in text:
            pattern = parse(text)
            assert pickle.loads(pickle.dumps(pattern)).hash == pattern.hash
            assert len(pattern.text) <= 4 * MAX_TEXT
    except MaskcError as e:
        assert all(d.span is not None for d in e.diagnostics)
        return " ".join(sorted(set(e.codes)))
    return "ok"


if __name__ == "__main__":
    print(json.dumps({name: _end(text) for name, (text, _) in TEXTS.items()}))
