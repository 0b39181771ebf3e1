"""All commands in the order of the help. A command is one file with a function ``command``, and a row here."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Sequence
from typing import Any

import typer

import maskc
from maskc.cli import check, diff, emit, explain, export, fmt, import_, ir, plan, prove, run_, show, spec, tune, why
from maskc.cli.checking import refuse
from maskc.diagnostics import Diagnostic, MaskcError

__all__ = ["COMMANDS", "run"]

COMMANDS: tuple[tuple[str, Callable[..., Any]], ...] = (
    ("check", check.command),
    ("fmt", fmt.command),
    ("show", show.command),
    ("why", why.command),
    ("diff", diff.command),
    ("run", run_.command),
    ("ir", ir.command),
    ("plan", plan.command),
    ("prove", prove.command),
    ("spec", spec.command),
    ("import", import_.command),
    ("emit", emit.command),
    ("export", export.command),
    ("tune", tune.command),
    ("explain", explain.command),
)

_HELP = (
    "Compile attention masks: check, draw, compare and run pattern files.\n\n"
    "A pattern is a file, or a mask in quotes, as in:\n\n"
    "maskc show 'causal & (sinks(2) | sliding_window(6))' --q 16\n\n"
    "With --json, where a command has it, errors of patterns and arguments are JSON on standard output, too.\n\n"
    "Exit codes: 0: all is well. 1: something is wrong with a pattern, or two differ. 2: the command or an argument is "
    "wrong, or a file cannot be read or written. 130: interrupted. 141: nobody reads the output any more."
)


def build() -> typer.Typer:
    """The application with all its commands."""
    app = typer.Typer(
        name="maskc",
        help=_HELP,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True)(_version)
    for name, function in COMMANDS:
        app.command(name, help=_paragraphs(function.__doc__ or ""))(_refusing(function))
    return app


def _refusing(function: Callable[..., Any]) -> Callable[..., Any]:
    """A command that says why it does nothing, in JSON where its results were to be."""

    @functools.wraps(function)
    def command(**given: Any) -> None:
        try:
            function(**given)
        except MaskcError as error:
            refused = error
        except MemoryError:
            hint = "ask for shorter sequences, or make the mask simpler"
            refused = MaskcError(Diagnostic("E801", "this takes more memory than there is", hint=hint))
        else:
            return
        raise typer.Exit(refuse(refused, given.get("as_json", False)))

    return command


def _paragraphs(text: str) -> str:
    """A docstring whose lines end where its paragraphs do: where the others end, the help would break them too."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in inspect.cleandoc(text).split("\n\n"))


def _version(
    version: bool = typer.Option(False, "--version", help="Print the version and exit.", is_eager=True),
) -> None:
    if version:
        typer.echo(f"maskc {maskc.__version__}")
        raise typer.Exit


def run(words: Sequence[str]) -> int:
    """Run one command; the process' exit code."""
    try:
        build()(args=list(words), prog_name="maskc")
    except SystemExit as done:  # How click ends, always.
        if isinstance(done.__context__, BrokenPipeError):  # click and rich end like that, with 1.
            raise done.__context__ from None
        if done.code == 130:
            raise KeyboardInterrupt from None
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    except ValueError as error:  # An environment variable that makes no sense.
        if "environment variable" not in str(error):
            raise
        sys.stderr.write(f"maskc: {error}\n")
        return 2
    return 0
