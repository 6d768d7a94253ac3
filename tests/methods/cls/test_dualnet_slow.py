"""DualNet's slow phase: look-ahead at its ends, its optimizers, every objective, the card's oracle.

All but the oracle run on networks without convolutions (``nets.flat_dualnets``).
"""

from functools import cache, partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cls_jax.core import self_supervised as view_losses
from cls_jax.core.augment import Augment
from cls_jax.core.types import Trainable, Variables
from cls_jax.methods.cls.dualnet import dualnet
from cls_jax.methods.cls.dualnet_slow import NEEDS_PREDICTOR, slow_learner, slow_optimizer
from cls_jax.nets.dualnet import dualnet as dualnet_nets
from tests.support.nets import flat_dualnets
from tests.support.oracle_weights import oracle_images, oracle_vars
from tests.support.problems import flat_augment

KEY = jax.random.key(3)
OBJECTIVES = ("barlow_twins", "simclr", "simsiam", "byol", "simclr_as_in_code", "byol_as_in_code")
ROWS = 6


def images(key):
    """Six random images, one of them padding, as the method's own draw gives them."""
    x = jax.random.bits(key, (ROWS, 2, 2, 3), jnp.uint8)
    return x, jnp.arange(ROWS) != 4, {}


def default(name):
    """Of dualnet's argument of this name."""
    return dualnet.signature.arguments[name].default


def learner_of(nets, augment, hyper, **changes):
    """The slow learner with dualnet's defaults, but for the hyper-parameters and ``changes``."""
    fixed = {name: default(name) for name in ("objective", "lookahead_stats", "ssl_optimizer")}
    fixed |= {"n_outer": 2, "inner_steps": 2, **changes}
    rates = {name: hyper[f"ssl_{name}"] for name in ("learning_rate", "momentum", "weight_decay")}
    follow = {name: hyper[name] for name in ("lookahead_step_size", "target_decay")}
    optimizer = slow_optimizer(fixed.pop("ssl_optimizer"), **rates)
    return slow_learner(nets, augment, optimizer, **fixed, **follow)


@cache
def phase(**changes):
    """(hyper -> the slow learner, its phase compiled, networks)."""
    objective = changes.get("objective", default("objective"))
    nets = flat_dualnets(4, predictor=objective in NEEDS_PREDICTOR)
    learner = partial(learner_of, nets, flat_augment(), **changes)

    @jax.jit
    def compiled(key, slow, target, hyper):
        return learner(hyper).phase(key, slow, target, images)

    return learner, compiled, nets


def new_slow(hyper, **changes):
    """A slow network as DualNet makes it, with the other optimizer state that it carries."""
    learner, _, nets = phase(**changes)
    vars = nets.init_slow(jax.random.key(0), jnp.zeros((1, 12)))
    opt = {"ssl": learner(hyper).optimizer.init(vars.params), "supervised": jnp.float32(7)}
    return Trainable(vars=vars, opt=opt)


def after(hyper, *, target=(), **changes):
    """(before, after, target, loss) of one slow phase."""
    slow = new_slow(hyper, **changes)
    moved, target, value = phase(**changes)[1](KEY, slow, target, hyper)
    chex.assert_trees_all_equal_shapes_and_dtypes(moved, slow)
    chex.assert_trees_all_equal(moved.opt["supervised"], slow.opt["supervised"])
    return slow, moved, target, value


def rate(value=0.01, **changes):
    """dualnet's hyper-parameters as arrays, as in a run."""
    hyper = {name: default(name) for name in dualnet.signature.hyper}
    return jax.tree.map(jnp.float32, {**hyper, "ssl_learning_rate": value, **changes})


def by_hand(slow, hyper, n_outer, inner_steps, *, optimizer=None, step_size=1.0):
    """Barlow Twins with the same keys in plain optax: (vars, optimizer state, losses)."""
    nets, augment = phase()[2], flat_augment()
    optimizer = optimizer or optax.sgd(hyper["ssl_learning_rate"])
    vars, opt, values = slow.vars, optimizer.init(slow.vars.params), []
    rows = np.delete(np.arange(ROWS), 4)

    @jax.jit
    def one(key, vars, opt):
        key_draw, key_a, key_b = jax.random.split(key, 3)
        x, valid, _ = images(key_draw)

        def loss(params):
            a, stats = nets.embed(
                Variables(params, vars.stats), augment.view(key_a, x, 0), train=True, valid=valid
            )
            b, stats = nets.embed(
                Variables(params, stats), augment.view(key_b, x, 1), train=True, valid=valid
            )
            return view_losses.barlow_twins(a.z[rows], b.z[rows]), stats

        (value, stats), gradient = jax.value_and_grad(loss, has_aux=True)(vars.params)
        updates, opt = optimizer.update(gradient, opt, vars.params)
        return Variables(optax.apply_updates(vars.params, updates), stats), opt, value

    for key_outer in jax.random.split(KEY, n_outer):
        anchor = vars
        for key_inner in jax.random.split(key_outer, inner_steps):
            vars, opt, value = one(key_inner, vars, opt)
            values.append(value)
        vars = jax.tree.map(lambda old, new: old + step_size * (new - old), anchor, vars)
    return vars, opt, values


