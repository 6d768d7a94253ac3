"""The design, held: which way imports point, what is documented, how long a file may be."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

import cls_jax

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "cls_jax"
FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in FILES}
"""Module name without "cls_jax.", e.g. "methods.er" or "methods.__init__", to its file."""

FLOORS = (
    *("core", "nets", "data", "streams", "methods", "training", "training.runtime", "report"),
    *("app.published", "app"),
)
"""The rooms of cls_jax, and two within rooms that are floors of their own, lowest first: each may
import what stands before it, and itself."""

NO_JAX = (
    *("core.errors", "core.keys", "core.checks", "core.choices", "core.files", "core.paths"),
    *("core.version", "core.metrics", "nets.config", "streams.config", "training.events"),
    *("app.flags", "app.run_config", "app.tuning.config", "app.tuning.candidates"),
    "methods.optimizer",
)
"""Modules that load no JAX, beside all of report: a command line and a table need none."""

ONLY_IN = {
    "tensorflow_datasets": {"data.tfds", "data.builders", "data.download"},
    "tensorflow": set(),
    "array_record": {"data.tfds", "data.builders", "data.download"},
    "orbax": {"training.runtime.checkpoint", "training.runtime.saves"},
    "etils": {"training.runtime.saves"},
    "matplotlib": {"report.figures", "report.axes", "report.canvas"},
    "rich": {"report.console", "report.tables", "report.summary", "data.cache"},
    "tyro": {"app.flags"},
    "filelock": {"training.runtime.lock", "training.runtime.distributed"},
    "platformdirs": {"core.paths"},
    "tensorboardX": {"report.tensorboard_log"},
    "wandb": {"report.wandb_log"},
    "optuna": {"app.tuning.study"},
    "flatbuffers": {"app.export"},
    "safetensors": {"app.weights"},
    "sklearn": {"data.load"},
    "PIL": {"data.local", "data.pictures", "data.builders", "data.tfds"},
    "dm_pix": {"core.image_ops"},
    "flax.linen": {
        f"nets.{name}"
        for name in (
            "mlp",
            "resnet",
            "blocks",
            "resnet32",
            "lenet",
            "dualnet",
            "extractor",
            "self_supervised",
            "vit",
            "convit",
            "dytox",
            "rpsnet",
            "path_modules",
        )
    }
    | {"nets.layers", "nets.linen", "nets.own", "nets.own_linen", "nets.dense_layers"},
    "flax.nnx": {"nets.own", "nets.own_nnx"},
}
"""Package -> the modules that may import it."""

LAZY = (
    "tensorflow_datasets",
    "tensorflow",
    "array_record",
    "orbax",
    "matplotlib",
    "sklearn",
    "PIL",
    "wandb",
    "optuna",
)
"""Heavy, or not always installed: imported inside the function that needs them."""

FRONT_DOOR = (
    r"(core\.(sync|losses|memory|herding|augment|metrics)|training\.(evaluate|runner)|data\.(load|dataset)"
    r"|app\.published\.(presets|compare)|report\.results|streams\.(?!__init__|config|indexing)\w+"
    r"|nets\.(mlp|lenet|resnet|dualnet|vit)|methods\.\w+\.(?!__init__|dualnet_config|apd_config)\w+)"
)
"""Modules whose functions are called by users and by new methods."""


@cache
def tree(module: str) -> ast.Module:
    """The parsed file."""
    return ast.parse(MODULES[module].read_text())


def imports(module: str) -> set[tuple[str, bool]]:
    """(dotted name, whether it is imported as the module loads) of every import statement."""
    found = set()
    later = [
        node
        for node in ast.walk(tree(module))
        if isinstance(node, ast.FunctionDef)
        or (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    ]
    inside = {id(node) for part in later for node in ast.walk(part)}
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            found |= {(alias.name, id(node) not in inside) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            found |= {(f"{node.module}.{a.name}", id(node) not in inside) for a in node.names}
    return found


def room(dotted: str) -> str:
    """The floor that "cls_jax.methods.replay.er.er" or "methods.er" belongs to."""
    first, second, *_ = [*dotted.removeprefix("cls_jax").removeprefix(".").split("."), ""]
    return inner if (inner := f"{first}.{second}") in FLOORS else first


def public(module: str) -> dict[str, ast.FunctionDef | ast.ClassDef]:
    """Functions, classes and their methods whose names have no underscore, by dotted name."""
    found = {}

    def collect(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_":
                found[f"{prefix}.{node.name}"] = node
                if isinstance(node, ast.ClassDef):
                    collect(node.body, f"{prefix}.{node.name}")

    collect(tree(module).body, module)
    return found


def functions(pattern: str = "") -> dict[str, ast.FunctionDef]:
    """Every public function of the modules that match."""
    return {
        name: node
        for module in MODULES
        if re.match(pattern, module)
        for name, node in public(module).items()
        if isinstance(node, ast.FunctionDef)
    }


def parameters(node: ast.FunctionDef) -> list[ast.arg]:
    """All parameters in their order, ``self`` aside."""
    a = node.args
    every = [*a.posonlyargs, *a.args, *filter(None, [a.vararg]), *a.kwonlyargs]
    return [p for p in [*every, *filter(None, [a.kwarg])] if p.arg not in ("self", "cls")]


# --- imports --------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", sorted(MODULES.keys() - {"__init__", "__main__"}))
def test_imports_point_downwards(module):
    assert room(module) in FLOORS, f"{module} stands in no room"
    below = set(FLOORS[: FLOORS.index(room(module)) + 1])
    inner = {room(name) for name, _ in imports(module) if name.split(".")[0] == "cls_jax"}
    assert inner <= below, f"{module} must not import {inner - below}"


def test_imports_make_no_circle():
    known = {
        module: {
            target
            for name, top in imports(module)
            if top and name.startswith("cls_jax.")
            for target in [
                name.removeprefix("cls_jax."),
                name.removeprefix("cls_jax.").rpartition(".")[0],
            ]
            if target in MODULES and target != module
        }
        for module in MODULES
    }
    while leaves := {m for m, needed in known.items() if not needed & known.keys()}:
        known = {m: needed for m, needed in known.items() if m not in leaves}
    assert known == {}


def test_eight_rooms_and_what_python_wants():
    inside = {p.name for p in PACKAGE.iterdir() if p.name != "__pycache__"}
    doors = {floor for floor in FLOORS if "." not in floor}
    assert inside == {*doors, "__init__.py", "__main__.py", "py.typed"}
    assert len(inside) <= 11


def test_type_checkers_know_every_public_name():
    """What type checkers are shown is ``__all__``, and each is what the package gives."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    (shown,) = (node.body for node in tree.body if isinstance(node, ast.If))
    found, given = {}, {}
    for node in shown:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                module = importlib.import_module(node.module)
                submodule = f"{node.module}.{alias.name}"
                own = getattr(module, alias.name, None)
                given[alias.asname] = importlib.import_module(submodule) if own is None else own
        elif isinstance(node, ast.Assign):
            place, _, name = ast.unparse(node.value).partition(".")
            found[ast.unparse(node.targets[0])] = getattr(given[place], name)
    found |= {name: value for name, value in given.items() if name[0] != "_"}
    assert {*found, "METHODS"} == {*cls_jax.__all__}
    assert [name for name, value in found.items() if getattr(cls_jax, name) is not value] == []


