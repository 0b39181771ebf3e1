"""What the documents show is what the language reads."""

from __future__ import annotations

import pkgutil
import re
from pathlib import Path

import pytest

from maskc.ir.ops import OPS
from maskc.ir.program import DOMAINS
from maskc.syntax.parse import parse

ROOT = Path(__file__).parents[1]


def _blocks(page: str) -> list[str]:
    """Indented blocks of a page, without their indentation."""
    text = (ROOT / "docs" / page).read_text()
    found = re.findall(r"(?:^ {4}.*\n(?:\n(?= {4}))?)+", text, re.M)
    return ["\n".join(line[4:] for line in block.split("\n")) for block in found]


@pytest.mark.parametrize("block", _blocks("language.md"))
def test_code_parses(block: str) -> None:
    if re.match(r"score|normalize|output|assert", block):
        lines = [f"{line}\n" for line in block.split("\n") if line]
        block = "pattern p { attend all\n" + "".join(lines) + "}"
    assert parse(block).items


def test_language_page_names_the_core() -> None:
    text = (ROOT / "docs" / "language.md").read_text()
    for op in OPS.values():
        if op.form == "call":
            assert re.search(rf"\b{op.symbol}\b", text), op.symbol
    for domain in DOMAINS:
        assert re.search(rf"\[[^\]]*\b{domain}\b", text), domain


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "examples").rglob("*.md"))]
#: Names of files that commands and calls write.
_WRITTEN = ("attention.py", "changed/config.json")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_are_there(page: Path) -> None:
    """In full, as in `maskc/tiles/intervals.py`, or where the page's subject is, as in `cpu/tiles.py`."""
    text = page.read_text(encoding="utf-8")
    places = (ROOT, page.parent, ROOT / "maskc", ROOT / "maskc" / "backends", ROOT / "maskc" / "backends" / page.stem)
    named = re.findall(r"`([\w./-]+\.(?:py|md|mask|json|js|css|lark|toml|svg|png|txt))`", text)
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
    assert [n for n in named if n not in _WRITTEN and not any((p / n).exists() for p in places)] == []
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_modules_that_a_page_names_are_there(page: Path) -> None:
    for name in re.findall(r"`(maskc(?:\.\w+)+)(?:\(.*?\))?`", page.read_text(encoding="utf-8")):
        assert pkgutil.resolve_name(name) is not None, name


@pytest.mark.parametrize("page", ["python.md", "flexattention.md"])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_code_of_a_page_runs(page: str) -> None:
    pytest.importorskip("torch")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.S)
    assert len(blocks) > 2
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)


def test_phrases_of_flexattention_keep_the_same_pairs() -> None:
    """The table of the page: each `mask_mod` against what is to be written instead."""
    torch = pytest.importorskip("torch")
    from torch.nn.attention.flex_attention import create_mask

    import maskc

    text = (ROOT / "docs" / "flexattention.md").read_text(encoding="utf-8").replace("\\|", "|")
    rows = re.findall(r"^\| `([^`]*(?:q_idx|prefix)[^`]*)` \| `([^`]+)`(?:, with `(\w+: [^`]+)`)?[^|]* \|$", text, re.M)
    rows = [row for row in rows if "score" not in row[0]]
    assert len(rows) >= 12
    n, w = 12, 3
    blocks = {
        "n": n // w,
        "keep": torch.rand(1, 1, n // w, n // w) < 0.5,
        "top": torch.randint(0, n // w, (1, 1, n // w, 2)),
    }
    doc, offset = torch.arange(n) // 5, torch.tensor([0, 5, 10])
    image = torch.tensor([-1, 3, 3, -1, -1, 5, 5, 5, -1, 3, -1, -1])
    values = {"doc": doc, "start": offset[doc], "image": image, "prefix": torch.tensor([6]), **blocks}
    for theirs, ours, declared in rows:

        def mask_mod(b: object, h: object, q: object, k: object, theirs: str = theirs) -> object:
            return eval(theirs, {"W": w, "offset": offset, "b": b, "h": h, "q_idx": q, "kv_idx": k, **values})

        wanted = create_mask(mask_mod, 1, 1, n, n, device="cpu")[0, 0]
        pattern = f"pattern p({declared}) {{ attend {ours.replace('W', str(w))} }}"
        given = {name: values[name] for name in re.findall(r"(\w+):", declared)}
        found = maskc.dense_mask(pattern, n, n, **given)[0, 0]
        assert (torch.from_numpy(found) == wanted).all(), theirs
