"""Rules that hold everywhere: who may import what, and what nobody does."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import networkx as nx
import pytest

import maskc
from maskc.backends import BACKENDS

ROOT = Path(maskc.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
MODULES = {".".join(("maskc", *f.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): f for f in FILES}
TREES = {name: ast.parse(f.read_text(encoding="utf-8")) for name, f in MODULES.items()}

#: Modules that passes and the reference may see: the IR and messages.
IR = ("maskc.ir", "maskc.diagnostics", "maskc.errors", "maskc.forks")

#: Modules next to the backends that several of them use.
SHARED = {"decoding", "entries", "finding", "handles", "keybounds", "library", "transforms"}


def in_package(name: str, *packages: str) -> bool:
    return any(name == p or name.startswith(p + ".") for p in packages)


def type_checking_only(tree: ast.Module) -> set[ast.AST]:
    """The nodes below ``if TYPE_CHECKING:``: they never run."""
    blocks = [n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.dump(n.test)]
    return {inner for block in blocks for stmt in block.body for inner in ast.walk(stmt)}


def imports(module: str, lazy: bool = True) -> Iterator[str]:
    """What a module imports when it is run; with ``lazy`` also what its functions import."""
    tree = TREES[module]
    skipped = type_checking_only(tree)
    if not lazy:
        functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
        skipped |= {inner for f in functions for inner in ast.walk(f)}
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute"
            assert node.module
            yield node.module
            yield from (f"{node.module}.{a.name}" for a in node.names if f"{node.module}.{a.name}" in MODULES)


def importers(package: str) -> set[str]:
    return {name for name in MODULES if any(in_package(i, package) for i in imports(name))}


def reached(module: str) -> set[str]:
    """Every module, ours or not, that is loaded by importing ``module``."""
    seen: set[str] = set()
    todo = [module]
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in MODULES:
            parts = name.split(".")
            todo.extend([".".join(parts[:i]) for i in range(1, len(parts))])
            todo.extend(imports(name, lazy=False))
    return seen


def test_the_rules_see_the_code():
    assert "maskc.ir.evaluate" in set(imports("maskc.reference.mask"))
    assert "torch" in reached("maskc.op")
    assert "maskc.op" not in reached("maskc.compiler")


def named(module: str) -> Iterator[str]:
    """The modules of ours that a module names in any import: at the top, in functions, and where only types are
    checked. A package is named where something of its own is taken, not where one of its modules is."""
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            yield from (whole if (whole := f"{node.module}.{a.name}") in MODULES else node.module for a in node.names)


def test_imports_run_one_way():
    graph = nx.DiGraph((module, other) for module in MODULES for other in named(module) if other != module)
    assert [sorted(circle) for circle in nx.strongly_connected_components(graph) if len(circle) > 1] == []


def test_only_the_parser_imports_lark():
    assert importers("lark") <= {"maskc.syntax.parse"}


def test_only_the_triton_backend_imports_triton():
    assert {m for m in importers("triton") if not m.startswith("maskc.backends.triton")} == set()


def test_no_backend_imports_another():
    def backend(module: str) -> str:
        return module.split(".")[2].split("_")[0] if module.startswith("maskc.backends.") else ""

    for module in (m for m in MODULES if backend(m)):
        used = {backend(i) for i in imports(module)} - {"", *SHARED}
        assert used <= {backend(module)}, module
    # What backends share is no backend, and uses none.
    assert not SHARED & {backend(row.module) for row in BACKENDS}
    for module in (m for m in MODULES if backend(m) in SHARED):
        assert {backend(i) for i in imports(module)} <= {"", *SHARED}, module


def test_nothing_builds_on_the_command_line():
    assert {m for m in importers("maskc.cli") if not in_package(m, "maskc.cli", "maskc.__main__")} == set()


def test_few_import_the_reference():
    allowed = ("maskc.reference", "maskc.backends.reference", "maskc.checked")
    assert all(name in MODULES for name in allowed)
    assert {m for m in importers("maskc.reference") if not in_package(m, *allowed)} == set()
    # Calls use it in check mode alone.
    for module in ("maskc.op", "maskc.prepared", "maskc.steps"):
        assert "maskc.checked" not in set(imports(module, lazy=False)), module


@pytest.mark.parametrize(
    ("package", "sees"),
    [
        ("maskc.syntax", ("maskc.cache", "maskc.diagnostics")),
        ("maskc.lower", (*IR, "maskc.syntax")),
        ("maskc.ir", IR),
        ("maskc.passes", IR),
        ("maskc.reference", IR),
        ("maskc.tiles", (*IR, "maskc.arguments", "maskc.devices", "maskc.passes")),
    ],
)
def test_what_a_stage_sees(package, sees):
    for module in (m for m in MODULES if in_package(m, package)):
        ours = {i for i in imports(module) if in_package(i, "maskc")} - {"maskc"}
        if module == "maskc.tiles.plan":  # a plan in a notebook is its picture
            ours -= {i for i in ours if in_package(i, "maskc.picture")}
        assert {i for i in ours if not in_package(i, package, *sees)} == set(), module


@pytest.mark.parametrize("package", ["maskc.passes", "maskc.ir", "maskc.syntax", "maskc.lower"])
def test_stages_before_planning_import_no_torch(package):
    for module in (m for m in MODULES if in_package(m, package)):
        assert not any(in_package(i, "torch", "triton") for i in imports(module)), module


def test_the_front_door_loads_nothing_heavy():
    for module in (
        "maskc",
        "maskc.compiler",
        "maskc.reading",
        "maskc.lower",
        "maskc.spec",
        "maskc.diagnostics",
        "maskc.backends",
    ):
        heavy = {i for i in reached(module) if in_package(i, "torch", "triton", "numpy", "networkx", "transformers")}
        assert heavy == set(), module


def test_a_fresh_process_parses_without_torch_triton_or_numpy():
    code = """
