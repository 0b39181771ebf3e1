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
    it means and what to do, in plain sentences. ``example``: a short faulty program or call
    (``is_call`` says which). ``report``: what maskc says of an example that is a call."""

    code: str
    title: str
    explanation: str = ""
    example: str = ""
    report: str = ""

    @property
    def is_call(self) -> bool:
        """Whether the example is Python or a command, and not a program of the language."""
        return self.code[1] in "5678" or self.code in ("E001", "E002", "E003", "E103")


_ROWS = (
    # Reading
    ErrorRow(
        "E001",
        "the text is not UTF-8",
        "Pattern files are read as UTF-8. This one holds bytes that are not: it was saved in another encoding, or it "
        "is no text at all. Save it again as UTF-8.",
        "maskc check photograph.png",
        "error[E001]: photograph.png is not UTF-8: byte 0 is 0x89\n  help: save the file as UTF-8 text",
    ),
    ErrorRow(
        "E002",
        "the text is too large",
        "A pattern is a page or two of text. To keep reading it bounded in time and memory, larger files than the "
        "message says are refused. Data belongs in tables and inputs, which are given when compiling or calling.",
        "maskc check dump-of-100-megabytes.mask",
        "error[E002]: dump-of-100-megabytes.mask has more than 65536 bytes\n"
        "  help: a pattern is usually under a page; give large tables as arguments",
    ),
    ErrorRow(
        "E003",
        "the file cannot be read or written",
        "There is no such file or directory, it is a directory, permission is missing, or there is no room for it.",
        "maskc check no-such-file.mask",
        "error[E003]: cannot read no-such-file.mask: No such file or directory\n"
        "  help: give the path of a pattern file, usually ending in `.mask`",
    ),
    ErrorRow(
        "E004",
        "there is nothing in the file",
        "A file holds definitions and patterns, or one mask expression. This one holds neither, only blanks or "
        "comments.",
        "# only a comment\n",
    ),
    ErrorRow(
        "E005",
        "unknown version of the language",
        "A file may start with `maskc` and the version of the language that it is written in. This version of maskc "
        "does not know that one: install a newer maskc, or correct the line.",
        "maskc 99\ncausal\n",
    ),
    # Syntax
    ErrorRow(
        "E101",
        "this cannot stand here",
        "The text is not a sentence of the language at this place. The message lists what could stand here instead.",
        "causal sinks(4)\n",
    ),
    ErrorRow(
        "E102",
        "unknown character",
        "No word of the language contains this character. Names are letters, digits and `_`. In a comment nearly every "
        "character may stand, but none that would change how the text around it looks: no control characters, and no "
        "marks that turn the direction of the text around.",
        "causal ? sinks(4)\n",
    ),
    ErrorRow(
        "E103",
        "nested too deeply",
        "Brackets, operators or calls stand more deeply within one another than maskc follows. Give parts of the "
        "expression a name with `let` or `def`; where it is too deep once all names are expanded, use a table or an "
        "input.",
        "~~~~~~ ... ~~~~~~causal",
        "<text>:1:9900: error[E103]: this is nested more than 100 deep",
    ),
    ErrorRow(
        "E104",
        "number too large",
        "Integers in a pattern are at most 2147483647, so that no backend needs more than 32 bits to hold one, and "
        "floats must be finite.",
        "sinks(99999999999999999999)\n",
    ),
    ErrorRow(
        "E105",
        "spelled as in another language",
        "The meaning is clear, but it is spelled otherwise here: `&`, `|` and `~` combine masks, `==` compares, and "
        "conditions are written with `match`. A JSON file is none: import it, or load it as a spec. A Python file is "
        "none either: write the mask that its function returns.",
        "causal and sinks(4)\n",
    ),
    ErrorRow(
        "E106",
        "statement given twice or missing",
        "A pattern has exactly one `attend`, at most one `normalize`, and any number of the others.",
        "pattern twice(n: int = 4) {\n    attend causal\n    attend sinks(n)\n}\n",
    ),
    ErrorRow(
        "E107",
        "bracket never closed",
        "The file ends while a bracket is still open. The note shows where it was opened, or the caret does.",
        "causal & (sinks(4) | window(8\n",
    ),
    # Names
    ErrorRow(
        "E201",
        "unknown name",
        "Nothing of this name is defined here: neither in the file, nor in the signature, nor in the vocabulary that "
        "comes with maskc. The hint names what is spelled alike.",
        "causl & sinks(4)\n",
    ),
    ErrorRow(
        "E202",
        "name defined twice",
        "Two definitions, patterns, parameters or `let` names of one scope have the same name, or two segments of a "
        "space, or two axes of a grid. Rename one of them.",
        "def near = window(4)\ndef near = window(8)\npattern p() {\n    attend near\n}\n",
    ),
    ErrorRow(
        "E203",
        "a definition uses itself",
        "Definitions are expanded where they are used, so that none may use itself, not even by way of others. The "
        "language has no recursion.",
        "def left = right\ndef right = left\npattern p() {\n    attend left\n}\n",
    ),
    ErrorRow(
        "E204",
        "wrong arguments in a call",
        "A call gives too many arguments, too few, one twice, or one by a name that the definition does not have.",
        "sliding_window(4, 5, 6)\n",
    ),
    ErrorRow(
        "E205",
        "which pattern is meant",
        "A file holds any number of patterns, each with a name, or one bare mask expression. Where one pattern is "
        "wanted of a file that holds several, say which one by its name: `--name`, or `name=`.",
        "causal\nsinks(4)\n",
    ),
    ErrorRow(
        "E206",
        "reserved name",
        "The name belongs to the language: a keyword, a symbol such as `q` or `h`, or a function of the core.",
        "def q = 3\npattern p() {\n    attend causal\n}\n",
    ),
    # Types
    ErrorRow(
        "E301",
        "wrong type",
        "An operand or argument is of another type than this place takes: a mask where a number is wanted, a number "
        "where a mask is wanted, a float where an integer is wanted.",
        "causal + 1\n",
    ),
    ErrorRow(
        "E302",
        "wrong number of indices",
        "A table or an input is looked up with as many indices as its signature has dimensions (batch apart).",
        "pattern p(w: int[head]) {\n    attend sliding_window(w[h, layer])\n}\n",
    ),
    ErrorRow(
        "E303",
        "unknown enumerator",
        "The enumeration that is compared or matched here has no such value. The values are listed in the signature.",
        "pattern p(mode: {full, sparse} = full) {\n    attend match mode { dense: causal; else: sinks(4) }\n}\n",
    ),
    ErrorRow(
        "E304",
        "match does not cover every value",
        "For some value no case fits. Add an `else` case, or cases for the values that the message names.",
        "pattern p(n: int = 4) {\n    attend match layer { 0: causal; 1: sinks(n) }\n}\n",
    ),
    ErrorRow(
        "E305",
        "not allowed in this statement",
        "The scaled score `s` exists only in `score`, an output element `o` only in `output`; an output and a sink "
        "speak of no key; a pattern may only be called as a mask.",
        "pattern p() {\n    attend causal & s > 0.0\n}\n",
    ),
    ErrorRow(
        "E306",
        "division by zero",
        "The divisor is zero whatever the arguments are. A divisor that becomes zero at some position only is no "
        "error: the quotient is 0 there.",
        "same(token // 0)\n",
    ),
    ErrorRow(
        "E307",
        "extent not known",
        "The extent of this coordinate cannot be told from the signature and the spaces. The token index, grid axes, "
        "segments, and inputs that are declared with a range have one; so do their sums, and what `*`, `//` and `%` "
        "by a number make of them.",
        "pattern p(doc: int[token]) {\n    attend k < size(doc)\n}\n",
    ),
    # Warnings
    ErrorRow(
        "W401",
        "parameter never used",
        "The signature declares something that no statement uses. Remove it, or use it.",
        "pattern p(window: int = 4) {\n    attend causal\n}\n",
    ),
    ErrorRow(
        "W402",
        "case never reached",
        "The cases before this one take every value that it would take.",
        "pattern p() {\n    attend match layer { ..4: causal; 2: sinks(4); else: all }\n}\n",
    ),
    ErrorRow(
        "W403",
        "the mask is constant",
        "The mask keeps every pair or none, whatever the arguments are. If that is meant, write `all` or `none`.",
        "causal | ~causal\n",
    ),
    ErrorRow(
        "W404",
        "name never used",
        "A `let` or a definition is used nowhere in the file. Remove it, or use it.",
        "pattern p() {\n    let near = window(4)\n    attend causal\n}\n",
    ),
    ErrorRow(
        "W405",
        "quotients compared",
        "Integers are divided by `/`, which makes a float, and compared by `==` or `!=`. Blocks come from `//`, which "
        "rounds down: `q // 64 == k // 64`.",
        "causal & q / 64 == k / 64\n",
    ),
    # Arguments, inputs and tensors
    ErrorRow(
        "E501",
        "argument missing",
        "The pattern declares a parameter without a default, or an input, and the call does not give it.",
        'maskc.compile("pattern p(n: int) { attend sliding_window(n) }", heads=1)',
        "error[E501]: 'p' needs the argument 'n'\n  help: give n=... when compiling; it is declared `n: int`; what "
        "differs from call to call is declared by batch entry: `int[batch]`",
    ),
    ErrorRow(
        "E502",
        "unknown argument",
        "The pattern declares no parameter or input of this name. The hint names what is spelled alike.",
        'maskc.compile("pattern p(window: int = 4) { attend sliding_window(window) }", heads=1, windw=8)',
        "error[E502]: 'p' takes no argument called 'windw'\n  help: did you mean 'window'?",
    ),
    ErrorRow(
        "E503",
        "argument of the wrong type",
        "The value is of another type than the signature declares: `int` takes integers, `bool` takes booleans, an "
        "enumeration takes one of its names, and a table takes an array of those.",
        'maskc.compile("pattern p(n: int) { attend sliding_window(n) }", heads=1, n="four")',
        "error[E503]: n: int: expected an integer, found 'four'",
    ),
    ErrorRow(
        "E504",
        "value out of range",
        "A value lies outside the range that its signature declares, or outside what the argument can mean.",
        'maskc.compile("pattern p(n: int(1..)) { attend sliding_window(n) }", heads=1, n=0)',
        "error[E504]: n: int(1..): expected values of at least 1, found 0",
    ),
    ErrorRow(
        "E505",
        "wrong shape",
        "A table or an input has another number of dimensions, or another extent, than its signature and the lengths "
        "ask for.",
        'maskc.compile("pattern p(w: int[head]) { attend sliding_window(w[h]) }", heads=4, w=[1, 2, 3])',
        "error[E505]: w: int[head]: expected the shape (4,), found (3,)",
    ),
    ErrorRow(
        "E506",
        "sizes do not fit the length",
        "The extents of segments and grid axes multiply and add up to another length than the sequence has, or an "
        "extent is missing and does not follow from the length.",
        'maskc.dense_mask("pattern p() over grid(y, x) { attend same(y) }", q_len=15, k_len=15, sizes={"y": 4, "x": '
        "4})",
        "error[E506]: y 4 * x 4 = 16, but there are 15 tokens\n"
        "  help: give sizes that fit, or leave one out to let it follow from the length",
    ),
    ErrorRow(
        "E507",
        "integers may overflow",
        "With these lengths, arguments and inputs an integer of the program may leave the range that is computed with: "
        "it is bounded from the least and the greatest value of each. An input whose values are not known, on the "
        "device `meta` say, is taken to have 32 bits, or its declared range. Use smaller numbers, declare the range of "
        "such an input, or reduce numbers with `%`.",
        'program = maskc.parse("pattern p(doc: int[token]) { attend same(doc * 2147483647 * 8) }").program\n'
        "maskc.make_binding(program, 4, 4, doc=[0, 0, 1, 1000000000])",
        "error[E507]: the integer `doc[q] * 2147483647 * 8` may reach 2**62\n"
        "  help: use smaller numbers, or reduce them with `%` on the way",
    ),
    ErrorRow(
        "E508",
        "too many alternatives",
        "An `any` is expanded into more alternatives than the message says. Use an input or a table of what is "
        "chosen, or fewer alternatives.",
        "from maskc.passes.specialise import unroll\n"
        "\n"
        'unroll(maskc.parse("any(i in 0..300: any(j in 0..300: k == i * j))").program.mask)',
        "error[E508]: `any` has more than 4096 alternatives in all\n"
        "  help: use a table or an input of the chosen keys, or fewer alternatives",
    ),
    ErrorRow(
        "E510",
        "tensor of the wrong shape",
        "`q` is (B, Hq, Nq, D), `k` is (B, Hkv, Nk, D) and `v` is (B, Hkv, Nk, Dv), and Hq is a multiple of Hkv. "
        "B, Nq and Nk may be 0; the others may not.",
        'op = maskc.compile("causal", heads=2)\n'
        "op(torch.zeros(1, 16, 8), torch.zeros(1, 16, 8), torch.zeros(1, 16, 8))",
        "error[E510]: q must be (batch, heads, length, dim), not (1, 16, 8)\n  help: for one batch entry: q[None]",
    ),
    ErrorRow(
        "E511",
        "tensor of the wrong dtype",
        "`q`, `k` and `v` are tensors of one floating-point dtype. Inputs have the type that their signature declares.",
        'op = maskc.compile("causal", heads=2)\nx = torch.zeros(1, 2, 16, 8, dtype=torch.int64)\nop(x, x, x)',
        "error[E511]: q must be of a float dtype, not torch.int64",
    ),
    ErrorRow(
        "E512",
        "tensor on the wrong device",
        "`q`, `k`, `v` and all inputs that are tensors lie on one device.",
        'op = maskc.compile("causal", heads=2)\nx = torch.zeros(1, 2, 16, 8)\nop(x, x.to("meta"), x)',
        "error[E512]: q is on cpu, but k is on meta\n  help: move it: k.to(q.device)",
    ),
    ErrorRow(
        "E513",
        "assertion does not hold",
        "An `assert` of the pattern is false for these arguments. The message shows a query and a key where it fails.",
        'maskc.check_assertions("""\n'
        "    pattern p {\n"
        "        attend window(1, 1)\n"
        "        assert k <= q\n"
        "    }\n"
        '""", 4, 4)',
        "error[E513]: assertion 1 of 'p' does not hold: in batch entry 0, head 0, query 0 keeps key 1, but not k <= "
        "q\n"
        "  help: change the mask or the assertion",
    ),
    # Specs
    ErrorRow(
        "E601",
        "malformed spec",
        'A spec is a JSON object with the keys "maskc" (the version of specs), "pattern" (text), "args" and "hash". '
        "The message says what is missing or of the wrong type.",
        'maskc.from_spec({"pattern": "causal"})',
        'error[E601]: malformed spec: the key "maskc", the version, is missing\n  help: add "maskc": 1',
    ),
    ErrorRow(
        "E602",
        "spec of an unknown version",
        "The spec was written by a later maskc. Install that, or write the spec again with this one.",
        'maskc.from_spec({"maskc": 2, "pattern": "causal", "args": {}})',
        "error[E602]: the spec is of version 2; this release of maskc reads version 1\n  help: upgrade maskc",
    ),
    ErrorRow(
        "E603",
        "spec whose hash does not match",
        "The pattern or the arguments of the spec were changed after its hash had been written. If the change was "
        "meant, make the spec anew from the pattern.",
        'spec = maskc.parse("causal").spec()\nmaskc.from_spec({**spec, "pattern": "all"})',
        "error[E603]: the spec says hash c54472667ed8..., but its pattern and arguments have 5b96e3e8dfaf...\n"
        '  help: the spec was edited or damaged: get it again, or, if the change is meant, remove "hash"',
    ),
    ErrorRow(
        "E604",
        "malformed config",
        "A model's configuration holds a value of another type or size than its kind has, or contradicts itself. The "
        "message names the field.",
        "from maskc.interop.configs import text_from_config\n"
        "\n"
        'text_from_config({"model_type": "mistral", "sliding_window": "wide"})',
        "error[E604]: malformed config: 'sliding_window' must be an integer from 1 to 2147483647, not 'wide'",
    ),
    ErrorRow(
        "E605",
        "unknown kind of model",
        "What a configuration means depends on the kind of its model, and this kind is not among those that maskc "
        "knows. Write the pattern by hand, after the model's code.",
        'from maskc.interop.configs import text_from_config\n\ntext_from_config({"model_type": "my_own_model"})',
        "error[E605]: models of the kind 'my_own_model' are not known\n"
        "  help: write the pattern by hand; known are llama, mistral, mixtral, qwen2, qwen3, gemma, gemma2, "
        "gemma3_text, gemma3, gemma4_text, gemma4, gpt_oss, llama4_text, phi3, starcoder2, cohere2, olmo3, "
        "exaone4, smollm3, gpt_neo, bloom, mpt, falcon, modernbert, bert, t5, paligemma, longformer, led, "
        "big_bird, swin",
    ),
    # Backends and planning
    ErrorRow(
        "E701",
        "unknown backend",
        "There is no backend of this name. The message lists those there are.",
        'maskc.compile("causal", heads=1, backend="tritn")',
        "error[E701]: no backend is called 'tritn'; there are: cpu, triton, flex, reference\n"
        "  help: did you mean 'triton'?",
    ),
    ErrorRow(
        "E702",
        "the backend cannot do this",
        "The backend that was asked for by name does not support this program or these tensors; the message says why "
        'and what to do. `backend="auto"` takes the first that can.',
        'op = maskc.compile("pattern p { attend causal; normalize sigmoid }", heads=1)\n'
        "x = torch.zeros(1, 1, 4, 8)\n"
        "op(x, x, x, return_lse=True)",
        "error[E702]: 'p' normalises by sigmoid, which has no log-sum-exp\n  help: drop return_lse",
    ),
    ErrorRow(
        "E703",
        "an optional package is missing",
        "This function needs a package that maskc does not install by itself. The hint names the extra that brings it.",
        "maskc show pattern.mask --png out.png   # without matplotlib",
        "error[E703]: pictures in PNG need matplotlib, which is not installed\n"
        "  help: install it with: pip install 'maskc[plot]'",
    ),
    ErrorRow(
        "E704",
        "the format cannot say this mask",
        "Other engines take masks of some kinds only: one stretch of keys a query, two hidden stretches a key, one "
        "mask for all heads. The message says what does not fit, and of which token. A pattern that does more than "
        "attend is refused too: the engine would drop the rest silently.",
        'maskc.export("causal & (sinks(4) | sliding_window(9))", "varlen", 64)',
        "error[E704]: 'mask' cannot be said: FlashAttention lets a query see consecutive keys alone, and query 13 "
        "keeps 2 stretches of keys\n"
        "  help: another format may be able to (docs/exports.md), and maskc's own kernels are",
    ),
    ErrorRow(
        "E801",
        "planning would cost too much",
        "Deciding which tiles are empty, partial or full would take more time or memory than the message says. Use "
        "larger tiles, or a pattern whose boundary is shorter. A proof plans too, and may cost some ten seconds' work: "
        "ask it of shorter sequences, fewer heads or batch entries, or of a simpler claim.",
        "from maskc.tiles import make_plan\n"
        "\n"
        'program = maskc.parse("hash(q, k) % 2 == 0").program\n'
        "make_plan(program, maskc.make_binding(program, 4096, 4096), budget=100)",
        "error[E801]: planning this mask would take about 7e+04 evaluations (boxes that are neither full nor empty; "
        "one of this mask counts as 2 by the work that it is); the limit is 1e+02\n"
        "  help: the mask varies within nearly every tile, so that tiles save nothing: shorten the sequence, make "
        "the tiles coarser, say what the irregular part depends on with coarser coordinates (such as q // 64), or "
        "raise the limit: budget=... of make_plan and maskc.compile(..., budget=...), --budget of maskc plan",
    ),
    ErrorRow(
        "E901",
        "the program is too large",
        "After all definitions are expanded the program has more nodes than the message says. Definitions that use "
        "one another twice over many levels grow like that. Or it declares more of something than may be declared.",
        "def two = causal & causal & causal & causal & causal & causal & causal & causal\n"
        "def three = two & two & two & two & two & two & two & two\n"
        "def four = three & three & three & three & three & three & three & three\n"
        "def five = four & four & four & four & four & four & four & four\n"
        "def six = five & five & five & five & five & five & five & five\n"
        "def seven = six & six & six & six & six & six & six & six\n"
        "seven\n",
    ),
)

ERRORS: dict[str, ErrorRow] = {row.code: row for row in _ROWS}
