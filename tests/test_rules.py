"""The rules of the house, read from the syntax tree of src/subquad.

Each rule is a function from one module to complaints. Every rule has an example that breaks it and
one that keeps it (EXAMPLES), so that no rule can fall asleep.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SRC = ROOT / "src" / "subquad"

# --- the tables ---------------------------------------------------------------------------------

LAYERS = ("ops", "nn", "archs", "model", "pair", "towers", "hf", "tasks", "train", "cli")
LEAVES = ("data", "convert", "viz", "bench")
CORE = LAYERS[: LAYERS.index("towers") + 1]  # torch and the standard library only

# room -> rooms it may import besides itself; "" is the package's own __init__
MAY_IMPORT: dict[str, set[str]] = {
    **{room: set(LAYERS[:i]) for i, room in enumerate(LAYERS)},
    "data": set(),
    "convert": {*CORE, "hf"},
    "viz": {*CORE, "hf"},
    "bench": {*CORE, "hf", "tasks", "train"},
    "": set(CORE),
}
MAY_IMPORT["tasks"] |= {"data"}
MAY_IMPORT["train"] |= {"data"}
MAY_IMPORT["cli"] |= {*LEAVES, ""}
# the public names that must not load more than torch are reached on first use
MAY_IMPORT_LAZILY: dict[str, set[str]] = {"": {*LAYERS, *LEAVES} - {"cli"}}
# `from subquad import __version__`; below model it would be a circle
for _room in ("hf", "tasks", "train", *LEAVES):
    MAY_IMPORT_LAZILY[_room] = {""}


@dataclass(frozen=True)
class Where:
    """Places (a room, or a folder such as ops/triton) that may import a package, and how."""

    anyhow: tuple[str, ...] = ()  # at the top of a file too
    lazily: tuple[str, ...] = ()  # inside a function, or for type checkers only


# A package that is not listed may be imported nowhere. The longest name that fits decides.
# Required packages may stand at the top of their own room; optional ones never do, because the
# error that names the extra to install is raised where the import fails.
PACKAGES: dict[str, Where] = {
    # required
    "torch": Where(anyhow=("", *LAYERS, *LEAVES)),
    "torch.utils.tensorboard": Where(lazily=("train",)),
    "tensorboard": Where(lazily=("train", "cli")),
    "triton": Where(anyhow=("ops/triton",), lazily=("ops",)),
    "safetensors": Where(lazily=("model", "hf", "train", "convert", "cli")),
    "numpy": Where(
        anyhow=("data", "viz", "bench"), lazily=("hf", "tasks", "train", "convert", "cli")
    ),
    "transformers": Where(
        anyhow=("hf", "train"), lazily=("tasks", "data", "convert", "viz", "bench", "cli")
    ),
    "huggingface_hub": Where(anyhow=("hf",), lazily=("data", "convert", "cli")),
    "accelerate": Where(anyhow=("train",), lazily=("hf", "cli")),
    "tokenizers": Where(anyhow=("data",), lazily=("tasks", "hf", "convert")),
    "jsonargparse": Where(anyhow=("cli",)),
    "rich": Where(anyhow=("cli",), lazily=("train", "bench")),
    "yaml": Where(lazily=("cli", "hf")),
    # optional
    "datasets": Where(lazily=("data",)),
    "soundfile": Where(lazily=("data",)),
    "PIL": Where(lazily=("data", "viz")),
    "pandas": Where(lazily=("data", "tasks")),
    "pyarrow": Where(lazily=("data",)),
    "statsmodels": Where(lazily=("tasks",)),
    "sacrebleu": Where(lazily=("tasks",)),
    "sklearn": Where(lazily=("tasks", "bench")),
    "torchmetrics": Where(lazily=("tasks",)),
    "jiwer": Where(lazily=("tasks",)),
    "peft": Where(lazily=("hf", "train")),
    "matplotlib": Where(lazily=("viz",)),
    "plotly": Where(lazily=("viz",)),
    "gluonts": Where(lazily=("bench",)),
    "performer_pytorch": Where(lazily=("bench",)),
    "uvicorn": Where(lazily=("cli",)),
    "onnx": Where(lazily=("hf",)),
    "onnxruntime": Where(lazily=("hf",)),
    "onnxscript": Where(lazily=("hf",)),
    "reformer_pytorch": Where(lazily=("bench",)),
    "local_attention": Where(lazily=("bench",)),
    "linformer": Where(lazily=("bench",)),
    "conformer": Where(lazily=("bench",)),
    "perceiver_ar_pytorch": Where(lazily=("bench",)),
    "x_transformers": Where(lazily=("bench",)),
}

# of the standard library: nothing is fetched because a module was imported, and no pickle is opened
NETWORK = {"socket", "ssl", "http", "urllib.request", "ftplib", "smtplib", "xmlrpc", "webbrowser"}
UNSAFE = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}

FILE_LINES = 250
FUNCTION_LINES = 50  # without its docstring
CONSTRUCTOR_ARGUMENTS = 10  # without self

# "path" or "path::Class.function" -> why it may be over a budget
EXCEPTIONS: dict[str, str] = {
    "nn/sorted_chunks.py::SortedChunkAttention.__init__": "as others trained it",
}

# --- modules and their imports ------------------------------------------------------------------


@dataclass(frozen=True)
class Module:
    path: str  # relative to src/subquad
    source: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.source)

    @property
    def room(self) -> str | None:
        first = self.path.split("/")[0].removesuffix(".py")
        first = {"__init__": "", "__main__": "cli"}.get(first, first)
        return first if first in MAY_IMPORT else None

    @property
    def package(self) -> list[str]:
        return ["subquad", *self.path.split("/")[:-1]]


@dataclass(frozen=True)
class Import:
    name: str
    line: int
    lazy: bool


def imports(module: Module) -> Iterator[Import]:
    """All imports with full names; `from a import b` is a.b, whether b is a module or a name."""

    def visit(node: ast.AST, lazy: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module.split(".") if node.module else []
            if node.level:
                base = module.package[: len(module.package) - node.level + 1] + base
            for alias in node.names:
                yield Import(".".join([*base, alias.name]), node.lineno, lazy)
        elif isinstance(node, ast.Call) and (name := _imported_by_call(node)):
            yield Import(name, node.lineno, lazy)
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, lazy or inside or typing)

    return visit(module.tree, False)


def _imported_by_call(node: ast.Call) -> str | None:
    called = ast.unparse(node.func).split(".")[-1]
    name = _value(node.args[0]) if node.args else None
    return name if called in ("import_module", "__import__") and isinstance(name, str) else None


def _value(node: ast.expr) -> object:
    return node.value if isinstance(node, ast.Constant) else None


def _fits(name: str, prefixes) -> str | None:
    """The longest of the dotted prefixes that fits the name."""
    fitting = [p for p in prefixes if name == p or name.startswith(p + ".")]
    return max(fitting, key=len, default=None)


def _inside(path: str, places: tuple[str, ...]) -> bool:
    path = path.removesuffix(".py")
    path = "cli" if path == "__main__" else path
    return any((path == "__init__") if p == "" else f"{path}/".startswith(f"{p}/") for p in places)


def functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    """Functions and methods with qualified names; a nested function is part of its owner."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + node.name, node
        elif isinstance(node, ast.ClassDef):
            yield from functions(node, f"{prefix}{node.name}.")
        else:
            yield from functions(node, prefix)


