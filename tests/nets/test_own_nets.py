"""Ordinary modules of Flax as networks: padding, statistics, heads, and what is refused."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cls_jax.core.errors import InputError
from cls_jax.nets.base import Net
from cls_jax.nets.layers import BatchNorm as MaskedNorm
from cls_jax.nets.own import Always, as_net, check_own, extractor_of, maker_of
from cls_jax.nets.own_linen import net_from_linen
from cls_jax.nets.own_nnx import net_from_nnx

CLASSES, SIZE, ROWS = 3, 6, 5
KEY, X = jax.random.key(0), jax.random.normal(jax.random.key(1), (ROWS, SIZE))
VALID = jnp.array([True, True, False, True, False])
SHAPE = jax.ShapeDtypeStruct((ROWS, SIZE), jnp.float32)


class Trains(nn.Module):
    """As Flax's own guide has it."""

    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(nn.Dense(8)(x))
        return nn.Dense(CLASSES, name="head")(nn.relu(x))


class Averages(nn.Module):
    """The other word for it, and Dropout that is off."""

    def setup(self):
        self.drop, self.norm, self.head = nn.Dropout(0.5), nn.BatchNorm(), nn.Dense(CLASSES)

    def __call__(self, x, use_running_average=True):
        x = self.drop(x, deterministic=True)
        return self.head(self.norm(x, use_running_average=use_running_average))


class Own(nn.Module):
    """A norm of the library, which takes the valid rows itself."""

    @nn.compact
    def __call__(self, x, train, valid):
        return nn.Dense(CLASSES, name="head")(MaskedNorm()(x, train=train, valid=valid))


class Nnx(nnx.Module):
    """More layers than there are digits, whose numbers sort otherwise than as texts."""

    def __init__(self, *, rngs):
        self.layers = nnx.List([nnx.Linear(SIZE, SIZE, rngs=rngs) for _ in range(11)])
        self.norm = nnx.BatchNorm(SIZE, rngs=rngs)
        self.head = nnx.Linear(SIZE, CLASSES, rngs=rngs)

    def __call__(self, x):
        for layer in self.layers:
            x = x + nnx.relu(layer(x))
        return self.head(self.norm(x))


def make_nnx(rngs):
    return Nnx(rngs=rngs)


NETS = {
    "train": net_from_linen(Trains(), head="head"),
    "use_running_average": net_from_linen(Averages(), head="head"),
    "sequential": net_from_linen(
        nn.Sequential([nn.Dense(8), nn.BatchNorm(), nn.relu, nn.Dense(CLASSES)]), head="layers_3"
    ),
    "valid": net_from_linen(Own(), head="head"),
    "nnx": net_from_nnx(make_nnx, head="head"),
    "nnx module": net_from_nnx(make_nnx(nnx.Rngs(3)), head="head"),
}
every_net = pytest.mark.parametrize("name", NETS)


def assert_close(a, b):
    """To rounding; BatchNorm of a few rows takes it to 2e-6 (compiled quickly, AVX2 alone)."""
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=4e-6), a, b)


@every_net
def test_padded_rows_are_as_if_they_were_not_there(name):
    net = NETS[name]
    check_own(net, SHAPE, CLASSES)
    vars = net.init(KEY, X)
    step = jax.jit(lambda x, valid: net.apply(vars, x, train=True, valid=valid))
    padded = step(X.at[2].set(1e3).at[4].set(-7), VALID)
    logits, stats = net.apply(vars, X[VALID], train=True)
    assert_close((padded[0][VALID], padded[1]), (logits, stats))
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), stats, vars.stats)
    assert all(jax.tree.leaves(changed))
    assert len(jax.tree.leaves(changed)) == 2
    nothing, kept = step(X, jnp.zeros(ROWS, bool))
    assert np.isfinite(nothing).all()
    jax.tree.map(np.testing.assert_array_equal, kept, vars.stats)


