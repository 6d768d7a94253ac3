"""Networks and data of one's own, given as objects: trained, saved under true names, found."""

import flax.linen as nn
import numpy as np
import pytest
from flax import nnx

import cls_jax as cls
from cls_jax.core import own
from cls_jax.core.errors import InputError
from cls_jax.methods.problem import Problem
from tests.support.ask import ask

CLASSES, SIZE = 6, 8
RNG = np.random.default_rng(0)
CENTRES = 3 * RNG.normal(size=(CLASSES, SIZE))
Y = np.repeat(np.arange(CLASSES), 12)
X = CENTRES[Y] + 0.3 * RNG.normal(size=(len(Y), SIZE))


class Mine(nn.Module):
    """With BatchNorm, as Flax's guide has it."""

    outputs: int = CLASSES

    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(nn.Dense(12)(x))
        return nn.Dense(self.outputs, name="head")(nn.relu(x))


class MineNnx(nnx.Module):
    """The same in nnx."""

    def __init__(self, *, rngs):
        self.first = nnx.Linear(SIZE, 12, rngs=rngs)
        self.norm = nnx.BatchNorm(12, momentum=0.9, rngs=rngs)
        self.head = nnx.Linear(12, CLASSES, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.norm(self.first(x))))


LINEN = cls.net_from_linen(Mine(), head="head")
NNX = cls.net_from_nnx(lambda rngs: MineNnx(rngs=rngs), head="head")


@pytest.fixture(scope="module")
def features():
    """Two tasks of 27 and 27 rows in batches of 10: the last of each is padded."""
    data = cls.Dataset.from_arrays(X, Y, test_fraction=0.25, name="features")
    return cls.class_il(data, tasks=2, batch_size=10, epochs=4)


@pytest.fixture
def registered():
    """Whatever a test registers is forgotten."""
    kept = dict(own.NETS)
    yield
    own.NETS.clear()
    own.NETS.update(kept)


@pytest.mark.more
@pytest.mark.parametrize("net", [LINEN, NNX])
def test_it_learns_and_is_found_again_by_its_name(net, features, registered, tmp_path):
    problem = cls.problem(features, net=net, normalisation="none")
    method = cls.er(problem, memory_size=30, replay_size=10)
    result = cls.train(method, features, workdir=tmp_path / "w")
    assert result.accuracy()[0, 0] > 0.6  # one task alone gives a half
    with pytest.raises(InputError, match=rf"net is '{net.name}'; .* registers it under this name"):
        cls.load(tmp_path / "w")

    def again(num_outputs):
        return net

    again.__name__ = net.name
    cls.net(again)
    saved = cls.load(tmp_path / "w")
    x, y = features.source.test
    logits = method.predict(result.states[0][0], x, None)
    np.testing.assert_allclose(saved.predict(x), logits, rtol=1e-5, atol=1e-5)
    assert cls.evaluate(saved, features)[0, 0].mean() == pytest.approx(
        (logits.argmax(1) == y).mean()
    )


HEADLESS = {
    "icarl": "icarl compares features, .* net 'Mine' names none; give its name as head",
    "der_expandable": "der_expandable joins features, .* net 'Mine' names none",
    "co2l": "co2l puts a projection on features, .* net 'Mine' names none",
    "lwf": "lwf trains the last layer by itself, and net 'Mine' names none",
    "apd": "apd gives each task a last layer of its own, and net 'Mine' names none",
    "frcl": "frcl gives each task a last layer of its own, and net 'Mine' names none",
    "l2_transfer": "l2_transfer gives each task .* net 'Mine' names none",
    "ucir": "spb and ucir put a cosine classifier .* net 'Mine' names none",
    "spb": "spb and ucir put a cosine classifier .* net 'Mine' names none",
    "dualnet": "net is 'Mine'; dualnet works on feature maps, use 'resnet18'",
    "den": "net is 'Mine' and den grows a perceptron; use 'mlp'",
    "supsup": "net Mine is one of 6 outputs, and this method asks for 100; give a function",
}


@pytest.mark.parametrize("name", HEADLESS)
def test_a_method_that_it_cannot_serve_names_both(name, features):
    problem = cls.problem(features, net=Mine())
    with pytest.raises(InputError, match=HEADLESS[name]):
        cls.METHODS[name](problem)


@pytest.mark.parametrize(
    "name",
    ["icarl", "lwf", "apd", "frcl", "l2_transfer", "ucir", "spb", "der_expandable"],
)
def test_with_its_head_named_it_serves_them(name, features):
    made = cls.METHODS[name](cls.problem(features, net=LINEN))
    assert made.name == name
    with pytest.raises(InputError, match=r"er_ace puts head 'cosine' .* net 'Mine' names none"):
        cls.er_ace(cls.problem(features, net=Mine()), head="cosine")