@pytest.mark.parametrize("module", MODULES)
def test_packages_are_imported_where_they_belong_and_when_needed(module):
    for name, at_the_top in imports(module):
        for package, homes in ONLY_IN.items():
            if name == package or name.startswith(package + "."):
                assert module in homes, f"{module} imports {package}"
                assert not (at_the_top and package in LAZY), f"{module} imports {package} early"


@pytest.mark.parametrize("module", ["cls_jax", "cls_jax.app.build"])
def test_importing_loads_nothing_heavy(module):
    """A fresh interpreter: ``cls_jax`` alone does not even load JAX."""
    heavy = ["tensorflow", "tensorflow_datasets", "matplotlib", "orbax", "sklearn", "PIL"]
    heavy += ["array_record", "tensorboardX", "wandb"] + (
        ["jax", "flax"] if module == "cls_jax" else []
    )
    code = f"import sys, {module}; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_table_loads_no_jax():
    names = [m for m in MODULES if room(m) == "report" and not m.endswith("__init__")]
    wanted = "".join(f"import cls_jax.{name}; " for name in (*names, *NO_JAX))
    code = f"import sys; {wanted}print('jax' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


# --- documentation --------------------------------------------------------------------------------


@pytest.mark.parametrize("module", MODULES)
def test_everything_public_has_a_docstring(module):
    if MODULES[module].stat().st_size:
        assert ast.get_docstring(tree(module)), f"{module} has no docstring"
    missing = [name for name, node in public(module).items() if not ast.get_docstring(node)]
    assert missing == []


def test_public_functions_are_typed():
    broken = {
        name
        for name, node in functions().items()
        if node.returns is None or any(p.annotation is None for p in parameters(node))
    }
    assert broken == set()


