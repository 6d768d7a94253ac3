"""The design, held: which way imports point, what is documented, how long a file may be."""

import ast
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "cls_jax"
FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in FILES}
"""Module name without "cls_jax.", e.g. "methods.er" or "methods.__init__", to its file."""

TREES = {
    "types",
    "checks",
    "sync",
    "losses",
    "view_losses",
    "memory",
    "herding",
    "augment",
    "image_ops",
    "metrics",
}
MAY_IMPORT = {
    "errors": set(),
    "hyper": set(),
    "choices": set(),
    "types": {"errors", "hyper"},
    "checks": {"errors", "hyper"},
    "host_memory": {"errors"},
    "sync": {"types"},
    "losses": {"types"},
    "view_losses": {"types", "losses"},
    "memory": {"types"},
    "herding": {"types"},
    "metrics": {"errors"},
    "image_ops": {"types"},
    "augment": {"types", "choices", "image_ops"},
    "mesh": {"types"},
    "net_config": set(),
    "nets": {"types", "mesh", "net_config", "nets"},
    "methods": TREES | {"choices", "errors", "hyper", "net_config", "nets", "methods"},
    "streams": {"types", "checks", "choices", "files", "host_memory", "paths", "streams"},
    "events": {"types", "metrics"},
    "placement": {"types", "mesh", "streams"},
    "rows": {"types", "methods", "streams"},
    "feed": {"placement", "rows", "streams"},
    "evaluate": {"types", "mesh", "placement", "feed", "methods", "streams"},
    "plan": {"types", "checks", "host_memory", "methods", "streams", "feed"},
    "program": {"types", "sync", "methods", "streams", "mesh", "placement", "rows", "evaluate"},
    "sizes": {"types", "host_memory", "methods", "streams", "program"},
    "itinerary": {"types", "methods"},
    "journey": {"types", "mesh", "placement", "methods", "streams", "events", "rows", "feed"}
    | {"plan", "evaluate", "program", "itinerary"},
    "runner": {"types", "checks", "methods", "streams", "events", "evaluate", "rows", "plan"}
    | {"itinerary", "journey"},
    "processes": {"paths", "types"},
    "stopping": set(),
    "saves": {"types", "itinerary", "processes"},
    "save_interval": {"errors"},
    "checkpoint": {"types", "itinerary", "paths", "processes", "save_interval", "saves"}
    | {"stopping"},
    "recipes": {"types", "methods", "net_config", "experiment", "itinerary", "program"}
    | {"stored_recipe"},
    "trained": {"types", "checks", "evaluate", "experiment", "itinerary", "methods", "paths"}
    | {"program", "recipes", "saves", "stored_recipe", "workdir"},
    "workdir": {"errors", "", "__init__", "files", "lock", "paths"},
    "console": {"errors", "events", "files", "sheet"},
    "figures": {"types", "metrics", "events", "columns", "sheet"},
    "sheet": {"metrics", "workdir"},
    "record": {"events", "columns"},
    "stored": {"errors", "metrics", "events", "columns", "files", "paths", "record", "workdir"},
    "columns": {"metrics", "events"},
    "result_sheets": {"errors", "metrics", "events", "columns", "figures", "sheet", "stored"},
    "report": {"errors", "events", "console", "figures", "workdir", "sheet", "stored"}
    | {"cli", "paths", "result_sheets"},
    "files": set(),
    "paths": {"errors"},
    "lock": {"errors", "paths"},
    "stored_recipe": {"errors", "files"},
    "orders": {"errors", "metrics", "events", "figures", "workdir", "sheet", "stored", "__init__"}
    | {"", "files"},
    "cli": {"errors", "runner", "processes", "stopping", "workdir"},
    "run_config": {"errors", "cli", "console", "paths", "save_interval", "workdir"},
    "stream_config": {"choices"},
    "saved_scores": {"types", "streams", "placement", "feed", "evaluate", "events", "journey"}
    | {"runner", "experiment", "trained"},
    "experiment": TREES | {"host_memory", "nets", "methods", "paths", "stream_config", "streams"},
    "grid": {"types", "experiment", "methods", "net_config"},
    "execution": {"types", "methods", "streams", "events", "plan", "itinerary", "runner", "console"}
    | {"checks", "files", "grid", "paths", "run_config", "sizes", "stored_recipe"}
    | {"processes", "stopping", "checkpoint", "experiment", "workdir", "report"},
    "unused": {"errors"},
    "variants": {"errors", "cli", "methods", "unused"},
    "den_controls": {"experiment", "methods"},
    "identification": {
        "types",
        "augment",
        "evaluate",
        "events",
        "experiment",
        "journey",
        "methods",
        "nets",
    }
    | {"processes", "sheet", "streams", "workdir"},
    "best_args": set(),
    "presets": {"errors", "best_args", "methods", "net_config", "stream_config"},
    "records": set(),
    "reproduction": {"events", "files", "metrics", "sheet", "workdir"},
    "__init__": {"trained"},
}
"""Room -> the rooms it may import. A new file at the top of cls_jax needs a row here."""