import sys, maskc
maskc.parse("sliding_window(8) | sinks(2)")
heavy = sorted({"torch", "triton", "numpy", "networkx", "transformers"} & set(sys.modules))
raise SystemExit(f"loaded {heavy}" if heavy else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["eval", "exec", "compile", "__import__"])
def test_nobody_runs_text_as_python(name):
    # maskc.compile is ours; the built-in function is what must not be called.
    for module, tree in TREES.items():
        called = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
        defined = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
        imported = {a.asname or a.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names}
        assert name not in called - defined - imported, module


def test_nobody_unpickles():
    assert {m for p in ("pickle", "marshal", "shelve", "dill") for m in importers(p)} == set()
    # But for lark, which unpickles the tables of our own grammar that it kept in the cache.
    loads = {m for m, tree in TREES.items() for n in ast.walk(tree) if _is_load(n)}
    assert loads == {"maskc.syntax.parse"}


def _is_load(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "load" and ast.unparse(node.value) in ("lark.Lark", "Lark")


def test_only_knobs_reads_the_environment():
    for module, tree in TREES.items():
        if module == "maskc.knobs":
            continue
        read = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)} & {"environ", "getenv", "environb"}
        assert read == set(), module
        names = {a.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module == "os" for a in n.names}
        assert not names & {"environ", "getenv"}, module


def test_nothing_is_registered_by_importing():
    """No module calls another one's function for its effect when it is loaded."""
    for module, tree in TREES.items():
        effects = [n for n in tree.body if isinstance(n, ast.Expr) and isinstance(n.value, ast.Call)]
        if module == "maskc.backends.library":  # Operators of torch are defined by such calls; nothing of ours is.
            continue
        assert effects == [], f"{module}:{effects[0].lineno}"


def test_every_public_name_is_there():
    for name in maskc.__all__:
        assert getattr(maskc, name).__module__.startswith("maskc"), name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        maskc.nothing  # noqa: B018


def test_files_have_plain_names() -> None:
    """What a slip of a shell leaves behind has not."""
    whole = ROOT.parent
    hidden = {path.name for path in whole.iterdir() if path.name.startswith(".")} | {"out", "build", "dist"}
    files = [f.relative_to(whole) for f in whole.rglob("*") if f.relative_to(whole).parts[0] not in hidden]
    odd = [str(f) for f in files if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", f.name)]
    assert [name for name in odd if "__pycache__" not in name] == []