# --- the rules ----------------------------------------------------------------------------------


def every_file_has_a_room(module: Module) -> Iterator[str]:
    if module.room is None:
        yield f"belongs to no room of {', '.join(filter(None, MAY_IMPORT))}"


def imports_go_one_way(module: Module) -> Iterator[str]:
    room = module.room
    if room is None:
        return
    for found in imports(module):
        if found.name.split(".")[0] != "subquad":
            continue
        target = [*found.name.split("."), ""][1]
        target = target if target in MAY_IMPORT else ""
        allowed = MAY_IMPORT[room] | {room}
        if found.lazy:
            allowed |= MAY_IMPORT_LAZILY.get(room, set())
        if target not in allowed:
            how = "lazily" if found.lazy else "at the top"
            yield f"{found.line}: {room or 'subquad'} imports {target or 'subquad'} {how}"


def packages_stay_in_their_rooms(module: Module) -> Iterator[str]:
    for found in imports(module):
        top = found.name.split(".")[0]
        if top == "subquad":
            continue
        if top in sys.stdlib_module_names:
            if _fits(found.name, NETWORK) and (not found.lazy or module.room in CORE):
                yield f"{found.line}: {found.name} at the top or in the core opens the network"
            continue
        where = PACKAGES.get(_fits(found.name, PACKAGES) or "", Where())
        if _inside(module.path, where.anyhow) or (
            found.lazy and _inside(module.path, where.lazily)
        ):
            continue
        places = f"at the top in {where.anyhow}, lazily in {where.lazily}"
        yield f"{found.line}: {found.name} may be imported {places}"


