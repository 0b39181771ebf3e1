"""The command line. Exit codes: 0, all is well; 1, something is wrong with a pattern, or two differ;
2, the command, a file name or an argument is wrong, or something cannot be written; 130, it was interrupted;
141, nobody reads its output any more."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and exit. ``argv``: the words after ``maskc``; by default those of the process."""
    from maskc.cli import checking
    from maskc.cli.style import use_utf8_where_possible

    words = list(sys.argv[1:] if argv is None else argv)
    _have_streams()
    use_utf8_where_possible()
    try:
        if words[:1] == ["check"] and checking.is_plain(words[1:]):
            # Editors and commit hooks call this all the time: it does without typer, rich and NumPy.
            code = checking.run_plain(words[1:])
        else:
            from maskc.cli.app import run

            code = run(words)
        sys.stdout.flush()  # Here, where it can be said if that fails.
    except KeyboardInterrupt:
        code = _end(130, "interrupted")
    except BrokenPipeError:  # As in `maskc show ... | head`: that is no mistake of anybody's.
        code = _end(141)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        code = _end(2, f"{place}{error.strerror or error}")
    except MemoryError as error:
        code = _end(2, f"there is not enough memory for this{f': {error}' if str(error) else ''}")
    sys.exit(code)


def _have_streams() -> None:
    """Where the process was started without standard output or error, what is written goes nowhere."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115


def _end(code: int, message: str = "") -> int:
    """Say why it ends, as far as that can be said; what could not be written so far is given up."""
    if message:
        with contextlib.suppress(OSError):
            sys.stderr.write(f"maskc: {message}\n")
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # Python would try it once more when the process ends, and complain.
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return code
