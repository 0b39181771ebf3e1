"""The commands that the documents show are commands, and print what is shown."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "examples").rglob("*.md"))]
#: A command on a line of its own, in a block or at a prompt, with the lines that it goes on over; or in a sentence.
_LINES = re.compile(r"^(?:    )?(?:\$ )?maskc ((?:[a-z]+ (?:[^\n\\]|\\\n)*))$", re.M)
_INLINE = re.compile(r"`maskc ([a-z]+ [^`\n]*)`")
#: What stands for something else in a sentence.
_PLACES = re.compile(r"\bN\b")


def _commands() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        lines = [line.replace("\\\n", " ") for line in _LINES.findall(re.sub(r"(?m)^maskc .*", "", text))]
        found += [(str(page.relative_to(ROOT)), command) for command in [*lines, *_INLINE.findall(text)]]
    return sorted(set(found))


@pytest.mark.parametrize(("page", "command"), _commands())
def test_a_command_is_one(page: str, command: str) -> None:
    import typer

    from maskc.cli.app import build

    name, *words = shlex.split(_PLACES.sub("16", command))
    if name == "emit" and words[0].startswith("-"):
        words = ["FILE", *words]  # A sentence may leave it out.
    group: Any = typer.main.get_command(build())
    group.commands[name].make_context(name, words).close()
    assert [word for word in words if word.startswith("examples/") and not (ROOT / word).exists()] == []


def _shown(page: str, command: str) -> str:
    """What a page shows after a command at a prompt."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    start = text.index(f"    $ {command}\n") + len(f"    $ {command}\n")
    block = re.match(r"(?:    (?!\$ ).*\n)*", text[start:])
    assert block is not None
    return re.sub(r"(?m)^    ", "", block[0])


def _streaming() -> str:
    found = re.search(r"```text\n(.*?)```", PAGES[0].read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


def test_the_statistics_are_those_of_the_pattern_in_the_readme(maskc: Any, write: Any) -> None:
    write("streaming.mask", _streaming())
    command = next(c for page, c in _commands() if page == "docs/statistics.md" and "streaming.mask" in c)
    result = maskc(*shlex.split(command))
    assert result.code == 0
    # Lines break where the terminal ends, and the time is another one each time.
    printed, shown = (
        re.sub(r"[\d.,]+ ms", "... ms", " ".join(text.split()))
        for text in (result.out, _shown("statistics.md", f"maskc {command}"))
    )
    assert printed == shown


def test_the_pattern_of_a_config_is_the_one_shown(maskc: Any, write: Any, tmp_path: Path) -> None:
    config = {"model_type": "gpt_oss", "num_hidden_layers": 4, "num_attention_heads": 8, "sliding_window": 128}
    (tmp_path / "gpt-oss-20b").mkdir()
    write("gpt-oss-20b/config.json", json.dumps(config))
    commands = [shlex.split(c) for page, c in _commands() if page == "docs/transformers.md" and "gpt" in c]
    for words in sorted(commands):  # import, show
        assert maskc(*words).code == 0, words
    written = (tmp_path / "gpt_oss.mask").read_text(encoding="utf-8")
    assert written.endswith(_shown("transformers.md", "cat gpt_oss.mask").removeprefix("...\n"))