def papers_stand_alone(module: Module) -> Iterator[str]:
    if module.room != "archs" or module.path.endswith("__init__.py"):
        return
    for found in imports(module):
        parts = found.name.split(".")
        if parts[:2] != ["subquad", "archs"]:
            continue
        other = [*parts, ""][2]
        if not other.startswith("_") and other != module.path.split("/")[1].removesuffix(".py"):
            yield f"{found.line}: a paper imports {found.name}; shared parts live in nn"


def nobody_asks_which_architecture(module: Module) -> Iterator[str]:
    if module.room in ("archs", "convert"):
        return

    def is_arch(node: ast.expr) -> bool:
        if isinstance(node, ast.Subscript):
            return _value(node.slice) in ("arch", "arch_name")
        name = getattr(node, "attr", getattr(node, "id", ""))
        return name in ("arch", "arch_name")

    def is_literal(node: ast.expr) -> bool:
        parts = node.elts if isinstance(node, ast.Tuple | ast.List | ast.Set) else [node]
        return all(isinstance(_value(part), str) for part in parts)

    for node in ast.walk(module.tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            asks = any(map(is_arch, sides)) and any(map(is_literal, sides))
        else:
            asks = isinstance(node, ast.Match) and is_arch(node.subject)
        if asks:
            yield f"{node.lineno}: asks which architecture it is; give the part a method or a value"


def nothing_unsafe(module: Module) -> Iterator[str]:
    for found in imports(module):
        if _fits(found.name, UNSAFE):
            yield f"{found.line}: imports {found.name}; no pickle is opened"
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name) and node.func.id in ("eval", "exec"):
            yield f"{node.lineno}: {node.func.id}(); text is parsed, never evaluated"
        given = {word.arg: _value(word.value) for word in node.keywords}
        if ast.unparse(node.func) == "torch.load" and given.get("weights_only") is not True:
            yield f"{node.lineno}: torch.load without weights_only=True"
        if given.get("allow_pickle") or given.get("trust_remote_code"):
            yield f"{node.lineno}: runs code from a data file"


def constructors_name_their_arguments(module: Module) -> Iterator[str]:
    if module.room not in ("ops", "nn", "archs"):
        return
    for name, node in functions(module.tree):
        if node.name not in ("__init__", "__new__") and name != "build":
            continue
        if node.args.kwarg:
            yield f"{node.lineno}: {name} takes **{node.args.kwarg.arg}"
        # PerHead((2, a), (6, b)) takes a list and says of what; passing things on does not
        if node.args.vararg and not node.args.vararg.annotation:
            yield f"{node.lineno}: {name} takes *{node.args.vararg.arg} without saying what it is"


def public_names_are_documented(module: Module) -> Iterator[str]:
    if module.room not in ("ops", "nn", "archs"):
        return
    if not ast.get_docstring(module.tree):
        yield "1: no docstring; a module opens with its paper card"

    def public(body: list[ast.stmt]) -> Iterator[ast.ClassDef | ast.FunctionDef]:
        for node in body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name[0] != "_":
                yield node
            for block in ("body", "orelse", "handlers", "finalbody"):
                if isinstance(node, ast.If | ast.Try | ast.ExceptHandler | ast.With):
                    yield from public(getattr(node, block, []))

    for node in public(module.tree.body):
        if not ast.get_docstring(node):
            yield f"{node.lineno}: {node.name} has no docstring"


