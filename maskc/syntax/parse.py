"""From text to syntax tree. The only module that knows of lark."""

from __future__ import annotations

import functools
import hashlib
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lark
from lark.lexer import Lexer

from maskc import cache
from maskc.diagnostics import Diagnostic, MaskcError, Source, Span
from maskc.syntax import tokens as tk
from maskc.syntax.build import build, depth_problem
from maskc.syntax.tree import File

__all__ = ["parse", "read_source"]

_GRAMMAR = Path(__file__).parent.parent / "grammar" / "maskc.lark"
_STARTS = ["start", "item", "header", "statement"]
#: How the terminals that may follow are named in messages.
_TERMINALS = {
    "_SEP": "the end of the line", "NAME": "a name", "INT": "a number", "BAR": "`|`", "AMP": "`&`", "LBRACE": "`{`",
    "RBRACE": "`}`", "LPAR": "`(`", "RPAR": "`)`", "LSQB": "`[`", "RSQB": "`]`", "COMMA": "`,`", "COLON": "`:`",
    "EQUAL": "`=`", "ARROW": "`->`", "JOIN": "`++`", "DOTS": "`..`", "$END": "the end of the file", "TILDE": "`~`",
    "PLUS": "`+`", "MINUS": "`-`", "TIMES": "`*`", "POW": "`**`", "COMPARE": "a comparison",
}  # fmt: skip
#: How an object or a list in JSON starts, and nothing in the language.
_JSON = re.compile(r"(\s*[{\[])\s*[\"{\[\]}]")
#: Lines of Python that are no line of the language; bounded, so that no text takes long.
_PYTHON = re.compile(
    r"^[ \t]*(?P<line>(?:import[ \t]+\w|from[ \t]+[\w.]+[ \t]+import\b"
    r"|def[ \t]+\w+\([^\n=]{0,400}\)[^\n=]{0,80}:[ \t\r]*$|[^#\n]{0,200}\blambda[ \t]+[*\w])[^\n]*)",
    re.MULTILINE,
)
_GOES_ON = "an operator, or the end of the line"
_EXPRESSION = "an expression"
#: Words that are operators elsewhere. They may be names here, and are told only where an operator should stand.
_WORDS = {"xor": "!=", "mod": "%", "div": "//"}
#: With which words a statement of a pattern starts.
_STATEMENTS = ("attend", "let", "score", "normalize", "output", "assert")
#: What a statement makes anew, by its word: the name of the old.
_NEW = {"SCORE": "s", "OUTPUT": "o"}


class _Tokens(Lexer):
    """Hands lark the tokens that ``maskc.syntax.tokens`` found."""

    def __init__(self, lexer_conf: object) -> None:
        pass

    def lex(self, lexer_state: Any, parser_state: Any = None) -> Iterator[lark.Token]:
        # lark hands back what was given to `parse`, by way of its lexer state in some versions.
        found = getattr(lexer_state, "text", lexer_state)
        for t in getattr(found, "text", found):
            yield lark.Token(t.kind, t.text, start_pos=t.span.start, end_pos=t.span.end)


@functools.lru_cache(maxsize=1)
def _parser() -> lark.Lark:
    """The parser, its tables taken from the cache if they are there: building them takes longer than
    all the rest of a check."""
    grammar = _GRAMMAR.read_text(encoding="utf-8")
    made_by = f"{grammar}{_STARTS}{lark.__version__}{sys.version_info[:2]}"
    name = hashlib.sha256(made_by.encode()).hexdigest()[:32]
    kept = cache.read("grammar", name)
    if kept is not None:
        return lark.Lark.load(io.BytesIO(kept))
    parser = _build_parser(grammar)
    tables = io.BytesIO()
    parser.save(tables)
    cache.write("grammar", name, tables.getvalue())
    return parser


def _build_parser(grammar: str) -> lark.Lark:
    return lark.Lark(
        grammar,
        parser="lalr",
        lexer=_Tokens,
        start=_STARTS,
        propagate_positions=True,
        maybe_placeholders=True,
    )


