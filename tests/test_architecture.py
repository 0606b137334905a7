"""Who may import whom, one way."""

import ast
from pathlib import Path

import pytest

import segfocal

PACKAGE = Path(segfocal.__file__).parent
# File or folder -> what it may import of segfocal. cli, commands, configuration and predictor may import everything.
ALLOWED = {
    "kernels": {"segfocal.kernels"},
    "options": set(),
    "checks": {"segfocal.options"},
    "functional": {"segfocal.checks", "segfocal.kernels", "segfocal.options"},
    "losses": {"segfocal.functional", "segfocal.options"},
    "evaluation": {"segfocal.evaluation"},
    "data": {"segfocal.data"},
    "models": set(),
    "inference": {"segfocal.inference"},
    "checkpoints": {"segfocal.writing"},
    "prediction": {
        f"segfocal.{part}"
        for part in ("data", "evaluation", "inference", "prediction", "processes", "runs", "task", "writing")
    },
    "export": {"segfocal.inference"},
    "parity": {"segfocal.export", "segfocal.inference"},
    "processes": set(),
    "runs": set(),
    "writing": set(),
    "finding": {"segfocal.checkpoints", "segfocal.runs"},
    "pixels": {"segfocal.kernels.compiled"},
    "training": {"segfocal.evaluation", "segfocal.pixels", "segfocal.processes", "segfocal.training"},
    "task": {"segfocal.evaluation", "segfocal.inference", "segfocal.pixels", "segfocal.processes", "segfocal.training"},
}


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            submodules = node.module == "segfocal"
            yield from (f"segfocal.{alias.name}" for alias in node.names) if submodules else [node.module]
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def files_of(part):
    folder = PACKAGE / part
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]


@pytest.mark.parametrize("part", ALLOWED)
def test_imports_go_one_way(part):
    for path in files_of(part):
        inside = [name for name in imports_of(path) if name.split(".")[0] == "segfocal"]
        wrong = [name for name in inside if not any(name == ok or name.startswith(f"{ok}.") for ok in ALLOWED[part])]
        assert not wrong, f"{path.name} imports {wrong}"


def test_kernels_do_not_import_each_other():
    """What Numba compiles belongs to the tiled backend."""
    for path in files_of("kernels"):
        inside = {name for name in imports_of(path) if name.startswith("segfocal.kernels.")}
        tiled = path.name == "tiled.py" or path.parent.name == "compiled"
        assert all(tiled and name.startswith("segfocal.kernels.compiled.") for name in inside), path.name


def test_albumentations_has_one_importer():
    importers = {p.name for p in PACKAGE.rglob("*.py") for name in imports_of(p) if name.startswith("albumentations")}
    assert importers == {"transforms.py"}


def test_every_part_is_under_the_rule():
    free = {"__init__", "__main__", "cli", "commands", "configuration", "mistakes", "predictor", "progress"}
    parts = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert parts == {*ALLOWED} | free