def over_budget(module: Module) -> Iterator[tuple[str, str]]:
    """(key of EXCEPTIONS, complaint)."""
    lines = len(module.source.splitlines())
    if lines > FILE_LINES:
        yield module.path, f"{lines} lines, the budget of a file is {FILE_LINES}"
    for name, node in functions(module.tree):
        key = f"{module.path}::{name}"
        count = node.end_lineno - node.lineno + 1
        if ast.get_docstring(node):
            count -= node.body[0].end_lineno - node.body[0].lineno + 1
        if count > FUNCTION_LINES:
            yield key, f"{name}: {count} lines, the budget of a function is {FUNCTION_LINES}"
        arguments = len([*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]) - 1
        if node.name == "__init__" and arguments > CONSTRUCTOR_ARGUMENTS:
            yield key, f"{name}: {arguments} arguments, the budget is {CONSTRUCTOR_ARGUMENTS}"


def budgets_are_kept(module: Module) -> Iterator[str]:
    yield from (complaint for key, complaint in over_budget(module) if key not in EXCEPTIONS)


Rule = Callable[[Module], Iterator[str]]
RULES: tuple[Rule, ...] = (
    every_file_has_a_room,
    imports_go_one_way,
    packages_stay_in_their_rooms,
    papers_stand_alone,
    nobody_asks_which_architecture,
    nothing_unsafe,
    constructors_name_their_arguments,
    public_names_are_documented,
    budgets_are_kept,
)


def sources() -> list[Module]:
    return [
        Module(path.relative_to(SRC).as_posix(), path.read_text(encoding="utf-8"))
        for path in sorted(SRC.rglob("*.py"))
    ]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule(rule: Rule):
    found = [f"src/subquad/{m.path}:{complaint}" for m in sources() for complaint in rule(m)]
    assert not found, "\n  ".join([f"{rule.__name__}:", *found])


def test_exceptions_are_still_needed():
    """A budget is a ratchet: what fits again loses its exception."""
    needed = {key for module in sources() for key, _ in over_budget(module)}
    assert set(EXCEPTIONS) <= needed
    assert all(reason.strip() for reason in EXCEPTIONS.values())


def test_every_folder_is_a_package():
    folders = {path.parent for path in SRC.rglob("*.py")}
    assert [f for f in folders if not (f / "__init__.py").is_file()] == []


# --- each rule can fail -------------------------------------------------------------------------

LONG = "def f():\n" + "    x = 1\n" * 50
DOCUMENTED = '"""card"""\n'

