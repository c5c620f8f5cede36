"""Who may know of whom: imports inside lasfast run downward only, and some folders never meet torch.

An import counts wherever it stands: at the top, in a function, or for types only. A package's `__init__` is
its face, which names what is public; the package's own files never import it.
"""

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lasfast"

# What each folder may import directly; what those may import it may, too.
ARROWS = {
    "_version": [],
    "core": [],
    "spaces": ["core"],
    "ir": ["core"],
    "constraints": ["spaces"],
    "costs": ["ir", "constraints"],
    "measurements": ["constraints", "_version"],
    "searchers": ["measurements"],
    "runtime": ["ir", "_version"],
    "ops": ["runtime"],
    "nn": ["ops"],
    "execution": ["nn"],
    "data": ["runtime"],
    "supernets": ["execution", "costs"],
    "engine": ["execution", "data"],
    "train": ["supernets", "data"],
    "evaluation": ["engine", "train", "searchers"],
    "selfcheck": ["engine", "supernets"],
    "deploy": ["evaluation"],
    "study": ["evaluation"],
    "report": ["study", "deploy"],
    "cli": ["report", "selfcheck"],
}
# The front doors: they open on everything.
FRONT = {"__init__", "__main__", "cli"}
TORCH_FREE = ["_version", "core", "spaces", "ir", "constraints", "costs", "measurements", "searchers"]
TORCH = {"torch", "torchvision", "functorch"}


def part_of(module):
    """The part that a module of the package belongs to: `lasfast.spaces.base` -> `spaces`."""
    return module.split(".")[1] if "." in module else "__init__"


def is_module(name):
    path = ROOT / name.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


def imported(source, package):
    """The modules that a source text imports: anywhere, in any form, for types only included."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            submodules = [f"{module}.{alias.name}" for alias in node.names]
            names += [name if is_module(name) or name == "lasfast._C" else module for name in submodules]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = (
                node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            )
            if function in ("import_module", "__import__"):
                names.append(str(node.args[0].value))
    return names


def allowed(part):
    """All that a part may import: its arrows, and theirs."""
    found = set()
    for target in ARROWS[part]:
        found |= {target} | allowed(target)
    return found


def violations(module, source, is_package):
    """The forbidden imports of one module, as readable lines."""
    part = part_of(module)
    package = module if is_package else module.rpartition(".")[0]
    wrong = []
    for name in imported(source, package):
        if name.split(".")[0] in TORCH and part in TORCH_FREE:
            wrong.append(f"{module} imports {name}, but {part} must work without torch")
        if name.split(".")[0] != "lasfast" or part in FRONT:
            continue
        if name == "lasfast._C":
            if module != "lasfast.runtime.compiled":
                wrong.append(f"{module} imports {name}, but only lasfast.runtime.compiled may")
        elif part_of(name) != part and part_of(name) not in allowed(part):
            wrong.append(f"{module} imports {name}, but {part} may import only {sorted(allowed(part))}")
        elif name == f"lasfast.{part}" and not is_package:
            wrong.append(f"{module} imports its own package's face, expected one of its files")
    return wrong


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        yield ".".join(parts[:-1] if is_package else parts), path, is_package


def test_imports_run_downward():
    wrong = []
    for module, path, is_package in modules():
        wrong += violations(module, path.read_text(encoding="utf-8"), is_package)
    assert not wrong, "\n".join(wrong)


def test_files_make_no_circle():
    """Files that import each other, in however long a round, are one thing in two places."""
    graph = {}
    for module, path, is_package in modules():
        if not is_package:
            names = imported(path.read_text(encoding="utf-8"), module.rpartition(".")[0])
            graph[module] = {name for name in names if name.startswith("lasfast.")}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names them


def test_the_package_is_folders():
    """No loose module stands beside the front door, and each folder says in a sentence what it is for."""
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py", "_version.py"}
    folders = {path.parent.name: path for path in PACKAGE.glob("*/__init__.py")}
    assert set(folders) | {"_version"} == set(ARROWS)
    for path in folders.values():
        purpose = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        assert re.match(r"[^\n]+[.:]", purpose or ""), f"{path} does not say what its folder is for"


def test_the_arrows_make_no_circle():
    assert set(graphlib.TopologicalSorter(ARROWS).static_order()) == set(ARROWS)


@pytest.mark.parametrize("part", TORCH_FREE)
def test_what_must_work_without_torch_imports_nothing_that_may_use_it(part):
    assert allowed(part) <= set(TORCH_FREE)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("lasfast.spaces.base", "import torch"),
        ("lasfast.spaces.base", "from torch import nn"),
        ("lasfast.searchers.nir", "def f():\n    import torch.nn.functional as F"),
        ("lasfast.measurements.journal", "if TYPE_CHECKING:\n    import torch"),
        ("lasfast.measurements.ranking", "import importlib\nimportlib.import_module('torch')"),
        ("lasfast.spaces.base", "from lasfast.searchers import NIR"),
        ("lasfast.spaces.base", "from lasfast import searchers"),
        ("lasfast.spaces.base", "from .. import searchers"),
        ("lasfast.spaces.base", "from ..searchers.nir import NIR"),
        ("lasfast.spaces.base", "import lasfast.searchers.nir as nir"),
        ("lasfast.spaces.base", "import lasfast"),
        ("lasfast.evaluation.evaluator", "from lasfast import Measurement"),
        ("lasfast.evaluation.evaluator", "from ..study import Study"),
        ("lasfast.costs.flops", "from lasfast.supernets import Supernet"),
        ("lasfast.costs.flops", "from lasfast.nn import SlicedConv2d"),
        ("lasfast.data.images", "from lasfast.train import Progress"),
        ("lasfast.ops.sgd", "from lasfast import _C"),
        ("lasfast.ops.sgd", "import lasfast._C"),
        ("lasfast.ir.prefix_tree", "from lasfast.evaluation.evaluator import Evaluator"),
        ("lasfast.searchers.nir", "from lasfast.costs import flops"),
    ],
)
def test_forbidden_imports_are_found(module, source):
    assert violations(module, source, is_package=False)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("lasfast.spaces.base", "import random\nfrom .layer_assignment import LayerAssignmentSpace"),
        ("lasfast.searchers.nir", "from lasfast.spaces import Architecture\nfrom lasfast import spaces"),
        (
            "lasfast.costs.flops",
            "from lasfast.ir import layers\nfrom lasfast.ir.layers import Op",
        ),
        ("lasfast.study.study", "from .. import costs\nfrom lasfast.spaces import Architecture"),
        ("lasfast.runtime.compiled", "from lasfast import _C\nimport torch"),
        ("lasfast.cli", "import lasfast"),
    ],
)
def test_permitted_imports_pass(module, source):
    assert violations(module, source, is_package=False) == []


def test_runs_without_torch():
    """The parts that must not need torch do their work where torch cannot be imported."""
    script = """
