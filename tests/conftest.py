"""Small real data and small networks for the whole suite; JAX set up before it starts."""

import atexit
import os
import shutil
import sys
import tempfile
from functools import cache, partial
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="cls_jax_tests_")  # not the user's own

import hypothesis
import jax
import numpy as np
import pytest

from cls_jax.core import own
from cls_jax.core.augment import recipe
from cls_jax.data.dataset import Dataset, Split
from cls_jax.data.load import load
from cls_jax.methods import METHODS
from cls_jax.methods.base import Method
from cls_jax.methods.optimizer import Optimizer, OptimizerConfig, make_optimizer
from cls_jax.methods.problem import Problem
from cls_jax.nets.registry import NetConfig, Networks, networks
from cls_jax.streams.class_il import class_il
from cls_jax.streams.config import InputConfig
from tests.support.nets import toy_dualnets

CACHE = os.environ["XDG_CACHE_HOME"]
atexit.register(shutil.rmtree, CACHE, ignore_errors=True)
# What one test compiled, the next one loads, in the other processes of `pytest -n` and in the next
# run too: JAX finds a program by what it is and by the versions that made it.
COMPILED = Path(__file__).resolve().parents[1] / ".pytest_cache" / "jax"
COMPILED.mkdir(parents=True, exist_ok=True)
jax.config.update("jax_compilation_cache_dir", str(COMPILED))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)

QUICKLY = ["--xla_backend_optimization_level=0"]
"""Flags of XLA: three quarters of the quick part's time are small programs' compilation."""
if jax.__version_info__ < (0, 11):  # the first is gone from then on
    QUICKLY += ["--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1"]

hypothesis.settings.register_profile("no deadline", deadline=None)  # the first example compiles
hypothesis.settings.load_profile("no deadline")

TASKS = 3
CLASSES = 6

SMALL = {
    "er": {"memory_size": 24, "replay_size": 6},
    "clser": {"memory_size": 24, "replay_size": 6},
    "clser_masked": {"memory_size": 24, "replay_size": 6, "max_groups": 2},
    "mean_er": {"memory_size": 24, "replay_size": 6},
    "esmer": {"memory_size": 24, "replay_size": 6},
    "group_ema": {"memory_size": 24, "replay_size": 6, "max_groups": 2},
    "der": {"memory_size": 24, "replay_size": 6},
    "derpp": {"memory_size": 24, "replay_size": 6},
    "er_ace": {"memory_size": 24, "replay_size": 6},
    "er_mir": {"memory_size": 24, "replay_size": 6, "candidates": 12},
    "ocs": {
        **{"memory_size": 24, "replay_size": 6, "selection_size": 3, "candidates": 8},
        **{"warmup_batches": 1, "learning_rate": 0.05},
    },
    "co2l": {
        **{"memory_size": 24, "replay_size": 6, "base_cosine_epochs": 4, "cosine_epochs": 4},
        **{"warmup_epochs": 0, "classifier_epochs": 2, "classifier_batch_size": 8},
        **{"learning_rate": 0.01, "classifier_learning_rate": 0.1},
    },
    "agem": {"memory_size": 24, "replay_size": 6},
    "frcl": {"points_per_task": 3, "num_samples": 2},
    "den": {"added_units": 2, "head_epochs": 1},
    "apd": {"consolidate_every": 2, "clusters": 1, "annealing_steps": 4},
    "der_expandable": {
        "memory_size": 24,
        "replay_size": 6,
        "balanced_epochs": 2,
        "balanced_batch_size": 8,
    },
    "dytox": {
        "memory_size": 24,
        "replay_size": 6,
        "num_blocks": 1,
        "warmup_epochs": 0,
        "finetune_epochs": 1,
        "finetune_batch_size": 8,
    },
    "rpsnet": {
        "num_modules": 3,
        "num_candidates": 2,
        "path_tasks": 1,
        "memory_size": 24,
        "replay_size": 6,
    },
    "gdumb": {"memory_size": 24, "fit_epochs": 3, "fit_batch_size": 8},
    "icarl": {"memory_size": 24, "replay_size": 6},
    "ucir": {
        "exemplars_per_class": 3,
        "replay_size": 6,
        "balanced_epochs": 2,
        "balanced_batch_size": 4,
    },
    "supsup": {"num_outputs": 12},
    "supsup_nns": {"num_outputs": 12, "decide_every": 3, "num_compared": 2},
    "dualnet": {
        "memory_size": 24,
        "replay_size": 6,
        "ssl_size": 8,
        "n_outer": 1,
        "inner_steps": 1,
    },
}
"""What the suite asks of each method: as small as it can be and still do everything."""


