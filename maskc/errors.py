"""The catalogue of everything that can be wrong with a pattern or a call.

One row a code. A row without an explanation, or without a faulty program in ``tests/errors``
that produces it, fails a test. ``maskc explain CODE`` and ``docs/errors.md`` are written from it.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ERRORS", "ErrorRow"]


@dataclass(frozen=True)
class ErrorRow:
    """``code``: E... for an error, W... for a warning. ``title``: a few words. ``explanation``: what
    it means and what to do, in plain sentences. ``example``: a short faulty program or call."""

    code: str
    title: str
    explanation: str = ""
    example: str = ""


_ROWS = (
    # Reading
    ErrorRow("E001", "the text is not UTF-8"),
    ErrorRow("E002", "the text is too large"),
    ErrorRow("E003", "the file cannot be read"),
    ErrorRow("E004", "there is nothing in the file"),
    ErrorRow("E005", "unknown version of the language"),
    # Syntax
    ErrorRow("E101", "this cannot stand here"),
    ErrorRow("E102", "unknown character"),
    ErrorRow("E103", "nested too deeply"),
    ErrorRow("E104", "number too large"),
    ErrorRow("E105", "spelled as in another language"),
    ErrorRow("E106", "statement given twice or missing"),
    ErrorRow("E107", "bracket never closed"),
    # Names
    ErrorRow("E201", "unknown name"),
    ErrorRow("E202", "name defined twice"),
    ErrorRow("E203", "a definition uses itself"),
    ErrorRow("E204", "wrong arguments in a call"),
    ErrorRow("E205", "which pattern is meant"),
    ErrorRow("E206", "reserved name"),
    # Types
    ErrorRow("E301", "wrong type"),
    ErrorRow("E302", "wrong number of indices"),
    ErrorRow("E303", "unknown enumerator"),
    ErrorRow("E304", "match does not cover every value"),
    ErrorRow("E305", "not allowed in this statement"),
    ErrorRow("E306", "division by zero"),
    ErrorRow("E307", "extent not known"),
    # Warnings
    ErrorRow("W401", "parameter never used"),
    ErrorRow("W402", "case never reached"),
    ErrorRow("W403", "the mask is constant"),
    ErrorRow("W404", "name never used"),
    # Arguments, inputs and tensors
    ErrorRow("E501", "argument missing"),
    ErrorRow("E502", "unknown argument"),
    ErrorRow("E503", "argument of the wrong type"),
    ErrorRow("E504", "value out of range"),
    ErrorRow("E505", "wrong shape"),
    ErrorRow("E506", "sizes do not fit the length"),
    ErrorRow("E507", "integers may overflow"),
    ErrorRow("E508", "too many alternatives"),
    ErrorRow("E510", "tensor of the wrong shape"),
    ErrorRow("E511", "tensor of the wrong dtype"),
    ErrorRow("E512", "tensor on the wrong device"),
    ErrorRow("E513", "assertion does not hold"),
    # Specs
    ErrorRow("E601", "malformed spec"),
    ErrorRow("E602", "spec of an unknown version"),
    ErrorRow("E603", "spec whose hash does not match"),
    # Backends and planning
    ErrorRow("E701", "unknown backend"),
    ErrorRow("E702", "the backend cannot do this"),
    ErrorRow("E703", "an optional package is missing"),
    ErrorRow("E801", "planning would cost too much"),
    ErrorRow("E901", "the program is too large"),
)

ERRORS: dict[str, ErrorRow] = {row.code: row for row in _ROWS}