@pytest.mark.parametrize("step_size", [0.05, 1.0])
def test_a_learning_rate_of_zero_leaves_the_weights(step_size):
    """Bit for bit, but for the rounding of ``(1 - b) w + b w`` where b is neither 0 nor 1."""
    slow, moved, _, value = after(rate(0.0, lookahead_step_size=step_size))
    exact = chex.assert_trees_all_equal if step_size == 1 else chex.assert_trees_all_close
    exact(moved.vars.params, slow.vars.params)
    assert not np.array_equal(moved.vars.stats["trunk"], slow.vars.stats["trunk"])
    assert value > 0


def test_a_look_ahead_of_zero_leaves_weights_and_statistics_bit_for_bit():
    slow, moved, _, _ = after(rate(lookahead_step_size=0.0))
    chex.assert_trees_all_equal(moved.vars, slow.vars)


def test_a_look_ahead_of_one_is_plain_sgd():
    hyper = rate(lookahead_step_size=1.0)
    slow, moved, _, value = after(hyper)
    vars, _, values = by_hand(slow, hyper, 2, 2)
    chex.assert_trees_all_close(moved.vars, vars, rtol=1e-5, atol=1e-6)
    assert not np.allclose(moved.vars.params["trunk"], slow.vars.params["trunk"], atol=1e-3)
    np.testing.assert_allclose(value, np.mean(values), rtol=1e-5)
    assert len(set(map(float, values))) == 4  # images and views are drawn anew for each step


def test_a_look_ahead_between_compounds_over_its_rounds():
    hyper = rate(lookahead_step_size=0.25)
    slow, moved, _, _ = after(hyper)
    vars, _, _ = by_hand(slow, hyper, 2, 2, step_size=0.25)
    chex.assert_trees_all_close(moved.vars, vars, rtol=1e-5, atol=1e-6)


def test_statistics_may_stay_where_the_inner_steps_left_them():
    hyper = rate(lookahead_step_size=0.0)
    slow, moved, _, _ = after(hyper, n_outer=1, lookahead_stats=False)
    vars, _, _ = by_hand(slow, hyper, 1, 2)
    chex.assert_trees_all_equal(moved.vars.params, slow.vars.params)
    chex.assert_trees_all_close(moved.vars.stats, vars.stats, rtol=1e-5, atol=1e-6)


def test_momentum_lives_across_the_rounds_of_look_ahead():
    """The weights go back to their anchor (step size 0), the buffer goes on."""
    hyper = rate(lookahead_step_size=0.0, ssl_momentum=0.8, ssl_weight_decay=0.1)
    rule = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.01, 0.8))
    changes = {"n_outer": 2, "inner_steps": 1, "ssl_optimizer": "momentum"}
    slow, moved, _, _ = after(hyper, **changes)
    vars, opt, _ = by_hand(slow, hyper, 2, 1, optimizer=rule, step_size=0.0)
    mine, theirs = jax.tree.leaves(moved.opt["ssl"]), jax.tree.leaves(opt)
    assert sum(leaf.size for leaf in mine) == sum(p.size for p in jax.tree.leaves(vars.params))
    chex.assert_trees_all_close(mine, theirs, rtol=1e-5, atol=1e-5)
    _, fresh, _ = by_hand(slow, hyper, 1, 1, optimizer=rule)
    assert not np.allclose(jax.tree.leaves(fresh)[0], theirs[0], rtol=1e-2)
    chex.assert_trees_all_equal(moved.vars, slow.vars)


def test_plain_sgd_has_no_buffer():
    assert jax.tree.leaves(new_slow(rate()).opt["ssl"]) == []


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_is_finite_and_moves_the_slow_tree(objective):
    hyper = rate(lookahead_step_size=0.5)
    changes = {"objective": objective, "n_outer": 1, "inner_steps": 1}
    target = new_slow(hyper, **changes).vars if objective == "byol" else ()
    slow, moved, _, value = after(hyper, target=target, **changes)
    chex.assert_tree_all_finite((moved.vars, value))
    for part in slow.vars.params:
        learns = part != "predictor" or objective != "byol_as_in_code"  # detached there
        still = np.array_equal(moved.vars.params[part], slow.vars.params[part])
        assert still != learns, part


