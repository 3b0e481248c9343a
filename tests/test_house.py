"""What may import what: the door before the wings' experiments, and two pieces that run alone."""

import ast
import shutil
import subprocess
import sys
from graphlib import TopologicalSorter

import pytest
from conftest import ROOT

WINGS = ("run", "analysis", "miniature", "benchmarks")
MODULES = {path.stem: path for path in ROOT.glob("*.py")}
MODULES |= {f"{wing}.{path.stem}": path for wing in WINGS for path in (ROOT / wing).glob("[!_]*.py")}


def imports(path, *, also_late: bool) -> set[str]:
    """The project's modules that a script imports, at its top or also within functions."""
    tree = ast.parse(path.read_text())
    found = set()
    for node in ast.walk(tree) if also_late else tree.body:
        if isinstance(node, ast.ImportFrom):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & MODULES.keys()


def test_no_script_waits_for_one_that_waits_for_it():
    order = TopologicalSorter({name: imports(path, also_late=False) for name, path in MODULES.items()})
    assert len(list(order.static_order())) == len(MODULES) > 30  # a CycleError names the scripts


def test_the_door_knows_the_tiny_world_only_where_it_makes_it():
    door = [name for name in MODULES if "." not in name]
    tiny = {name: {m for m in imports(MODULES[name], also_late=True) if "miniature" in m} for name in door}
    assert {name: modules for name, modules in tiny.items() if modules} == {
        "data": {"miniature.arithmetic"},  # the questions of that name
        "pretrain": {"miniature.tiny_base"},
    }
    for name, path in MODULES.items():
        if not name.startswith(("benchmarks", "miniature")):
            assert not any(m.startswith("benchmarks") for m in imports(path, also_late=True)), name


LOSS = """
import torch, loss
print(loss.group_advantages(torch.tensor([1.0, 0.0]), 2, scale_by_std=False).tolist())
"""
VERIFIER = r"""
from verify import VerifierPool
with VerifierPool(1) as pool:
    print([verdict.correct for verdict in pool.verify_all([r"\boxed{x+1}"], [("1+x",)], "boxed")])
"""


@pytest.mark.parametrize(
    "scripts,code,printed",
    [(["loss.py"], LOSS, "[0.5, -0.5]\n"), (["verify.py", "mathexpr.py"], VERIFIER, "[True]\n")],
)
def test_what_people_copy_runs_alone(scripts, code, printed, tmp_path):
    for script in scripts:
        shutil.copy(ROOT / script, tmp_path)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == printed, done.stderr
