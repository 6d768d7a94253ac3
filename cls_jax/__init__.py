"""cls_jax: continual learning with complementary learning systems, as pure functions of pytrees.

    import cls_jax as cls

    stream = cls.class_il(cls.load_data("digits"), tasks=5, batch_size=10)
    problem = cls.problem(stream, net="mlp")
    method = cls.clser(problem, memory_size=200, replay_size=10)
    print(cls.train(method, stream, seeds=range(3)).table())

Nothing heavy is imported before it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cls_jax.core.version import __version__ as __version__
from cls_jax.methods import METHODS as METHODS

if TYPE_CHECKING:  # the same names, for type checkers and editors
    from cls_jax import nets as nets
    from cls_jax.app import saved_scores as _saved_scores
    from cls_jax.app.api import Result as Result
    from cls_jax.app.api import problem as problem
    from cls_jax.app.api import train as train
    from cls_jax.app.export import export as export
    from cls_jax.app.online.learner import OnlineLearner as OnlineLearner
    from cls_jax.app.online.start import online as online
    from cls_jax.app.published import presets as presets
    from cls_jax.app.restore import SavedRun as SavedRun
    from cls_jax.app.restore import load as load
    from cls_jax.app.weights import save_weights as save_weights
    from cls_jax.core import augment as augment
    from cls_jax.core import losses as losses
    from cls_jax.core import memory as memory
    from cls_jax.core import metrics as metrics
    from cls_jax.core import sync as sync
    from cls_jax.core.errors import InputError as InputError
    from cls_jax.core.own import dataset as dataset
    from cls_jax.core.own import import_file as import_file
    from cls_jax.core.own import net as net
    from cls_jax.core.own import optimizer as optimizer
    from cls_jax.core.types import Batch as Batch
    from cls_jax.core.types import Task as Task
    from cls_jax.core.types import Trainable as Trainable
    from cls_jax.core.types import Variables as Variables
    from cls_jax.data import load as _load
    from cls_jax.data.dataset import Dataset as Dataset
    from cls_jax.data.dataset import Split as Split
    from cls_jax.data.hold_out import hold_out as hold_out
    from cls_jax.methods.architecture.apd import apd as apd
    from cls_jax.methods.architecture.den import den as den
    from cls_jax.methods.architecture.der_expandable import der_expandable as der_expandable
    from cls_jax.methods.architecture.dytox import dytox as dytox
    from cls_jax.methods.architecture.hopsupsup import hopsupsup as hopsupsup
    from cls_jax.methods.architecture.rpsnet import rpsnet as rpsnet
    from cls_jax.methods.architecture.supsup import supsup as supsup
    from cls_jax.methods.architecture.supsup_nns import supsup_nns as supsup_nns
    from cls_jax.methods.base import Algorithm as Algorithm
    from cls_jax.methods.base import Method as Method
    from cls_jax.methods.base import Needs as Needs
    from cls_jax.methods.base import Phase as Phase
    from cls_jax.methods.base import method as method
    from cls_jax.methods.baselines.gdumb import gdumb as gdumb
    from cls_jax.methods.baselines.sgd import joint as joint
    from cls_jax.methods.baselines.sgd import sgd as sgd
    from cls_jax.methods.cls.clser import clser as clser
    from cls_jax.methods.cls.clser_masked import clser_masked as clser_masked
    from cls_jax.methods.cls.dualnet import dualnet as dualnet
    from cls_jax.methods.cls.esmer import esmer as esmer
    from cls_jax.methods.cls.group_ema import group_ema as group_ema
    from cls_jax.methods.cls.mean_er import mean_er as mean_er
    from cls_jax.methods.problem import Problem as Problem
    from cls_jax.methods.prototypes.icarl import icarl as icarl
    from cls_jax.methods.prototypes.spb import spb as spb
    from cls_jax.methods.prototypes.spb import spb_i as spb_i
    from cls_jax.methods.prototypes.spb import spb_m as spb_m
    from cls_jax.methods.prototypes.ucir import ucir as ucir
    from cls_jax.methods.regularization.ewc_online import ewc_online as ewc_online
    from cls_jax.methods.regularization.frcl import frcl as frcl
    from cls_jax.methods.regularization.frcl_boundary import boundary_p_value as boundary_p_value
    from cls_jax.methods.regularization.frcl_boundary import prior_divergence as prior_divergence
    from cls_jax.methods.regularization.l2_transfer import l2_transfer as l2_transfer
    from cls_jax.methods.regularization.lwf import lwf as lwf
    from cls_jax.methods.regularization.si import si as si
    from cls_jax.methods.replay.agem import agem as agem
    from cls_jax.methods.replay.co2l import co2l as co2l
    from cls_jax.methods.replay.der import der as der
    from cls_jax.methods.replay.der import derpp as derpp
    from cls_jax.methods.replay.er import er as er
    from cls_jax.methods.replay.er_ace import er_ace as er_ace
    from cls_jax.methods.replay.er_mir import er_mir as er_mir
    from cls_jax.methods.replay.ocs import ocs as ocs
    from cls_jax.nets.base import Net as Net
    from cls_jax.nets.own_linen import net_from_linen as net_from_linen
    from cls_jax.nets.own_nnx import net_from_nnx as net_from_nnx
    from cls_jax.report import logs as logs
    from cls_jax.streams.blurry import blurry as blurry
    from cls_jax.streams.class_il import class_il as class_il
    from cls_jax.streams.domain_il import dihedral as dihedral
    from cls_jax.streams.domain_il import permuted as permuted
    from cls_jax.streams.domain_il import rotated as rotated
    from cls_jax.streams.gcil import gcil as gcil
    from cls_jax.streams.mnist360 import mnist360 as mnist360
    from cls_jax.streams.open_stream import open_stream as open_stream
    from cls_jax.streams.reserve import reserve as reserve
    from cls_jax.streams.task_order import only_tasks as only_tasks
    from cls_jax.training.group import task_classes as task_classes
    from cls_jax.training.plan import Plan as Plan

    evaluate = _saved_scores.score
    load_data = _load.load

_NAMES = {
    "app.api": ("problem", "train", "Result"),
    "app.export": ("export",),
    "app.online.start": ("online",),
    "app.online.learner": ("OnlineLearner",),
    "app.restore": ("load", "SavedRun"),
    "app.weights": ("save_weights",),
    "core.errors": ("InputError",),
    "core.own": ("net", "optimizer", "dataset", "import_file"),
    "core.types": ("Batch", "Task", "Variables", "Trainable"),
    "data.dataset": ("Dataset", "Split"),
    "data.hold_out": ("hold_out",),
    "methods": ("METHODS",),
    "methods.base": ("method", "Algorithm", "Method", "Needs", "Phase"),
    "methods.problem": ("Problem",),
    "methods.regularization.frcl_boundary": ("boundary_p_value", "prior_divergence"),
    "nets.base": ("Net",),
    "nets.own_linen": ("net_from_linen",),
    "nets.own_nnx": ("net_from_nnx",),
    "streams.blurry": ("blurry",),
    "streams.class_il": ("class_il",),
    "streams.domain_il": ("dihedral", "permuted", "rotated"),
    "streams.gcil": ("gcil",),
    "streams.mnist360": ("mnist360",),
    "streams.open_stream": ("open_stream",),
    "streams.reserve": ("reserve",),
    "streams.task_order": ("only_tasks",),
    "training.group": ("task_classes",),
    "training.plan": ("Plan",),
}
"""Module -> what of it is public under its own name."""

_WHERE = {name: (module, name) for module, names in _NAMES.items() for name in names} | {
    "load_data": ("data.load", "load"),
    "evaluate": ("app.saved_scores", "score"),
}
_MODULES = {
    **{name: f"core.{name}" for name in ("augment", "losses", "memory", "metrics", "sync")},
    "logs": "report.logs",
    "nets": "nets",
    "presets": "app.published.presets",
}
"""Submodules by the names that users know them by."""

__all__ = sorted((*_WHERE, *_MODULES, *METHODS))  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """A public name, imported as it is asked for."""
    if name in METHODS:
        return METHODS[name]
    if name in _MODULES:
        return import_module(f"cls_jax.{_MODULES[name]}")
    if name in _WHERE:
        module, own = _WHERE[name]
        return getattr(import_module(f"cls_jax.{module}"), own)
    raise AttributeError(f"module 'cls_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
