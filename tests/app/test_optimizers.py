"""An optimizer from the words of a user to a run that was killed, went on and is loaded."""

import json

import jax
import numpy as np
import optax
import pytest

import cls_jax as cls
from cls_jax.app.build import StreamConfig, make_learner, make_stream
from cls_jax.app.grid import grid
from cls_jax.app.method_flags import OPEN_OPTIMIZER, takes_optimizer
from cls_jax.app.optimizers import factory_of, fit_optimizer
from cls_jax.core.errors import InputError
from cls_jax.core.own import OPTIMIZERS
from cls_jax.methods import METHODS, signature
from cls_jax.methods.optimizer import OptimizerConfig
from cls_jax.nets.registry import NetConfig
from cls_jax.training.group import schedule_key

ADAMW = {"weight_decay": 1e-2, "schedule": "cosine", "warmup_steps": 2, "clip_norm": 1.0}


def er(stream, **words):
    """er on a small perceptron."""
    problem = cls.problem(stream, net="mlp", hidden=(8,), **words)
    return cls.er(problem, memory_size=24, replay_size=6, learning_rate=0.01)


def halved(learning_rate):
    """An optimizer of one's own, for a rate or a schedule."""
    return optax.chain(optax.scale(0.5), optax.sgd(learning_rate))


@pytest.fixture
def registered():
    """``halved`` under its name."""
    cls.optimizer(halved)


class Killed(Exception):
    """A process that ends in the midst."""


def test_a_killed_run_goes_on_to_the_same_bits_and_is_loaded(stream, tmp_path):
    method, seen = er(stream, optimizer="adamw", **ADAMW), []
    plan, how = cls.Plan(chunk=4, score="end"), {"workdir": tmp_path, "save_every": "1step"}

    def kill(event):
        seen.append(event)
        if len(seen) == 4:
            raise Killed

    with pytest.raises(Killed):
        cls.train(method, stream, plan=plan, observe=kill, **how)
    resumed = cls.train(er(stream, optimizer="adamw", **ADAMW), stream, plan=plan, **how)
    whole = cls.train(method, stream, plan=plan)
    states = [jax.tree.map(np.asarray, one.states[0][0]) for one in (resumed, whole)]
    for ours, theirs in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_array_equal(ours, theirs)

    recipe = json.loads((tmp_path / "checkpoints" / "er" / "recipe.json").read_text())
    updates = int(stream.schedule(schedule_key(0)).num_labelled.sum())
    told = {"optimizer": "adamw", "momentum": None, "schedule_steps": updates, **ADAMW}
    assert recipe["optimizer"] == told
    loaded = cls.load(tmp_path)
    assert loaded.method.at.problem.optimizer == method.at.problem.optimizer
    for ours, theirs in zip(*map(jax.tree.leaves, (loaded.state, states[1])), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_one_of_ones_own_is_recorded_by_a_name_that_leads_to_it_or_by_none(stream, registered):
    assert factory_of("adamw") == ("adamw", None)
    assert factory_of(optax.lion) == ("lion", None)
    assert factory_of(halved) == ("halved", None)
    assert er(stream, optimizer=halved).at == er(stream, optimizer="halved").at
    OPTIMIZERS.clear()
    name = f"{__name__}.halved"
    assert factory_of(halved) == (name, halved)
    with pytest.raises(InputError, match=f"optimizer is '{name}'; use .* or import the file"):
        er(stream, optimizer=name)
    with pytest.raises(InputError, match=r"optimizer is 3; give a name, or a function"):
        er(stream, optimizer=3)


def test_a_run_of_ones_own_is_loaded_once_its_file_is_imported(stream, registered, tmp_path):
    method = cls.sgd(cls.problem(stream, net="mlp", hidden=(8,), optimizer=halved))
    trained = cls.train(method, stream, plan=cls.Plan(score="end"), workdir=tmp_path)
    x = stream.source.test.x[:5]
    answer = method.predict(trained.states[0][0], x, None)
    np.testing.assert_allclose(cls.load(tmp_path).predict(x), answer, rtol=1e-5, atol=1e-5)
    OPTIMIZERS.clear()
    with pytest.raises(InputError, match=r"optimizer is 'halved'; .* import the file"):
        cls.load(tmp_path)


def test_a_schedule_is_as_long_as_the_stream_unless_told(stream):
    updates = int(stream.schedule(schedule_key(0)).num_seen.sum())
    cosine = OptimizerConfig(schedule="cosine")
    assert fit_optimizer(cosine, stream).config.schedule_steps == updates
    longer = OptimizerConfig(schedule="cosine", schedule_steps=1000)
    assert fit_optimizer(longer, stream).config.schedule_steps == 1000
    assert fit_optimizer(OptimizerConfig(), stream).config.schedule_steps is None


def test_a_setting_of_no_kind_is_named(stream):
    with pytest.raises(InputError, match=r"no 'decay'; its inputs are normalisation, .*clip_norm"):
        cls.problem(stream, net="mlp", decay=0.1)


def test_a_sweep_over_what_fixes_a_program_keeps_the_optimizer():
    plan, adamw = StreamConfig(image_size=8), OptimizerConfig(optimizer="adamw", momentum=None)
    net = NetConfig(net="mlp", hidden=(8,))
    learner = make_learner("er", {}, make_stream(plan), plan, net, adamw)
    found = grid(learner, ("memory_size", "40", "60"))
    assert [one.recipe["optimizer"]["optimizer"] for one, _ in found] == ["adamw", "adamw"]
    assert [one.method.at.problem.optimizer.config for one, _ in found] == [adamw, adamw]


def test_flags_of_a_method_and_of_the_optimizer_have_no_name_in_common():
    names = vars(OptimizerConfig()).keys()
    for method in METHODS:
        if takes_optimizer(method):
            assert not names & signature(method).arguments.keys()
    assert {name for name in METHODS if takes_optimizer(name)} == OPEN_OPTIMIZER