@every_net
def test_an_answer_uses_the_running_statistics_and_its_own_row(name):
    net = NETS[name]
    vars = net.init(KEY, X)
    _, stats = net.apply(vars, 3 + X, train=True)
    vars = vars.replace(stats=stats)
    logits, after = net.apply(vars, X, train=False)
    alone, _ = net.apply(vars, X[:1], train=False)
    assert_close(logits[:1], alone)
    jax.tree.map(np.testing.assert_array_equal, after, stats)
    assert not np.allclose(logits, net.apply(vars, X, train=True)[0])


@every_net
def test_the_head_of_the_features_is_the_output(name):
    net = NETS[name]
    vars = net.init(KEY, X)
    features, _ = net.features(vars, X, train=False)
    head = vars.params[net.head]
    logits = net.apply(vars, X, train=False)[0]
    assert_close(features @ head["kernel"] + head["bias"], logits)
    extractor = extractor_of(net)
    bare = extractor.init(KEY, X)
    assert bare.params.keys() == vars.params.keys() - {net.head}
    seen, stats = extractor.apply(bare, X, train=True, valid=VALID)
    assert seen.features.shape == features.shape
    assert jax.tree.structure(stats) == jax.tree.structure(vars.stats)


def test_a_gradient_reaches_every_parameter():
    for name in ("train", "nnx"):
        net = NETS[name]
        vars = net.init(KEY, X)

        def loss(params, net=net, vars=vars):
            logits, _ = net.apply(vars.replace(params=params), X, train=True, valid=VALID)
            return (logits[:, 0] * VALID).sum() ** 2 + logits[0, 1] ** 3

        gradient = jax.grad(loss)(vars.params)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
        assert sum((np.asarray(leaf) != 0).any() for leaf in jax.tree.leaves(gradient)) >= 4


def test_of_nnx_a_function_draws_anew_and_a_module_stays():
    drawn, fixed = NETS["nnx"], NETS["nnx module"]
    kernel = lambda net, seed: net.init(jax.random.key(seed), X).params["head"]["kernel"]  # noqa: E731
    assert (kernel(drawn, 0) != kernel(drawn, 1)).any()
    np.testing.assert_array_equal(kernel(fixed, 0), kernel(fixed, 1))
    np.testing.assert_array_equal(kernel(fixed, 0), make_nnx(nnx.Rngs(3)).head.kernel[...])
    vars = drawn.init(KEY, X)
    assert [*vars.params["layers"]] == [str(number) for number in range(11)]
    model = make_nnx(nnx.Rngs(KEY))
    model.eval()
    assert_close(drawn.apply(vars, X, train=False)[0], model(X))


def test_equal_modules_are_equal_choices():
    first, second = maker_of(Trains(), CLASSES), maker_of(Trains(), CLASSES)
    assert first == second
    assert hash(first) == hash(second)
    listed = nn.Sequential([nn.Dense(CLASSES)])  # has no hash
    assert maker_of(listed, CLASSES) == maker_of(listed, CLASSES)
    assert hash(maker_of(listed, CLASSES)) == hash(maker_of(listed, CLASSES))
    assert maker_of(Trains(), CLASSES) != Always(Trains(), CLASSES + 1)
    with pytest.raises(InputError, match="Trains is one of 3 outputs, and this method asks for 7"):
        first(7)


# --- refused --------------------------------------------------------------------------------------