def read_source(path: str | Path, hint: str | None = None) -> Source:
    """The text of a pattern file. ``hint``: what to give instead of a file that cannot be read. Raises MaskcError if
    it is missing, too large, or no UTF-8."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            data = file.read(tk.MAX_TEXT + 1)
    except OSError as e:
        hint = hint or "give the path of a pattern file, usually ending in `.mask`"
        raise MaskcError(Diagnostic("E003", f"cannot read {path}: {e.strerror}", None, hint)) from None
    return _decode(data, str(path))


def _decode(data: bytes, name: str) -> Source:
    if len(data) > tk.MAX_TEXT:
        hint = "a pattern is usually under a page; give large tables as arguments"
        message = f"{name} has more than {tk.MAX_TEXT} bytes"
        raise MaskcError(Diagnostic("E002", message, None, hint))
    try:
        return Source(data.decode("utf-8-sig"), name)
    except UnicodeDecodeError as e:
        message = f"{name} is not UTF-8: byte {e.start} is 0x{data[e.start]:02x}"
        raise MaskcError(Diagnostic("E001", message, None, "save the file as UTF-8 text")) from None


def parse(source: Source | str) -> File:
    """Parse a text. Raises MaskcError with all the syntax errors of the text at once."""
    if isinstance(source, str):
        source = Source(source)
    if len(source.text) > tk.MAX_TEXT:
        _decode(source.text.encode(), source.name)
    if json := _JSON.match(source.text):
        span = Span(source, json.end(1) - 1, json.end(1))
        hint = "`maskc import` reads a model's config.json, `maskc.from_spec` a spec"
        raise MaskcError(Diagnostic("E105", "this is JSON, and no pattern", span, hint))
    try:
        return _read(source)
    except MaskcError:
        python = _PYTHON.search(source.text)
        if python is None:
            raise
    span = Span(source, python.start("line"), python.start("line") + len(python["line"].rstrip()))
    hint = "write the mask that it returns: `return q_idx >= kv_idx` is `k <= q`"
    raise MaskcError(Diagnostic("E105", "this is Python, and no pattern", span, hint))


def _read(source: Source) -> File:
    tokens, comments = tk.tokenize(source)
    if not tokens:
        hint = "write a mask, such as `causal`, or a `pattern`"
        raise MaskcError(Diagnostic("E004", f"there is nothing in {source.name}", None, hint))
    try:
        tree = _parser().parse(tokens, start="start")
    except lark.UnexpectedInput as first:
        raise MaskcError(_all_problems(source, tokens) or [_problem(source, first, tokens)]) from None
    problem = depth_problem(source, tree)
    if problem:
        raise MaskcError(problem)
    return build(source, tree, comments)


def _all_problems(source: Source, tokens: list[tk.Token]) -> list[Diagnostic]:
    """Parse every item, and every statement of a pattern, on its own: one error each."""
    found: list[Diagnostic] = []
    for item in _split(tokens):
        for start, part, end in _parts(item):
            try:
                _parser().parse(part, start=start)
            except lark.UnexpectedInput as e:
                found += _foreign_words(part) or [_problem(source, e, part, end)]
    return found[:20]


def _foreign_words(part: list[tk.Token]) -> list[Diagnostic]:
    """All words of other languages in a part that cannot be read: who writes `and` once writes it again."""
    foreign = [t for t in part if t.text in tk.FOREIGN]
    said = "`{}` is not written like this here"
    return [Diagnostic("E105", said.format(t.text), t.span, f"use `{tk.FOREIGN[t.text]}`") for t in foreign]


def _split(tokens: list[tk.Token]) -> Iterator[list[tk.Token]]:
    """Cut at the SEPs that stand in no bracket."""
    depth, part = 0, list[tk.Token]()
    for t in tokens:
        depth += (t.kind in ("LPAR", "LSQB", "LBRACE")) - (t.kind in ("RPAR", "RSQB", "RBRACE"))
        if t.kind == "_SEP" and depth == 0:
            yield part
            part = []
        else:
            part.append(t)
    if part:
        yield part


def _parts(item: list[tk.Token]) -> Iterator[tuple[str, list[tk.Token], tk.Token | None]]:
    """What is parsed on its own: the rule, the tokens, and the token that they end before, if they have to."""
    if not item or item[0].kind == "MASKC":
        return
    depth, brace = 0, None
    for i, t in enumerate(item):
        if t.kind == "LBRACE" and depth == 0:
            brace = i
            break
        depth += (t.kind in ("LPAR", "LSQB", "LBRACE")) - (t.kind in ("RPAR", "RSQB", "RBRACE"))
    if item[0].kind != "PATTERN" or brace is None or item[-1].kind != "RBRACE":
        yield "item", item, None
        return
    yield "header", item[:brace], item[brace]
    for statement in _split(item[brace + 1 : -1]):
        yield "statement", statement, None


def _problem(
    source: Source, e: lark.UnexpectedInput, tokens: list[tk.Token], end: tk.Token | None = None
) -> Diagnostic:
    """What is wrong with the tokens of a part, which has to go on with ``end`` unless that is None."""
    token = getattr(e, "token", None)
    last = tokens[-1].span if tokens else Span(source, 0, 0)
    if (token is None or token.type == "$END") and end is not None:
        span, what = end.span, f"`{end.text}`"
    elif token is None or token.type == "$END":
        span, what = Span(source, last.end, last.end), "the end"
    else:
        span = Span(source, token.start_pos or 0, token.end_pos or 0)
        what = "the end of the line" if token.type == "_SEP" else f"`{token}`"
    before = next((t for t in reversed(tokens) if t.span.end <= span.start and t.kind != "_SEP"), None)
    foreign = _foreign(source, token, before, tokens)
    if foreign:
        return foreign
    kinds = set(getattr(e, "accepts", None) or getattr(e, "expected", None) or ())
    wanted = _wanted({end.kind if k == "$END" and end is not None else k for k in kinds})
    if str(token) in _WORDS and wanted == _GOES_ON:
        return Diagnostic("E105", f"`{token}` is not written like this here", span, f"use `{_WORDS[str(token)]}`")
    if str(token) in tk.KEYWORDS and "NAME" in kinds and wanted != _EXPRESSION:
        return Diagnostic("E206", f"`{token}` is a word of the language and no name", span, "choose another name")
    after = f" after `{before.text}`" if before else ""
    hint = _remedy(source, token, before, tokens, kinds, wanted) or (f"expected {wanted}" if wanted else None)
    return Diagnostic("E101", f"{what} cannot stand here{after}", span, hint)


def _remedy(
    source: Source, token: Any, before: tk.Token | None, tokens: list[tk.Token], kinds: set[str], wanted: str
) -> str | None:
    """What to write instead, where it can be guessed what somebody meant by ``token`` or by what stands before it."""
    if before is not None and before.kind == "NAME" and wanted == "`:`":
        return f"expected `:` and a type, as in `{before.text}: int`"
    if token is None:
        return None
    if before is None:
        return _remedy_at_start(source, token, kinds)
    if str(token) in _STATEMENTS and wanted == _GOES_ON:
        return "a statement ends at the end of its line, or at `;`"
    if token.type == "LBRACE" and "$END" in kinds:
        return "a pattern is written `pattern name { attend ... }`"
    if before.kind == "IN":
        return "expected a range, as in `x in 0..8`, or a segment; of several values, `x == 1 | x == 4`"
    if before.kind in _NEW and str(token) in (before.text, "="):
        return f"what follows is the new {before.text}, of which `{_NEW[before.kind]}` is the old one"
    if token.type == "COLON" and _is_all(tokens):
        return "that all of them fit is `~any(i in 0..n: ~mask)`"
    if token.type == "INT" and wanted == "a name" and any(t.text == "grid" for t in tokens):
        return 'an axis has a name here; its extent is given when compiling or calling, as in `sizes={"y": 32}`'
    return None


def _remedy_at_start(source: Source, token: Any, kinds: set[str]) -> str | None:
    """The same, where nothing stands before ``token``."""
    if source.text[token.start_pos : token.start_pos + 2] in ("//", "/*"):
        return "a comment starts with `#`"
    if str(token) in _STATEMENTS:
        return "statements stand in a pattern: `pattern name { attend ... }`; a mask alone needs no `attend`"
    if "ATTEND" in kinds:
        words = ", ".join(f"`{word}`" for word in _STATEMENTS[1:])
        return f"a mask follows `attend`; other statements start with {words}"
    return None


def _is_all(tokens: list[tk.Token]) -> bool:
    """Whether `all(i in` stands there, which is `any` of other languages' other half."""
    kinds = [t.kind for t in tokens]
    return any(t.text == "all" and kinds[i + 1 : i + 4] == ["LPAR", "NAME", "IN"] for i, t in enumerate(tokens))