def test_a_key_comes_first():
    broken = {
        name
        for name, node in functions().items()
        if "key" in (names := [p.arg for p in parameters(node)]) and names[0] != "key"
    }
    assert broken == set()


def test_three_arguments_or_more_are_explained():
    broken = {
        name
        for name, node in functions(FRONT_DOOR).items()
        if len(parameters(node)) >= 3 and "Args:" not in (ast.get_docstring(node) or "")
    }
    assert broken == set()


def test_explained_arguments_are_those_that_exist():
    for name, node in functions().items():
        text = ast.get_docstring(node) or ""
        if "Args:\n" not in text:
            continue
        section = re.split(r"\n\n(?=\S)", text.split("Args:\n")[1])[0]
        found = re.findall(r"^  (\*?\w+(?:, \w+)*):", section, re.MULTILINE)
        named = {part.strip().lstrip("*") for entry in found for part in entry.split(",")}
        given = {p.arg for p in parameters(node)}
        if "method" in map(ast.unparse, node.decorator_list):
            given -= {"problem"}
        assert named == given, name


def test_input_errors_are_announced():
    broken = set()
    for name, node in functions(FRONT_DOOR).items():
        raised = {ast.unparse(n.exc) for n in ast.walk(node) if isinstance(n, ast.Raise) and n.exc}
        if any("InputError" in error for error in raised):
            text = ast.get_docstring(node) or ""
            if "Raises:" not in text and "Raises InputError" not in text:
                broken.add(name)
    assert broken == set()


def test_methods_name_their_source():
    papers = [m for m in MODULES if room(m) == "methods"]
    without = [m for m in papers if "Source:" not in ast.get_docstring(tree(m))]
    names = ("base", "checks", "columns", "problem", "signatures", "steps")
    shared = {f"methods.{name}" for name in names}
    shared |= {m for m in papers if m.endswith("__init__")}
    assert set(without) <= shared, f"say which paper and code: {set(without) - shared}"
    assert len(papers) - len(without) >= 5


# --- files ----------------------------------------------------------------------------------------


def lines(path: Path) -> int:
    """Lines of a file."""
    return path.read_text().count("\n")


def test_a_file_is_one_concept():
    assert {str(p.relative_to(ROOT)): lines(p) for p in FILES if lines(p) > 300} == {}


def test_an_experiment_is_a_page():
    scripts = (ROOT / "experiments").glob("*.py")
    assert {p.name for p in scripts if lines(p) > 80} == set()
    benchmark = list((ROOT / "experiments" / "benchmark").glob("*.py"))
    assert benchmark
    assert {p.name for p in benchmark if lines(p) > 300} == set()


def test_requirements_and_pyproject_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["dependencies"]
    source = project["tool"]["setuptools"]["dynamic"]["dependencies"]
    assert source == {"file": ["requirements.txt"]}
    wanted, extras = {}, project["project"]["optional-dependencies"]
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        if line and line[0] != "#":
            name, bounds = re.match(r"([\w-]+)([^#]*?)\s*(?:#.*)?$", line).groups()
            assert re.match(r">=", bounds), f"{name} has no lower bound"
            wanted[name] = bounds
    for extra in (line for group in extras.values() for line in group):
        name, bounds = re.match(r"([\w-]+)(?:\[\w+\])?([^;]*)", extra).groups()
        assert wanted.get(name, bounds) == bounds.strip(), f"{name} differs"


def test_every_package_imported_is_required():
    stdlib = set(sys.stdlib_module_names)
    given = {"PIL": "pillow", "sklearn": "scikit-learn"}
    extras = {"tensorboardX", "tensorflow", "torch", "wandb", "flatbuffers", "safetensors"}
    extras |= {"optuna"}
    required = (ROOT / "requirements.txt").read_text().replace("_", "-")
    for module in MODULES:
        for name, _ in imports(module):
            package = name.split(".")[0]
            if package in stdlib | extras | {"cls_jax"}:
                continue
            known = given.get(package, package).replace("_", "-")
            assert re.search(rf"^{known}\b", required, re.MULTILINE), f"{module}: {package}"


def test_no_path_of_one_machine():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    machine = re.compile(r"(?<![\w.~])/(?:work|root|opt|home)/\w")
    found = []
    for name in listed.stdout.splitlines():
        path = ROOT / name
        text = path.suffix in {".py", ".md", ".toml", ".txt", ".json", ".csv", ".ipynb", ".yml", ""}
        if text and path.is_file() and path != Path(__file__) and machine.search(path.read_text()):
            found.append(name)
    assert found == []