class Drops(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(CLASSES)(nn.Dropout(0.5, deterministic=not train)(x))


class Caches(nn.Module):
    @nn.compact
    def __call__(self, x):
        self.variable("cache", "last", jnp.zeros, ())
        return nn.Dense(CLASSES)(x)


class Counts(nn.Module):
    @nn.compact
    def __call__(self, x):
        mean = self.variable("batch_stats", "mean", jnp.zeros, (SIZE,))
        return nn.Dense(CLASSES)(x - mean.value)


class Forever(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(CLASSES)(nn.BatchNorm(use_running_average=False)(x))


class Mixes(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train)(x.reshape(-1, 2))
        return nn.Dense(CLASSES)(x.reshape(-1, SIZE))


class Asks(nn.Module):
    @nn.compact
    def __call__(self, x, temperature):
        return nn.Dense(CLASSES)(x) / temperature


class Pairs(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(CLASSES)(x), x


class Breaks(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x @ jnp.ones((SIZE + 1, CLASSES))


class NnxDrops(Nnx):
    def __init__(self, *, rngs):
        super().__init__(rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)


class NnxCaches(Nnx):
    def __init__(self, *, rngs):
        super().__init__(rngs=rngs)
        self.last = nnx.Cache(jnp.zeros(()))


class NnxCounts(Nnx):
    def __init__(self, *, rngs):
        super().__init__(rngs=rngs)
        self.seen = nnx.BatchStat(jnp.zeros(()))


REFUSED = {
    "dropout": (lambda: net_from_linen(Drops()), "net Drops draws at random, .* its Dropout out"),
    "collection": (lambda: net_from_linen(Caches()), "net Caches keeps the collection 'cache'"),
    "unmasked": (lambda: net_from_linen(Counts()), "Counts keeps the statistics mean without a m"),
    "always": (lambda: net_from_linen(Forever()), "Forever changes its statistics when it answers"),
    "mixed": (lambda: net_from_linen(Mixes()), "Mixes: BatchNorm_0 is shown 15 rows for a batch"),
    "words": (
        lambda: net_from_linen(Asks()),
        "net Asks: its __call__ wants 'temperature' beside x",
    ),
    "pair": (lambda: net_from_linen(Pairs()), "net Pairs gives tuple; it must give one array"),
    "breaks": (lambda: net_from_linen(Breaks()), r"net Breaks fails on x float32\[5, 6\]: dot_gen"),
    "outputs": (lambda: net_from_linen(nn.Dense(4)), r"net Dense gives \(5, 4\) .* give \[5, 3\]"),
    "class": (
        lambda: net_from_linen(Trains),
        "module is <class .*give a flax.linen module that is",
    ),
    "head": (
        lambda: net_from_linen(Trains(), head="last"),
        "the head 'last' with no parameters am",
    ),
    "other head": (
        lambda: net_from_linen(Trains(), head="Dense_0"),
        "'Dense_0' with .*name its la",
    ),
    "nnx dropout": (
        lambda: net_from_nnx(lambda rngs: NnxDrops(rngs=rngs)),
        "NnxDrops draws at ran",
    ),
    "nnx cache": (
        lambda: net_from_nnx(lambda rngs: NnxCaches(rngs=rngs)),
        "keeps last, of kind Ca",
    ),
    "nnx stats": (
        lambda: net_from_nnx(lambda rngs: NnxCounts(rngs=rngs)),
        "statistics seen withou",
    ),
    "nnx head": (lambda: net_from_nnx(make_nnx, head="norm"), "Nnx has no nnx.Linear named 'norm'"),
    "nnx none": (lambda: net_from_nnx(lambda rngs: 3), "module gives int; give an nnx module, or"),
    "own net": (
        lambda: Net(NETS["train"].init, lambda v, x, train, valid=None: (x[:, :3], {}), name="me"),
        "net me gives statistics of another form than its init",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_one_is_told_before_any_compute(name):
    make, why = REFUSED[name]
    with pytest.raises(InputError, match=why):
        check_own(make(), SHAPE, CLASSES)


def test_what_is_no_network_is_refused():
    with pytest.raises(InputError, match=r"net is 3; give a name, a module of flax.linen or nnx"):
        maker_of(3, CLASSES)
    with pytest.raises(
        InputError, match=r"net 'mine' gave None; give a module of flax.linen or nn"
    ):
        as_net(None, "mine")
    with pytest.raises(
        InputError, match=r"spb and ucir put .* net 'mine' names none; give its name"
    ):
        extractor_of(as_net(Trains(), "mine"))