def _foreign(source: Source, token: Any, before: tk.Token | None, tokens: list[tk.Token]) -> Diagnostic | None:
    """`x = 3`, `a if b else c`: what people write who come from Python, beside single words."""
    if token is not None and token.type == "EQUAL" and source.text[token.end_pos : token.end_pos + 1] == ">":
        span = Span(source, token.start_pos, token.end_pos + 1)
        hint = "a case is written `0: causal`; at least is `>=`"
        return Diagnostic("E105", "`=>` is not written like this here", span, hint)
    if token is not None and token.type == "EQUAL" and before and before.kind in ("PLUS", "MINUS", "TIMES"):
        span = Span(source, before.span.start, token.end_pos)
        return Diagnostic("E105", "nothing is assigned", span, "write the new score or output: `score s + 1`")
    if token is not None and token.type == "EQUAL" and before and before.text not in tk.KEYWORDS:
        span = Span(source, token.start_pos, token.end_pos)
        named = f"; `def {before.text} = ...` gives a name to something" if before is tokens[0] else ""
        message = "`=` gives a value to an argument; it does not compare"
        return Diagnostic("E105", message, span, f"use `==` to compare{named}")
    there = [t for t in (token, before) if t is not None and str(getattr(t, "text", t)) == "if"]
    if there:
        span = before.span if before and there[0] is before else Span(source, token.start_pos, token.end_pos)
        hint = "write `match condition { true: a; else: b }`"
        return Diagnostic("E105", "there is no `if` in the language", span, hint)
    return None


def _wanted(kinds: set[str]) -> str:
    if {"NAME", "INT", "LPAR"} <= kinds:
        return _EXPRESSION
    names = [_TERMINALS.get(k, f"`{k.lower()}`") for k in sorted(kinds)]
    if not names or len(names) > 6:
        return _GOES_ON if "_SEP" in kinds or "BAR" in kinds else ""
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
