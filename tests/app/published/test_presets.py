"""Published settings and numbers: each cell resolves, builds, and names its sources."""

import numpy as np
import pytest

from cls_jax.app.published.ablations import ablations
from cls_jax.app.published.compare import read_published, standard_errors
from cls_jax.app.published.hyperparameters import GCIL, S_MNIST
from cls_jax.app.published.presets import (
    OURS,
    TABLES,
    cells,
    changed,
    gcil_cifar100,
    mir_cifar10,
    mnist_360,
    p_mnist,
    r_mnist,
    s_cifar10,
    s_mnist,
    s_tinyimagenet,
    settings,
)
from cls_jax.core.augment import recipe
from cls_jax.core.errors import InputError
from cls_jax.core.metrics import Summary
from cls_jax.methods import METHODS
from cls_jax.methods.problem import Problem
from cls_jax.nets.registry import networks


def test_every_cell_of_every_table_builds():
    shapes = {"mlp": (28, 28, 1), "resnet18": (32, 32, 3)}
    seen = 0
    for table in TABLES:
        for cell in cells(table):
            normalisation = cell.stream.normalisation
            augment = recipe(shapes[cell.net.net], normalisation=normalisation)
            method = METHODS[cell.method](
                Problem(networks(cell.net), augment, 10, 5), **cell.arguments
            )
            assert method.name == cell.method
            assert cell.arguments.get("memory_size", 0) == cell.memory_size
            seen += 1
    assert seen > 100


@pytest.mark.parametrize(
    ("cell", "hyper", "replay_size", "stream"),
    [
        (
            s_mnist("clser", 200),
            (0.03, 2, 0.9, 0.99, 1, 0.99),
            128,
            {"batch_size": 10},
        ),
        (s_mnist("clser", 5120), (0.1, 2, 0.8, 0.99, 1, 0.99), 32, {"drop_last": True}),
        (
            s_cifar10("clser", 500),
            (0.1, 0.15, 0.1, 0.999, 0.9, 0.999),
            32,
            {"epochs": 50},
        ),
        (
            s_tinyimagenet("clser", 500),
            (0.05, 0.1, 0.05, 0.999, 0.08, 0.999),
            32,
            {"epochs": 50, "tasks": 10},
        ),
        (
            p_mnist("clser", 5120),
            (0.2, 1, 0.9, 0.99, 1, 0.99),
            128,
            {"batch_size": 128},
        ),
        (r_mnist("clser", 500), (0.2, 0.75, 1, 0.999, 1, 0.99), 128, {"scenario": "rotated"}),
        (mnist_360("clser", 500), (0.2, 1.25, 0.9, 0.99, 1, 0.99), 32, {"batch_size": 16}),
        (gcil_cifar100("clser", 200), (0.1, 0.15, 0.6, 0.999, 0.7, 0.999), 32, {"epochs": 200}),
        (
            gcil_cifar100("clser", 1000, "longtail"),
            (0.1, 0.1, 0.6, 0.999, 0.8, 0.999),
            32,
            {"epochs": 100, "normalisation": "cifar10", "tasks": 20},
        ),
    ],
)
def test_clser_has_the_numbers_of_the_card(cell, hyper, replay_size, stream):
    names = ("learning_rate", "consistency_weight", "stable_rate", "stable_decay")
    names += ("plastic_rate", "plastic_decay")
    assert tuple(cell.arguments[name] for name in names) == hyper
    assert cell.arguments["replay_size"] == replay_size
    assert {name: getattr(cell.stream, name) for name in stream} == stream


@pytest.mark.parametrize(
    ("cell", "hyper"),
    [
        (s_cifar10("esmer", 50), (0.03, 0.15, 0.1, 0.9)),
        (s_cifar10("esmer", 200), (0.03, 0.15, 0.1, 1.2)),
        (s_cifar10("esmer", 5120), (0.03, 0.15, 0.1, 1.2)),
        (s_tinyimagenet("esmer", 500), (0.03, 0.15, 0.07, 1.0)),
        (gcil_cifar100("esmer", 200), (0.05, 0.2, 0.2, 2.5)),
        (gcil_cifar100("esmer", 100, "longtail"), (0.03, 0.2, 0.2, 3.0)),
    ],
)
def test_esmer_has_the_numbers_of_its_card_and_its_own_source(cell, hyper):
    names = ("learning_rate", "consistency_weight", "stable_rate", "loss_margin")
    assert tuple(cell.arguments[name] for name in names) == hyper
    names = ("stable_decay", "error_decay", "std_margin", "warmup_epochs", "replay_size")
    assert tuple(cell.arguments[name] for name in names) == (0.999, 0.99, 1, 1, 32)
    assert (cell.stream.epochs, cell.stream.batch_size) == (50, 32)
    assert "NeurAI-Lab/ESMER" in cell.source["method.loss_margin"] == cell.source["stream.epochs"]
    assert "CLS-ER" in cell.source["stream.batch_size"]


def test_er_mir_has_the_numbers_of_its_card_and_its_er_is_replay_by_chance():
    cell, plain = mir_cifar10("er_mir", 200), mir_cifar10("er", 200)
    names = ("learning_rate", "replay_size", "candidates", "best_loss", "exclude_current")
    assert tuple(cell.arguments[name] for name in names) == (0.1, 10, 50, False, True)
    assert (cell.stream.epochs, cell.stream.batch_size, cell.net.width) == (1, 10, 20)
    assert (plain.label, plain.method, plain.arguments["retrieval"]) == ("er", "er_mir", "random")
    chosen = {**plain.arguments, "retrieval": "interference"}
    assert plain._replace(label="er_mir", arguments=chosen, source=cell.source) == cell
    assert all("Maximally" in cell.source[name] for name in ("stream.epochs", "net"))
    assert "Maximally" in cell.source["method.candidates"]


