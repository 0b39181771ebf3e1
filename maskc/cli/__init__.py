"""The command line. Exit codes: 0, all is well; 1, something is wrong with a pattern, or two differ;
2, the command, a file name or an argument is wrong; 130, it was interrupted."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and exit. ``argv``: the words after ``maskc``; by default those of the process."""
    from maskc.cli import checking
    from maskc.cli.style import use_utf8_where_possible

    words = list(sys.argv[1:] if argv is None else argv)
    use_utf8_where_possible()
    try:
        if words[:1] == ["check"] and checking.is_plain(words[1:]):
            # Editors and commit hooks call this all the time: it does without typer, rich and NumPy.
            code = checking.run_plain(words[1:])
        else:
            from maskc.cli.app import run

            code = run(words)
    except KeyboardInterrupt:
        sys.stderr.write("maskc: interrupted\n")
        code = 130
    sys.exit(code)