ONLY_IN = {
    "tensorflow_datasets": {"streams.prepared", "streams.classics", "streams.fetch"},
    "tensorflow": set(),
    "array_record": {"streams.prepared", "streams.classics", "streams.fetch"},
    "orbax": {"checkpoint", "saves"},
    "etils": {"saves"},
    "matplotlib": {"figures"},
    "rich": {"console", "sheet", "report", "streams.cache"},
    "tyro": {"cli"},
    "filelock": {"lock", "processes"},
    "platformdirs": {"paths"},
    "tensorboardX": {"console"},
    "sklearn": {"streams.sources"},
    "PIL": {"streams.local", "streams.pictures", "streams.classics", "streams.prepared"},
    "dm_pix": {"image_ops"},
    "flax.linen": {
        f"nets.{name}"
        for name in (
            "mlp",
            "resnet",
            "resnet32",
            "lenet",
            "dualnet",
            "extractor",
            "self_supervised",
        )
    }
    | {"nets.layers", "nets.linen"},
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
)
"""Heavy, or not always installed: imported inside the function that needs them."""

FRONT_DOOR = (
    r"(sync|losses|memory|herding|augment|metrics|evaluate|runner|presets|reproduction|stored"
    r"|streams\.(class_il|domain_il|mnist360|gcil|blurry|rotation|order|sources|stream)"
    r"|nets\.(mlp|lenet|resnet|dualnet)|methods\.(?!__init__|base|dualnet_config|apd_config)\w+)"
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
    """The room that "cls_jax.methods.er.er" or "methods.er" belongs to."""
    return dotted.removeprefix("cls_jax").removeprefix(".").split(".")[0]


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


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module):
    mine = room(module)
    assert mine in MAY_IMPORT, f"give {module} a row in MAY_IMPORT"
    inner = {room(name) for name, _ in imports(module) if name.split(".")[0] == "cls_jax"}
    if module == "cli":  # its errors are told from all others without waiting for JAX
        assert all(not top for name, top in imports(module) if name.startswith("cls_jax"))
    assert inner <= MAY_IMPORT[mine], f"{module} must not import {inner - MAY_IMPORT[mine]}"


@pytest.mark.parametrize("module", MODULES)
def test_packages_are_imported_where_they_belong_and_when_needed(module):
    for name, at_the_top in imports(module):
        for package, homes in ONLY_IN.items():
            if name == package or name.startswith(package + "."):
                assert module in homes, f"{module} imports {package}"
                assert not (at_the_top and package in LAZY), f"{module} imports {package} early"


@pytest.mark.parametrize("module", ["cls_jax", "cls_jax.experiment"])
def test_importing_loads_nothing_heavy(module):
    """A fresh interpreter: ``cls_jax`` alone does not even load JAX."""
    heavy = ["tensorflow", "tensorflow_datasets", "matplotlib", "orbax", "sklearn", "PIL"]
    heavy += ["array_record", "tensorboardX"] + (["jax", "flax"] if module == "cls_jax" else [])
    code = f"import sys, {module}; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


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
        if "Args:" not in text:
            continue
        section = re.split(r"\n\n(?=\S)", text.split("Args:\n")[1])[0]
        found = re.findall(r"^  (\*?\w+(?:, \w+)*):", section, re.MULTILINE)
        named = {part.strip().lstrip("*") for entry in found for part in entry.split(",")}
        assert named == {p.arg for p in parameters(node)}, name


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
    shared = {"methods.__init__", "methods.base", "methods.builders"}  # no paper's own
    shared |= {"methods.config_checks", "methods.dualnet_config"}
    assert set(without) <= shared, f"say which paper and code: {set(without) - shared}"
    assert len(papers) - len(without) >= 5


# --- files ----------------------------------------------------------------------------------------


def lines(path: Path) -> int:
    """Lines of a file."""
    return path.read_text().count("\n")


def test_a_file_is_one_concept():
    assert {str(p.relative_to(ROOT)): lines(p) for p in FILES if lines(p) > 300} == {}


def test_an_experiment_is_a_page():
    scripts = [p for p in (ROOT / "experiments").glob("*.py") if "benchmark" not in p.name]
    assert {p.name for p in scripts if lines(p) > 80} == set()


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
    extras = {"tensorboardX", "tensorflow"}
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