def test_a_function_of_the_outputs_serves_a_method_that_wants_more(features):
    cls.supsup(cls.problem(features, net=Mine), num_outputs=9)


def test_equal_modules_are_one_problem(features):
    assert cls.problem(features, net=Mine()) == cls.problem(features, net=Mine())
    assert cls.problem(features, net=Mine()) != cls.problem(features, net=LINEN)
    layers = nn.Sequential([nn.Dense(CLASSES)])
    assert cls.problem(features, net=layers) == cls.problem(features, net=layers)


class Stray(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(CLASSES)(x)


def test_a_name_means_one_network(features, registered):
    @cls.net
    def stray(num_outputs):
        return Stray()

    assert cls.problem(features, net=stray).networks == cls.problem(features, net="stray").networks
    with pytest.raises(InputError, match="net stray has the name of another network; give it one"):
        cls.problem(features, net=cls.net_from_linen(Stray())._replace(name="stray"))
    with pytest.raises(InputError, match="net mlp has the name of another network"):
        cls.problem(features, net=LINEN._replace(name="mlp"))
    own.NETS["mlp"] = stray
    with pytest.raises(InputError, match="the library has a network mlp; give yours another name"):
        cls.problem(features, net="mlp")


def test_sizes_are_of_the_librarys_networks(features):
    for sizes in ({"width": 8}, {"hidden": (3,)}, {"dtype": "bfloat16"}):
        with pytest.raises(InputError, match="but the network Mine is not the library's and has"):
            cls.problem(features, net=Mine(), **sizes)


def test_what_has_no_name_is_not_saved(features, tmp_path):
    unnamed = cls.problem(features, net=lambda num_outputs: Mine(num_outputs))
    with pytest.raises(InputError, match="network of er is called <lambda>, by which nobody finds"):
        cls.train(cls.er(unnamed), features, workdir=tmp_path / "w")
    by_hand = Problem(unnamed.networks, unnamed.augment, CLASSES, 2, (SIZE,))
    with pytest.raises(InputError, match=r"problem of er was made by hand; make it with cls\.prob"):
        cls.train(cls.er(by_hand), features, workdir=tmp_path / "w")
    assert not (tmp_path / "w").exists()


# --- features of another network, as a file -------------------------------------------------------


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A file as the how-to makes it."""
    file = tmp_path_factory.mktemp("features") / "features.npz"
    x = np.float32(X)
    np.savez(file, train_x=x[::2], train_y=Y[::2], test_x=x[1::2], test_y=Y[1::2])
    return file


@pytest.mark.more
def test_features_from_the_command_line(archive, tmp_path):
    """A linear network on float vectors, saved, scored again and asked."""
    words = f"run derpp --data npz:{archive} --tasks 2 --net mlp --hidden --normalisation none"
    sizes = "--memory-size 20 --replay-size 10 --epochs 4 --learning-rate 0.03"
    workdir = "--workdir", str(tmp_path / "w")
    code, _, err = ask("cls-jax", *words.split(), *sizes.split(), *workdir)
    assert code == 0, err
    saved = cls.load(tmp_path / "w")
    assert saved.state.memory.slots["x"].dtype == np.float32
    assert saved.state.model.vars.params.keys() == {"fc1"}
    data = cls.load_data(f"npz:{archive}")
    assert (saved.predict(data.test.x).argmax(1) == data.test.y).mean() > 0.8
    rows = {tuple(row) for row in np.asarray(saved.state.memory.slots["x"])}
    assert rows <= {tuple(row) for row in data.train.x}
    code, _, err = ask("cls-jax", "evaluate", str(tmp_path / "w"))
    assert code == 0, err


@pytest.mark.parametrize("net", ["resnet18", "vit"])
def test_a_network_of_images_takes_no_features(archive, net):
    words = f"run er --data npz:{archive} --tasks 2 --net {net}"
    code, _, err = ask("cls-jax", *words.split())
    assert code == 2
    assert "holds vectors, not images; use --net mlp, and a method that takes it" in err


def test_flags_of_sizes_are_not_of_a_network_of_ones_own(archive, registered):
    @cls.net
    def stray(num_outputs):
        return Stray()

    words = f"run er --data npz:{archive} --tasks 2 --net stray --width 3"
    code, _, err = ask("cls-jax", *words.split())
    assert code == 2
    assert "width is 3, which changes nothing: stray is a network of your own" in err