import sys


class NoTorch:
    # Not `sys.modules["torch"] = None`, which trips scipy: it looks there to see whether torch is in use.
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision"):
            raise ModuleNotFoundError(f"no {name} here")


sys.meta_path.insert(0, NoTorch())
import lasfast.constraints, lasfast.core.files, lasfast.costs, lasfast.ir, lasfast.measurements.journal
from lasfast.searchers import LayerNAS, NIR, Random
from lasfast.spaces import ChoiceSpace, LayerAssignmentSpace
import lasfast

nir = lasfast.searchers.NIR(lasfast.spaces.LayerAssignmentSpace(3, 4), depth=6)
while candidates := nir.ask():
    for candidate in candidates:
        top1 = candidate[0] / 4
        nir.tell(candidate, lasfast.Measurement(candidate, top1, 1.0, 0.1, 4))
assert nir.best[0] == (4, 1, 1), nir.best
assert len(Random(nir.space, samples=5).ask()) == 5
layernas = LayerNAS(ChoiceSpace([5, 25, 125]), cost=sum, target=(50, 60), evaluations=20)
table = lasfast.ArchitectureTable([(0,), (1,)], [0.5, 0.75], {})
assert [m.top1 for m in lasfast.TabularEvaluator(table)([(1,), (0,)])] == [0.75, 0.5]
assert "scipy.optimize" not in sys.modules, "half a second that every command would take"
assert lasfast.ranking.kendall_tau([0.1, 0.2, 0.3], [0.4, 0.5, 0.6]) == 1
assert lasfast.__version__
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)


def test_native_code_knows_neither_torch_nor_python():
    """csrc/ includes no torch header anywhere, and Python's and pybind11's in bindings/ alone."""
    wrong = []
    for path in sorted((ROOT / "csrc").rglob("*")):
        if path.suffix not in (".h", ".hpp", ".cuh", ".cpp", ".cu"):
            continue
        for header in re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)', path.read_text(encoding="utf-8"), re.M):
            python = re.match(r"pybind11/|Python\.h", header) and "bindings" not in path.parts
            if python or re.match(r"(torch|ATen|c10|caffe2)/", header):
                wrong.append(f"{path.relative_to(ROOT)} includes {header}")
    assert not wrong, "\n".join(wrong)