# rule, path, source, number of complaints
EXAMPLES: list[tuple[Rule, str, str, int]] = [
    (every_file_has_a_room, "utils/misc.py", "", 1),
    (every_file_has_a_room, "helpers.py", "", 1),
    (every_file_has_a_room, "model.py", "", 0),
    (every_file_has_a_room, "ops/triton/band.py", "", 0),
    (imports_go_one_way, "ops/band.py", "import subquad.nn", 1),
    (imports_go_one_way, "ops/band.py", "def f():\n from ..nn import blocks", 1),
    (imports_go_one_way, "ops/band.py", "from ... import nn\nfrom .. import nn", 1),
    (imports_go_one_way, "ops/triton/band.py", "from ...nn import blocks", 1),
    (imports_go_one_way, "nn/mixer.py", "from subquad import ops, archs", 1),
    (imports_go_one_way, "nn/mixer.py", "from ..ops.band import band\nfrom . import state", 0),
    (imports_go_one_way, "nn/mixer.py", "import subquad as sq", 1),
    (imports_go_one_way, "viz/maps.py", "from subquad.bench import run", 1),
    (imports_go_one_way, "data/text.py", "from ..tasks import lm", 1),
    (imports_go_one_way, "tasks/lm.py", "from ..data import text", 0),
    (imports_go_one_way, "hf/swap.py", "from subquad import __version__", 1),
    (imports_go_one_way, "hf/swap.py", "def f():\n from subquad import __version__", 0),
    (imports_go_one_way, "train/loop.py", "from importlib import import_module as i", 0),
    (imports_go_one_way, "train/loop.py", "import_module('subquad.cli')", 1),
    (imports_go_one_way, "__init__.py", "from . import hf", 1),
    (imports_go_one_way, "__init__.py", "def __getattr__(name):\n from . import hf", 0),
    (imports_go_one_way, "cli/train.py", "from subquad.viz import maps\nimport subquad", 0),
    (packages_stay_in_their_rooms, "ops/band.py", "import numpy", 1),
    (packages_stay_in_their_rooms, "ops/band.py", "import torch, math", 0),
    (packages_stay_in_their_rooms, "ops/band.py", "import triton", 1),
    (packages_stay_in_their_rooms, "ops/triton/band.py", "import triton.language as tl", 0),
    (packages_stay_in_their_rooms, "model.py", "from safetensors.torch import save_file", 1),
    (packages_stay_in_their_rooms, "model.py", "def f():\n from safetensors import torch", 0),
    (packages_stay_in_their_rooms, "viz/maps.py", "import matplotlib.pyplot", 1),
    (packages_stay_in_their_rooms, "viz/maps.py", "if TYPE_CHECKING:\n import matplotlib", 0),
    (packages_stay_in_their_rooms, "tasks/lm.py", "def f():\n import matplotlib", 1),
    (packages_stay_in_their_rooms, "train/loop.py", "import torch.utils.tensorboard", 1),
    (packages_stay_in_their_rooms, "train/loop.py", "from torch.utils import tensorboard", 1),
    (packages_stay_in_their_rooms, "hf/swap.py", "import transformers", 0),
    (packages_stay_in_their_rooms, "__init__.py", "def f():\n import transformers", 1),
    (packages_stay_in_their_rooms, "cli/train.py", "import leftpad", 1),
    (packages_stay_in_their_rooms, "cli/serve.py", "import urllib.request", 1),
    (packages_stay_in_their_rooms, "cli/serve.py", "from urllib.parse import quote", 0),
    (packages_stay_in_their_rooms, "nn/mixer.py", "def f():\n import socket", 1),
    (papers_stand_alone, "archs/led.py", "from .longformer import Config", 1),
    (papers_stand_alone, "archs/led.py", "from . import longformer", 1),
    (papers_stand_alone, "archs/led.py", "import subquad.archs.longformer", 1),
    (papers_stand_alone, "archs/led.py", "from . import _presets\nfrom ..nn import blocks", 0),
    (papers_stand_alone, "archs/__init__.py", "from . import longformer, led", 0),
    (nobody_asks_which_architecture, "tasks/lm.py", "if arch == 'performer': pass", 1),
    (nobody_asks_which_architecture, "tasks/lm.py", "x = self.config.arch in ('a', 'b')", 1),
    (nobody_asks_which_architecture, "tasks/lm.py", "x = config['arch'] != 'a'", 1),
    (nobody_asks_which_architecture, "tasks/lm.py", "match arch:\n case 'a': pass", 1),
    (nobody_asks_which_architecture, "tasks/lm.py", "ok = arch in ARCHS or 'arch' in config", 0),
    (nobody_asks_which_architecture, "convert/hf.py", "if arch == 'performer': pass", 0),
    (nothing_unsafe, "convert/old.py", "eval('1')\nexec('x = 1')", 2),
    (nothing_unsafe, "convert/old.py", "model.eval()", 0),
    (nothing_unsafe, "convert/old.py", "def f():\n from pickle import loads", 1),
    (nothing_unsafe, "convert/old.py", "torch.load(p)", 1),
    (nothing_unsafe, "convert/old.py", "torch.load(p, weights_only=False)", 1),
    (nothing_unsafe, "convert/old.py", "torch.load(p, weights_only=True)", 0),
    (nothing_unsafe, "data/audio.py", "np.load(p, allow_pickle=True)", 1),
    (nothing_unsafe, "data/audio.py", "np.load(p, allow_pickle=False)", 0),
    (constructors_name_their_arguments, "nn/a.py", "class A:\n def __init__(s, **k): 0", 1),
    (constructors_name_their_arguments, "nn/a.py", "class A:\n def __init__(s, *a): 0", 1),
    (constructors_name_their_arguments, "nn/a.py", "class A:\n def __init__(s, *, k): 0", 0),
    (constructors_name_their_arguments, "nn/a.py", "class A:\n def __init__(s, *a: int): 0", 0),
    (constructors_name_their_arguments, "nn/a.py", "class A:\n def forward(s, *a): 0", 0),
    (constructors_name_their_arguments, "archs/a.py", "def build(**fields): 0", 1),
    (constructors_name_their_arguments, "hf/a.py", "class A:\n def __init__(s, **k): 0", 0),
    (public_names_are_documented, "ops/a.py", "x = 1", 1),
    (public_names_are_documented, "ops/a.py", DOCUMENTED + "def f(): 0", 1),
    (public_names_are_documented, "ops/a.py", DOCUMENTED + "if x:\n class A: 0", 1),
    (public_names_are_documented, "ops/a.py", DOCUMENTED + "def _f(): 0", 0),
    (public_names_are_documented, "ops/a.py", DOCUMENTED + "def f(): 'doc'", 0),
    (public_names_are_documented, "cli/a.py", "def f(): 0", 0),
    (budgets_are_kept, "cli/a.py", "x = 1\n" * 251, 1),
    (budgets_are_kept, "cli/a.py", "x = 1\n" * 250, 0),
    (budgets_are_kept, "cli/a.py", LONG, 1),
    (budgets_are_kept, "cli/a.py", LONG.replace("x = 1", "'doc'", 1), 0),
    (
        budgets_are_kept,
        "cli/a.py",
        "class A:\n def __init__(s, a, b, c, d, e, f, g, h, i, j): 0",
        0,
    ),
    (
        budgets_are_kept,
        "cli/a.py",
        "class A:\n def __init__(s, a, b, c, d, e, f, g, h, i, j, *, k): 0",
        1,
    ),
]


