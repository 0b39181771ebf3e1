"""Tokens: the words of the language, where lines end, and the limits on an untrusted text."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from maskc.diagnostics import Diagnostic, MaskcError, Note, Source, Span
from maskc.syntax.tree import Comment

__all__ = ["FOREIGN", "KEYWORDS", "MAX_DEPTH", "MAX_TEXT", "Token", "tokenize", "too_deep"]

#: Bytes of text that are read at most: twenty times the largest of the examples; so many are read in a second.
MAX_TEXT = 1 << 16
#: Brackets, or operators, that may stand within one another.
MAX_DEPTH = 100
#: Literals are limited so that ordinary arithmetic on positions stays within 64 bits.
MAX_INT = 2**31 - 1

KEYWORDS = (
    "maskc", "def", "pattern", "over", "let", "attend", "score", "normalize", "output", "assert", "some",
    "on", "in", "true", "false", "any", "match", "else",
)  # fmt: skip
_OPERATORS = {
    "|": "BAR", "&": "AMP", "~": "TILDE", "+": "PLUS", "-": "MINUS", "**": "POW", "*": "TIMES", "/": "TIMES",
    "//": "TIMES", "%": "TIMES", "<": "COMPARE", "<=": "COMPARE", ">": "COMPARE", ">=": "COMPARE",
    "==": "COMPARE", "!=": "COMPARE", "=": "EQUAL", "->": "ARROW", "++": "JOIN",
    "..": "DOTS", ":": "COLON", ",": "COMMA", "(": "LPAR", ")": "RPAR", "[": "LSQB", "]": "RSQB",
    "{": "LBRACE", "}": "RBRACE", ";": "_SEP",
}  # fmt: skip
#: Spellings of other languages, and what to write here.
FOREIGN = {
    "&&": "&", "||": "|", "!": "~", "^": "!=", "<>": "!=", "===": "==", "and": "&", "or": "|", "not": "~",
    "True": "true", "False": "false", "is": "==", "//=": "//",
}  # fmt: skip

#: What to do about characters of other languages.
_REMEDIES = {
    "?": "cases are written `match condition { true: a; else: b }`",
    ".": "a float has a digit on either side of its point, as in `0.5`",
    "\\": "a line that ends with an operator goes on in the next",
    **dict.fromkeys("'\"\u2018\u2019\u201c\u201d", "names and values stand without quotes"),
}
#: What formulas are printed with, and is spelled otherwise here.
_ALIKE = {
    "≤": "<=", "≥": ">=", "≠": "!=", "∧": "&", "∨": "|", "¬": "~", "∈": "in", "→": "->", "…": "..",
    "×": "*", "·": "*", "−": "-", "–": "-", "—": "-", "÷": "//",
}  # fmt: skip

_TOKEN = re.compile(
    r"(?P<blank>[ \t\r]+)|(?P<newline>\n)|(?P<comment>\#[^\n]*)"
    r"|(?P<float>[0-9][0-9_]*\.[0-9][0-9_]*(?:[eE][+-]?[0-9]+)?|[0-9][0-9_]*[eE][+-]?[0-9]+)|(?P<int>[0-9][0-9_]*)"
    r"|(?P<name>[^\W\d]\w*)"
    r"|(?P<foreign>&&|\|\||===|<>|!(?!=)|\^)"
    r"|(?P<op>->|\+\+|\.\.|//|\*\*|<=|>=|==|!=|[|&~+\-*/%<>=:,()\[\]{};])"
)
#: What an editor or a terminal does not show as it stands: control characters, ends of lines and paragraphs that are no
#: end of a line here, and marks that turn the direction of the text around. A comment with one could look like code, or
#: code like a comment.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_OPENERS = {"(": ")", "[": "]", "{": "}"}
# A line that starts with one of these goes on with the line before.
_CONTINUES = {"BAR", "AMP", "PLUS", "POW", "TIMES", "COMPARE", "EQUAL", "COLON", "COMMA", "RPAR", "RSQB", "RBRACE",
              "LBRACE", "ON", "IN", "OVER", "ARROW", "JOIN"}  # fmt: skip
# So does one that starts with one of these, but not within a match: there it is a case, such as `-1` or `..4`.
_CASES = {"MINUS", "DOTS"}
# A line that ends with one of these goes on with the line after.
_EXPECTS = (_CONTINUES - {"RPAR", "RSQB", "RBRACE"}) | {
    *_CASES, "TILDE", "LPAR", "LSQB", "MATCH", "_SEP", "DEF", "PATTERN", "LET", "ATTEND", "SCORE", "NORMALIZE",
    "OUTPUT", "ASSERT", "ANY",
}  # fmt: skip


@dataclass(frozen=True)
class Token:
    """``kind`` is a terminal of the grammar."""

    kind: str
    text: str
    span: Span


@dataclass
class _Open:
    token: Token
    is_match: bool


def tokenize(source: Source) -> tuple[list[Token], list[Comment]]:
    """The tokens of a text, with a ``_SEP`` wherever a statement ends, and its comments.

    Raises MaskcError with everything that is no token, or a bracket that is never closed.
    """
    return _Tokenizer(source).run()


def too_deep(span: Span) -> Diagnostic:
    """Nested more than MAX_DEPTH deep, at ``span``."""
    hint = "name parts of it with `let` or `def`"
    return Diagnostic("E103", f"this is nested more than {MAX_DEPTH} deep", span, hint)


def _instead(text: str) -> str | None:
    """What to write instead of a character that is no part of the language, the first of ``text``."""
    character = text[0]
    if character == "." and text[1:].isidentifier():
        return "there are no modules and no methods: write `tanh(x)`, `abs(x)`"
    if character in _REMEDIES:
        return _REMEDIES[character]
    if unicodedata.category(character) == "Mn":
        return "write a letter and its accent as one character"
    if unicodedata.category(character) in ("Cc", "Cf"):  # A byte order mark, a joiner: nobody sees it.
        return "leave it out"
    alike = _ALIKE.get(character) or unicodedata.normalize("NFKC", character)
    alike = str(unicodedata.digit(character, alike))
    return (
        "write a blank" if alike.isspace() else f"write `{alike}`" if alike.isascii() and alike != character else None
    )


class _Tokenizer:
    def __init__(self, source: Source) -> None:
        self.source = source
        self.tokens: list[Token] = []
        self.comments: list[Comment] = []
        self.errors: list[Diagnostic] = []
        self.open: list[_Open] = []
        self.matches: list[int] = []  # depth of brackets at each `match` whose brace is still to come
        self.newline = False

    def run(self) -> tuple[list[Token], list[Comment]]:
        text, at = self.source.text, 0
        while at < len(text) and len(self.errors) < 20:
            m = _TOKEN.match(text, at)
            if m is None:
                self.error("E102", f"{text[at]!r} is no part of the language", at, at + 1, _instead(text[at : at + 2]))
                at += 1
                continue
            self.take(str(m.lastgroup), m.group(), at)
            at = m.end()
        for left in self.open[:1] if not self.errors else ():
            self.errors.append(Diagnostic("E107", f"`{left.token.text}` is never closed", left.token.span,
                                          f"write `{_OPENERS[left.token.text]}` where it should end"))  # fmt: skip
        if self.errors:
            raise MaskcError(self.errors)
        while self.tokens and self.tokens[-1].kind == "_SEP":
            self.tokens.pop()
        return self.tokens, self.comments

    def error(self, code: str, message: str, start: int, end: int, hint: str | None = None) -> None:
        self.errors.append(Diagnostic(code, message, Span(self.source, start, end), hint))

    def take(self, group: str, text: str, at: int) -> None:
        span = Span(self.source, at, at + len(text))
        if group == "newline":
            self.newline = True
        elif group == "comment":
            line_start = self.source.text.rfind("\n", 0, at) + 1
            own = not self.source.text[line_start:at].strip()
            self.comments.append(Comment(span, text.rstrip(), own))
            unseen = _UNSEEN.search(text.rstrip())
            if unseen:
                message = f"{unseen[0]!r} is not shown as it stands, and may not stand in a comment"
                self.error("E102", message, at + unseen.start(), at + unseen.end(), "leave it out")
        elif group == "foreign":
            self.error("E105", f"`{text}` is not written like this here", at, at + len(text),
                       f"use `{FOREIGN[text]}`")  # fmt: skip
        elif group != "blank":
            kind = {"float": "FLOAT", "int": "INT"}.get(group) or (
                _OPERATORS[text] if group == "op" else text.upper() if text in KEYWORDS else "NAME"
            )
            self.number(group, text, span)
            self.name(text, span)
            self.push(Token(kind, text, span))

    def number(self, group: str, text: str, span: Span) -> None:
        digits = text.replace("_", "")
        if group == "int" and (len(digits) > 10 or int(digits) > MAX_INT):
            self.error("E104", f"an integer may be at most {MAX_INT}", span.start, span.end)
        elif group == "float" and (len(digits) > 400 or float(digits) == float("inf")):
            self.error("E104", "a float has at most 400 digits and is finite", span.start, span.end)

    def name(self, text: str, span: Span) -> None:
        """Refuse what Python reads as another name: nobody could give it to a call, and it looks like that other."""
        other = text if text.isascii() else unicodedata.normalize("NFKC", text)
        if other != text:
            message = "these characters are another spelling of plainer ones, and make no name"
            self.error("E102", message, span.start, span.end, f"write `{other}`" if len(other) <= 80 else None)

    def push(self, token: Token) -> None:
        if self.newline or token.kind in ("DEF", "PATTERN"):
            self.end_statement(token)
        self.newline = False
        if token.kind == "_SEP" and (not self.tokens or self.tokens[-1].kind in ("_SEP", "LBRACE")):
            return
        if token.text in _OPENERS:
            self.enter(token)
        elif token.text in (")", "]", "}"):
            self.leave(token)
        elif token.kind == "MATCH":
            self.matches.append(len(self.open))
        if token.kind == "RBRACE" and self.tokens and self.tokens[-1].kind == "_SEP":
            self.tokens.pop()
        self.tokens.append(token)

    def end_statement(self, token: Token) -> None:
        """Insert a _SEP between the last token and this one, which starts a line, if a statement ends there."""
        if not self.tokens or (self.open and self.open[-1].token.text in "(["):
            return
        last = self.tokens[-1]
        if last.kind == "LBRACE" or last.kind in _EXPECTS or token.kind in _CONTINUES or token.kind == "_SEP":
            return
        if token.kind in _CASES and not (self.open and self.open[-1].is_match):
            return
        self.tokens.append(Token("_SEP", "", Span(self.source, last.span.end, last.span.end)))

    def enter(self, token: Token) -> None:
        is_match = token.text == "{" and bool(self.matches) and self.matches[-1] == len(self.open)
        if is_match:
            self.matches.pop()
        self.open.append(_Open(token, is_match))
        if len(self.open) > MAX_DEPTH:  # Nothing after this is worth reading.
            raise MaskcError(too_deep(token.span))

    def leave(self, token: Token) -> None:
        if self.open and _OPENERS[self.open[-1].token.text] == token.text:
            self.open.pop()
            return
        notes: tuple[Note, ...] = ()
        if self.open:
            opener = self.open.pop().token
            notes = (Note(f"`{opener.text}` was opened here, and wants `{_OPENERS[opener.text]}`", opener.span),)
        self.errors.append(Diagnostic("E107", f"`{token.text}` closes nothing", token.span, None, notes))