@cache
def small_source(side: int = 8, per_class: int = 11) -> Dataset:
    """The first scans of six digits, ``side`` pixels square and three channels."""
    whole = digits()

    def take(split: Split, n: int) -> Split:
        index = np.concatenate([np.flatnonzero(split.y == c)[:n] for c in range(CLASSES)])
        step = split.x.shape[1] // side
        return Split(split.x[index, ::step, ::step], split.y[index])

    names = whole.label_names[:CLASSES]
    return Dataset("digits6", take(whole.train, per_class), take(whole.test, 6), names)


def small_problem(
    net: str | Networks = "mlp",
    *,
    dtype: str = "float32",
    optimizer: Optimizer = Optimizer(),  # noqa: B008
) -> Problem:
    """Three tasks of two of the 8x8 digits, and an mlp or the networks given."""
    if isinstance(net, str):
        net = networks(NetConfig(net=net, dtype=dtype))
    inputs = InputConfig(normalisation="half", views="standard", view_padding=1)
    augment = recipe((8, 8, 3), normalisation="half", views="standard", view_padding=1)
    words = inputs, NetConfig(net=net.kind, dtype=dtype)
    return Problem(net, augment, CLASSES, TASKS, optimizer=optimizer, words=words)


def small_method(
    name: str,
    *,
    dtype: str = "float32",
    learns_with: OptimizerConfig = OptimizerConfig(),  # noqa: B008
    **changes,
) -> Method:
    """The method of the table's row ``name`` with the suite's sizes and ``changes``.

    DualNet gets toy networks: a ResNet-18's gradient takes half a minute to compile.
    """
    net = toy_networks(dtype) if name == "dualnet" else "mlp"
    problem = small_problem(net, dtype=dtype, optimizer=make_optimizer(learns_with))
    return METHODS[name](problem, **{**SMALL.get(name, {}), **changes})


digits = cache(partial(load, "digits"))
"""The scans at 32 pixels, read once a process."""


@cache
def toy_networks(dtype: str) -> Networks:
    """An mlp, and DualNet's two networks as small as they can be."""
    dualnets = partial(toy_dualnets, dtype=dtype)
    return networks(NetConfig(net="mlp", dtype=dtype))._replace(dualnets=dualnets)


def pytest_configure(config: pytest.Config) -> None:
    """What trains for minutes is compiled as users do it; the quick part and `-m more` are quickly.

    With ``XLA_FLAGS`` in the environment, an empty one too, the quick part is compiled so: CI runs
    its exact laws both ways.
    """
    if config.option.markexpr in ("not slow and not more", "more"):
        os.environ.setdefault("XLA_FLAGS", " ".join(QUICKLY))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of one method stay on one worker of `--dist loadgroup`: it is compiled once."""
    for item in items:
        values = getattr(item, "callspec", None) and item.callspec.params.values()
        named = [one for one in values or () if isinstance(one, str) and one in METHODS]
        if named and "laws" in item.nodeid:
            item.add_marker(pytest.mark.xdist_group(named[0]))


@pytest.fixture(autouse=True)
def what_one_registers_goes():
    """No test leaves methods, networks, optimizers, data or files of its own to the next."""
    tables = (METHODS.own, own.NETS, own.OPTIMIZERS, own.DATASETS, own.FILES)
    before = [dict(table) for table in tables]
    yield
    for file in own.FILES.keys() - before[-1].keys():
        sys.modules.pop(Path(file).stem, None)
    for table, known in zip(tables, before, strict=True):
        table.clear()
        table.update(known)


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    """Drops compiled programs before there are too many.

    Each of them takes memory maps, a process may have 65,530 on Linux, and XLA crashes beyond.
    """
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 40_000:
        jax.clear_caches()


@pytest.fixture(scope="session")
def source() -> Dataset:
    return small_source()


@pytest.fixture(scope="session")
def stream(source):
    """Three tasks of two classes, 22 examples each in batches of 4: the last batch is padded."""
    return class_il(source, tasks=TASKS, batch_size=4)