@pytest.mark.parametrize(("rule", "path", "source", "complaints"), EXAMPLES)
def test_rule_can_fail(rule: Rule, path: str, source: str, complaints: int):
    assert len(list(rule(Module(path, source)))) == complaints


def test_every_rule_has_both_examples():
    for rule in RULES:
        outcomes = {complaints > 0 for r, _, _, complaints in EXAMPLES if r is rule}
        assert outcomes == {True, False}, rule.__name__


# --- what an import loads -----------------------------------------------------------------------


def loaded_by(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_import_loads_torch_only():
    """All public names take about the time of `import torch`; numpy is torch's own doing."""
    loaded = loaded_by("from subquad import *")
    heavy = {*PACKAGES, "torch._inductor"} - {"torch", "numpy"}
    assert {name for name in loaded if _fits(name, heavy)} == set()
    assert "torch" in loaded


def test_a_name_is_imported_when_it_is_used():
    assert not {name for name in loaded_by("import subquad.cli") if _fits(name, PACKAGES)}
    assert "torch" in loaded_by("import subquad\nsubquad.attend")


def test_loaded_by_sees_what_is_loaded():
    assert "rich.console" in loaded_by("import rich.console")


# --- what no file may say -----------------------------------------------------------------------

# the patterns are written so that they do not match themselves
ABSOLUTE_PATH = re.compile(r"(?<![\w.\-$~}])/(?:home|work|root|Users|mnt|srv)/[\w.]")
REGISTRY_HOST = re.compile(r"https?://[a-z.]*(?:py[p]i|np[m]js|python[h]osted)[a-z.]*")


def texts() -> Iterator[tuple[str, str]]:
    """The project's text files: those that git knows or would add."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path.is_file() and path.stat().st_size < 1_000_000 and path.suffix != ".svg":
            data = path.read_bytes()
            if b"\0" not in data:
                yield name, data.decode("utf-8", errors="replace")


@pytest.mark.parametrize("pattern", [ABSOLUTE_PATH, REGISTRY_HOST], ids=["path", "host"])
def test_no_file_names_a_machine(pattern: re.Pattern[str]):
    found = [
        f"{name}:{number}: {line.strip()[:100]}"
        for name, text in texts()
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]
    assert not found, "\n  ".join(["names a machine or a registry:", *found])


def test_patterns_match_what_they_should():
    for folder in ("home", "work", "root", "Users"):
        assert ABSOLUTE_PATH.search(f"open('/{folder}/x')")
    assert not ABSOLUTE_PATH.search("../shared/home/x and docs/srv/x")
    assert REGISTRY_HOST.search("https://files." + "python" + "hosted.org/x")
    assert not REGISTRY_HOST.search("https://arxiv.org/abs/2009.14794")
