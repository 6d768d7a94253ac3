"""Small real data and small networks for the whole suite; JAX set up before it starts."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("NPROC", "64")  # JAX 0.10 deadlocks on few cores with virtual devices

import jax
import numpy as np
import pytest

from cls_jax.augment import recipe
from cls_jax.methods import METHODS, Setting
from cls_jax.nets.choose import NetConfig
from cls_jax.streams.class_il import class_il
from cls_jax.streams.sources import load
from cls_jax.streams.stream import Examples, Source

TASKS = 3
CLASSES = 6

SMALL_CONFIG = {
    "er": {"memory_size": 24, "replay_size": 6},
    "dualnet": {
        "memory_size": 24,
        "replay_size": 6,
        "ssl_size": 8,
        "n_outer": 1,
        "inner_steps": 1,
    },
}
"""What the suite asks of each method: as small as it can be and still do everything."""


def small_source(side: int = 8, per_class: int = 11) -> Source:
    """The first scans of six digits, ``side`` pixels square and three channels."""
    whole = load("digits")

    def take(split: Examples, n: int) -> Examples:
        index = np.concatenate([np.flatnonzero(split.y == c)[:n] for c in range(CLASSES)])
        step = split.x.shape[1] // side
        return Examples(split.x[index, ::step, ::step], split.y[index])

    names = whole.label_names[:CLASSES]
    return Source("digits6", take(whole.train, per_class), take(whole.test, 6), names)


def small_setting(name: str, **changes) -> Setting:
    """A setting for method ``name``: an mlp, or DualNet's nets of width 2."""
    net = NetConfig(net="resnet18", width=2) if name == "dualnet" else NetConfig(net="mlp")
    setting = Setting(
        net=net,
        augment=recipe((8, 8, 3), normalisation="half", views="standard", view_padding=1),
        num_classes=CLASSES,
        num_tasks=TASKS,
    )
    return setting._replace(**changes)


def small_method(name: str, **changes):
    """(method, hyper) of the table's row ``name`` with the suite's sizes and ``changes``."""
    row = METHODS[name]
    config = row.config(**{**SMALL_CONFIG.get(name, {}), **changes})
    return row.build(config, small_setting(name)), row.hyper()


@pytest.fixture(scope="session")
def source() -> Source:
    return small_source()


@pytest.fixture(scope="session")
def stream(source):
    """Three tasks of two classes, 22 examples each in batches of 4: the last batch is padded."""
    return class_il(source, tasks=TASKS, batch_size=4)