def test_padded_images_are_in_no_objective():
    """The histogram of names that entered a training forward lacks the row that is not valid."""
    _, moved, _, _ = after(rate(lookahead_step_size=1.0), n_outer=1, inner_steps=1)
    key_draw = jax.random.split(jax.random.split(jax.random.split(KEY, 1)[0], 1)[0], 3)[0]
    x, valid, _ = images(key_draw)
    expected = np.zeros(256)
    np.add.at(expected, np.asarray(x)[np.asarray(valid), 0, 0, 0], 2)  # two views
    np.testing.assert_array_equal(moved.vars.stats["embedded"], expected)


def test_byol_moves_its_target_by_ema_at_every_inner_step():
    changes = {"objective": "byol", "n_outer": 2, "inner_steps": 1}
    hyper = rate(0.0, lookahead_step_size=1.0, target_decay=0.9)
    start = new_slow(hyper, **changes).vars
    old = jax.tree.map(lambda leaf: leaf + 1.0, start)
    _, moved, target, _ = after(hyper, target=old, **changes)
    expected = jax.tree.map(lambda t, s: 0.81 * t + 0.19 * s, old.params, start.params)
    chex.assert_trees_all_close(target.params, expected, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_equal(moved.vars.params, start.params)
    assert not np.array_equal(target.stats["trunk"], old.stats["trunk"])


def test_byol_learns_from_its_target_and_not_from_itself():
    hyper = rate(lookahead_step_size=1.0)
    changes = {"objective": "byol", "n_outer": 2, "inner_steps": 1}
    nets = phase(**changes)[2]
    targets = [nets.init_slow(jax.random.key(seed), jnp.zeros((1, 12))) for seed in (1, 2)]
    one, two = (after(hyper, target=target, **changes)[1] for target in targets)
    assert not np.allclose(one.vars.params["predictor"], two.vars.params["predictor"], rtol=1e-4)


@pytest.mark.parametrize("objective", [name for name in OBJECTIVES if name != "byol"])
def test_other_objectives_have_no_target(objective):
    changes = {"objective": objective, "n_outer": 1, "inner_steps": 1}
    assert after(rate(), **changes)[2] == ()


@pytest.mark.more
def test_a_slow_round_of_the_real_network_equals_the_code():
    """Oracle 13.7 of the card (float64), through ``slow_learner`` itself."""
    with jax.enable_x64(True):
        nets = dualnet_nets(4, width=2, dtype="float64")
        # Run op by op around one compiled network: both views and both steps share it.
        nets = nets._replace(embed=jax.jit(nets.embed, static_argnames="train"))
        a = oracle_images(np.sin, 1e-4, (4, 3, 84, 84))
        b = oracle_images(np.cos, 1.1e-4, (4, 3, 84, 84))
        start = oracle_vars(jax.eval_shape(nets.init_slow, KEY, a))
        augment = Augment(
            train=lambda key, x: x,
            test=lambda x: x,
            view=lambda key, x, number: jnp.where(number == 0, a, b),
        )
        hyper = {name: jnp.float64(default(name)) for name in dualnet.signature.hyper}
        assert (hyper["ssl_learning_rate"], hyper["lookahead_step_size"]) == (3e-4, 0.05)

        def draw(key):
            return jnp.zeros((4, 84, 84, 3), jnp.uint8), jnp.ones(4, bool), {}

        def phase(inner_steps):
            learner = learner_of(nets, augment, hyper, n_outer=1, inner_steps=inner_steps)
            slow = Trainable(vars=start, opt={"ssl": learner.optimizer.init(start.params)})
            slow, _, value = learner.phase(KEY, slow, (), draw)
            return slow.vars, float(value)

        _, first = phase(1)
        end, mean = phase(2)
        np.testing.assert_allclose([first, 2 * mean - first], [13.92819050, 6.84811498], atol=1e-6)
        began, ended = (float(vars.params["conv1"]["kernel"].sum()) for vars in (start, end))
        reached = began + (ended - began) / 0.05  # where the two steps led
        expected = [4.76827333, 4.65063366, 4.76239135]
        np.testing.assert_allclose([began, reached, ended], expected, atol=1e-6)
        running = end.stats["bn1"]
        np.testing.assert_allclose(running["mean"], [1.1652e-4, 1.1381e-4], atol=1e-6)
        np.testing.assert_allclose(running["var"], [1.00179954, 1.00387204], atol=1e-6)
