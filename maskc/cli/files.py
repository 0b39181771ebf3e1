"""Files that commands write: whole or not at all where that matters, and what is wrong where it cannot be done."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from maskc.diagnostics import Diagnostic, MaskcError

__all__ = ["replace_file", "write_file"]


def write_file(path: str | Path, content: str | bytes, hint: str | None = None) -> None:
    """Write a file, texts in UTF-8 with the line ends that they have. ``hint``: how to give another place. Raises
    E003."""
    data = content.encode() if isinstance(content, str) else content
    try:
        Path(path).write_bytes(data)
    except OSError as error:
        raise _cannot(path, error, hint) from None


def replace_file(path: str | Path, text: str) -> None:
    """Write a file that is there anew. A reader sees the old text or the new one, and so does whoever is interrupted or
    runs out of space; the mode stays, and a link still leads to the file. Raises E003."""
    temporary = None
    try:
        whole = Path(path).resolve(strict=True)
        if not whole.is_file():  # A pipe or a device has nothing to replace.
            whole.write_bytes(text.encode())
            return
        with whole.open("ab"):  # A rename asks the directory only; the file's own mode may forbid writing.
            mode = whole.stat().st_mode
        handle, temporary = tempfile.mkstemp(dir=whole.parent, prefix=f".{whole.name[:64]}.")
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode())
        os.chmod(temporary, mode & 0o7777)
        os.replace(temporary, whole)
    except OSError as error:
        raise _cannot(path, error, None) from None
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def _cannot(path: str | Path, error: OSError, hint: str | None) -> MaskcError:
    hint = hint or "give a file in a directory that is there and that you may write to"
    return MaskcError(Diagnostic("E003", f"cannot write {path}: {error.strerror or error}", hint=hint))