def test_rivals_have_the_numbers_of_the_card():
    derpp = s_mnist("derpp", 5120)
    assert derpp.arguments["replay_size"] == 64
    assert (derpp.arguments["learning_rate"], derpp.arguments["logit_weight"]) == (0.1, 0.2)
    assert derpp.arguments["label_weight"] == 0.5
    assert s_mnist("er", 200).arguments["learning_rate"] == 0.01
    assert s_mnist("sgd").arguments["learning_rate"] == 0.03
    assert mnist_360("er", 1000).stream.batch_size == 4
    assert mnist_360("er", 500).stream.batch_size == 1
    assert s_tinyimagenet("er", 500).stream.epochs == 100
    assert r_mnist("derpp", 500).arguments["label_weight"] == 1


def test_what_the_published_code_multiplies_is_the_sum_of_squares():
    """Its wd_reg of 5e-4 is a weight decay of 1e-3, since the gradient of r w^2 is 2 r w."""
    for table in (s_mnist, s_cifar10, s_tinyimagenet):
        cell = table("lwf")
        assert cell.arguments["weight_decay"] == 2 * 5e-4
        assert "best_args" in cell.source["method.weight_decay"]
    assert s_cifar10("icarl", 200).arguments["l2_weight"] == 1e-5


def test_icarl_draws_enough_exemplars_and_mirrors_no_digit():
    """A step has batch * exemplars / task of them in expectation; of 5120, 16 beside 32."""
    for table, task in ((s_mnist, 11_263), (s_cifar10, 10_000), (s_tinyimagenet, 10_000)):
        cell = table("icarl", 5120)
        assert cell.arguments["replay_size"] >= cell.stream.batch_size * 5120 / task
        assert cell.arguments["mirror"] == (table is not s_mnist)
    assert "best_args" in s_mnist("icarl", 200).source["method.replay_size"]
    assert s_cifar10("icarl", 200).source["method.replay_size"] == OURS
    assert s_mnist("icarl", 200).source["method.mirror"] == OURS


def test_every_number_has_a_source():
    cell = s_mnist("clser", 500)
    assert cell.source["method.stable_rate"] == cell.source["method.replay_size"]
    assert "best_args" in cell.source["method.stable_rate"]
    assert cell.source["method.warmup"] == OURS
    for part, names in (("stream", vars(cell.stream)), ("method", cell.arguments)):
        for name in names:
            assert cell.source[f"{part}.{name}"], name
    ours = changed(cell, {"epochs": 2, "width": 8})
    assert (ours.stream.epochs, ours.net.width) == (2, 8)
    assert ours.source["stream.epochs"] == OURS
    assert "data_dir" not in settings(ours)["stream"]


def test_ablations_change_one_thing_each():
    whole, *others = ablations()
    assert whole == s_mnist("clser", 500)
    for cell in others[:2]:
        assert cell._replace(arguments=whole.arguments, label="clser") == whole
        assert cell.arguments.keys() == whole.arguments.keys()
        assert cell.arguments != whole.arguments
    labels = {cell.label for cell in ablations()}
    assert labels >= {"clser weight 0", "clser rates 1", "mean_er"}


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: cells("s_mist"), "table is 's_mist'; use one of s_mnist, p_mnist"),
        (lambda: cells("s_mnist", ["dualnet"]), "has no row 'dualnet'"),
        (
            lambda: cells("s_mnist", ["er"], [300]),
            "no er with memory_size=300; use one of 200",
        ),
        (lambda: s_mnist("sgd", 200), "sgd has no memory"),
    ],
)
def test_what_was_not_published_is_refused(call, sentence):
    with pytest.raises(InputError, match=sentence):
        call()


# --- published numbers ----------------------------------------------------------------------------


def test_published_numbers_are_well_formed_and_belong_to_cells():
    known = {}
    for entry in read_published():
        assert entry.trust in ("read at the source", "second hand")
        assert entry.source
        for value in (entry.class_il, entry.task_il):
            assert value is None or (0 < value[0] <= 100 and all(0 < std < 10 for std in value[1:]))
        assert (entry.average is None) == (entry.last is None)
        assert entry.class_il or entry.task_il or 0 < entry.last < entry.average < 100
        place = entry.table, entry.method, entry.memory_size, entry.view
        assert place not in known, "twice"
        known[place] = entry
        if entry.table in TABLES and entry.method != "mean_er":
            assert cells(
                entry.table, [entry.method], [entry.memory_size] if entry.memory_size else []
            )
    best = known["s_mnist", "clser", 500, "answer"]
    assert (best.class_il, best.task_il) == ([92.05, 0.32], [98.95, 0.10])
    grown = known["cifar100_10x10", "der_expandable", 2000, "answer"]
    assert (grown.average, grown.last) == (75.36, 65.22)


def test_distance_in_standard_errors_by_hand():
    """Ours 90 with std 2 over 4 (SE 1), theirs 88 with std 3 over 9 (SE 1): 2 / sqrt 2."""
    ours = Summary(mean=90.0, std=2.0, standard_error=1.0, n=4)
    np.testing.assert_allclose(standard_errors(ours, 88.0, 3.0, 9), 2**0.5)


def test_tables_have_all_published_buffers():
    assert list(S_MNIST["clser"]) == [200, 500, 5120]
    assert list(GCIL["longtail"]["clser"]) == [200, 500, 1000]
