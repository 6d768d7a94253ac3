"""What users bring in files of their own, by name: networks, optimizers, data; needs no JAX.

A method of one's own joins the table of methods where ``@method`` makes it.
"""

import hashlib
import importlib.util
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cls_jax.core.errors import InputError

NETS: dict[str, Callable[[int], Any]] = {}
"""Name -> (number of outputs -> a Flax linen module, or a Net)."""
DATASETS: dict[str, Callable[[], Any]] = {}
"""Name -> (() -> a Dataset)."""
OPTIMIZERS: dict[str, Callable[..., Any]] = {}
"""Name -> (learning rate -> an optax optimizer)."""
FILES: dict[str, str] = {}
"""Name of every file that was imported -> digest of what it holds."""


def net(make: Callable[[int], Any]) -> Callable[[int], Any]:
    """Registers ``make(num_outputs) -> linen.Module`` under its name, for ``net="name"``."""
    NETS[_name(make)] = make
    return make


def dataset(make: Callable[[], Any]) -> Callable[[], Any]:
    """Registers ``make() -> Dataset`` under its name, for ``load_data("name")`` and ``--data``."""
    DATASETS[_name(make)] = make
    return make


def optimizer(make: Callable[..., Any]) -> Callable[..., Any]:
    """Registers ``make(learning_rate) -> optax.GradientTransformation`` under its name, for
    ``problem(..., optimizer="name")`` and ``--optimizer``."""
    OPTIMIZERS[_name(make)] = make
    return make


def _name(make: Callable[..., Any]) -> str:
    name = getattr(make, "__name__", "")
    if not name.isidentifier():
        raise InputError(f"{make!r} has no name to be asked for by; decorate a def")
    return name


def import_file(path: str | Path) -> None:
    """Runs a Python file that registers parts of your own; once for each content.

    From then on it is the module of its name.

    Raises:
      InputError: there is no such file, or another module of its name.
    """
    file = Path(path)
    if file.suffix != ".py" or not file.is_file():
        raise InputError(f"import {path} is no Python file; give the path of one")
    if "." in file.stem:
        raise InputError(f"import {path}: no module has a dot in its name; rename the file")
    digest = hashlib.blake2b(file.read_bytes(), digest_size=8).hexdigest()
    if FILES.get(file.name) == digest:
        return
    if (other := _place_of(file.stem)) not in (None, str(file.resolve())):
        raise InputError(f"import {path}: {other} has that name already; rename the file")
    spec = importlib.util.spec_from_file_location(file.stem, file.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[file.stem]
        raise
    FILES[file.name] = digest


def _place_of(name: str) -> str | None:
    """What else is, or would be, the module called so: its file, most often; None: nothing."""
    if name in sys.modules:
        place = getattr(sys.modules[name], "__file__", None)
        return str(Path(place).resolve()) if place else f"Python's own {name}"
    spec = importlib.util.find_spec(name)
    if spec is None or (spec.submodule_search_locations and spec.origin is None):  # a mere folder
        return None
    if spec.origin is None or not spec.has_location:
        return f"Python's own {name}"
    return str(Path(spec.origin).resolve())


def imports_in(arguments: Sequence[str]) -> Iterator[str]:
    """The files that a command line asks for: ``--import FILE`` or ``--import=FILE``."""
    return values_of("--import", arguments)


def values_of(name: str, arguments: Sequence[str]) -> Iterator[str]:
    """The values that a command line gives the flag ``name``, before flags are parsed."""
    for flag, value in itertools.pairwise([*arguments, ""]):
        if flag == name:
            yield value
        elif flag.startswith(f"{name}="):
            yield flag.removeprefix(f"{name}=")
