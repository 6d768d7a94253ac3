"""Every flag that is typed acts, or is refused; what no machine can hold is refused at once."""

import csv
import json
import runpy
import sys
from pathlib import Path

import pytest

from cls_jax.app.build import StreamConfig, make_learner, make_stream
from cls_jax.app.flags import parse
from cls_jax.app.grid import grid
from cls_jax.app.main import check_execution
from cls_jax.app.run_config import RunConfig
from cls_jax.core.errors import InputError
from cls_jax.core.host_memory import check_schedule
from cls_jax.nets.registry import NetConfig
from cls_jax.training.runtime import distributed as processes

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
SMALL = "--image-size 8 --net mlp --hidden 8"


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """Runs a script's command line in this process: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(processes, "cache_programs", lambda: None)
    monkeypatch.setattr("cls_jax.app.main.cache_programs", lambda: None)

    def run(script, line):
        path = EXPERIMENTS / f"{script}.py"
        monkeypatch.syspath_prepend(str(path.parent))
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *line.split()])
        code = 0
        try:
            runpy.run_path(str(path), run_name="__main__")
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return run


REFUSED = {
    "two memory sizes": (
        "compare",
        f"{SMALL} --methods er --memory-size 30 --er.memory-size 20",
        "not both",
    ),
    "another method's flag": (
        "compare",
        f"{SMALL} --methods sgd --er.memory-size 20",
        "--er.memory-size changes nothing",
    ),
    "no memory": ("compare", f"{SMALL} --methods sgd joint --memory-size 20", "has no memory"),
    "an optimizer that two do not take": (
        "compare",
        f"{SMALL} --methods sgd lwf er gdumb --optimizer adamw --clip-norm 1",
        "optimizer is adamw, clip_norm is 1.0, but lwf, gdumb have their own optimizers",
    ),
    "an optimizer of another": ("dualnet_cifar", "--optimizer adamw", "dualnet has its own"),
    "no optimizer": ("clser_mnist", "--optimizer adm", "optimizer is 'adm'; use sgd, adam, adamw"),
    "momentum of adam": ("clser_mnist", "--optimizer adam --momentum 0.9", "adam takes none"),
    "methods twice": ("compare", "--methods sgd sgd", "name each once"),
    "no methods": ("compare", "--methods", "methods is empty"),
    "a flag twice": ("clser_mnist", "--epochs 1 --epochs 2", "--epochs is given 2 times"),
    "both ways": ("clser_mnist", "--drop-last --no-drop-last", "--drop-last is given 2 times"),
    "width of a perceptron": ("clser_mnist", "--width 8", "width is 8, which changes nothing"),
    "layers of a ResNet": ("clser_cifar", "--hidden 8", "hidden is (8,), which changes nothing"),
    "views": ("clser_mnist", "--view-padding 2", "takes no self-supervised views"),
    "views of spb": ("spb_cifar", "--variants spb --view-flip", "takes no self-supervised views"),
    "a folder of bundled data": (
        "clser_mnist",
        "--data-dir sets",
        "data digits does not lie there",
    ),
    "saving nowhere": ("clser_mnist", "--save-every 5m", "save_every is 5m, but nothing is saved"),
    "keeping nowhere": ("clser_mnist", "--keep 3", "keep is 3, but nothing is saved"),
    "one seed side by side": ("clser_mnist", "--over-seeds vmap", "is one run"),
    "profile into a file": ("clser_mnist", "--profile taken", "is a file"),
    "profile nowhere": ("clser_mnist", "--profile=", 'profile is ""; give a path'),
    "sweep of equal numbers": ("clser_mnist", "--sweep stable_rate 1 1.0", "equals another"),
    "sweep of equal float32": (
        "clser_mnist",
        "--sweep stable_rate 0.5 0.5000000001",
        "equals another",
    ),
    "a field twice": (
        "clser_mnist",
        "--sweep stable_rate 1 --sweep stable_rate 0.5",
        "name each argument once",
    ),
    "sweep of no choice": ("clser_mnist", "--sweep warmup never", "give steps, updates"),
    "sweep of no whole number": ("clser_mnist", "--sweep memory_size 20.5", "give whole numbers"),
    "controls of a sweep": ("den_mnist", "--controls --sweep l1_weight 0 1", "leave --controls"),
    "no variants": ("apd_cifar", "--variants", "variants is empty"),
    "variants twice": ("apd_cifar", "--variants APD(1) APD(1)", "name each once"),
    "an order of orders": ("apd_cifar", "--task-order shuffled", "--orders has them"),
    "APD's flag without APD": (
        "apd_cifar",
        "--variants APD-Fixed --consolidate-every 2",
        "consolidate_every is 2, which changes nothing",
    ),
    "spb twice": ("spb_cifar", "--variants spb spb", "name each once"),
    "no spb": ("spb_cifar", "--variants", "variants is empty"),
    "UCIR's flag without UCIR": (
        "spb_cifar",
        "--variants spb --ucir.hardest 3",
        "ucir.hardest is 3, which changes nothing",
    ),
    "SPB's flag without SPB": ("spb_cifar", "--variants ucir --decays 3", "decays is (3,), which"),
    "a variant's own value": (
        "spb_cifar",
        "--variants ucir_no_exemplars --ucir.exemplars-per-class 3",
        "ucir.exemplars_per_class is 3, which",
    ),
    "epochs of base epochs": ("spb_cifar", "--variants joint --epochs 3", "epochs is 3, which"),
    "inferences twice": (
        "supsup_mnist",
        "--inferences one_shot:H:1:1 one_shot:H:1:1",
        "name each once",
    ),
    "not offered: DualNet's net": ("dualnet_cifar", "--net mlp", "--net"),
    "not offered: a published sweep": ("reproduce", "--sweep stable_rate 1 2", "--sweep"),
    "no ablation": ("reproduce", "s_mnist_ablations --methods zzz", "has no row 'zzz'"),
    "size of an ablation": ("reproduce", "s_mnist_ablations --memory-sizes 200", "has 500 alone"),
    "rows twice": ("reproduce", "s_mnist --methods er er", "name each once"),
    "sizes of none": ("reproduce", "s_mnist --methods sgd --memory-sizes 200", "has no memory"),
    "width of a table": ("reproduce", "s_mnist --data digits --width 8", "is of a perceptron"),
    "replay 0": ("benchmark/run", "--method er --replay-size 0", "replay_size is 0"),
    "memory 0": ("benchmark/run", "--method er --memory-size 0", "memory_size is 0"),
    "replay of none": ("benchmark/run", "--method sgd --replay-size 3", "replay_size is 3, which"),
    "seeds of none": (
        "benchmark/run",
        "--over-seeds sequential",
        "over_seeds is sequential, which",
    ),
    "benchmark's width": ("benchmark/run", "--net mlp --width 4", "width is 4, which"),
    "json is a folder": ("benchmark/run", "--json .", "is a folder"),
    "trace of nothing": ("benchmark/trace_profile", ". --top 0", "top is 0"),
    "workloads twice": ("benchmark/table", "--workloads sgd/mlp/2 sgd/mlp/2", "each once"),
    "minutes": ("benchmark/table", "--minutes -1", "minutes is -1"),
    "no script": ("benchmark/saving", "--json a.json -- nowhere.py", "the script is nowhere.py"),
    # Numbers that no machine can hold.
    "epochs": ("clser_mnist", "--epochs 1000000000", "epochs 1000000000 of 1435 examples needs"),
    "base epochs": ("spb_cifar", "--base-epochs 1000000000", "base_epochs 1000000000 of"),
    "tasks": ("supsup_mnist", "--tasks 1000000000", "tasks 1000000000 of"),
    "phase": (
        "clser_mnist",
        "--scenario gcil --samples-per-phase 1000000000",
        "samples_per_phase 1000000000 of",
    ),
    "head epochs": ("den_mnist", "--head-epochs 1000000000", "head_epochs 1000000000 of"),
    "slots": ("clser_mnist", "--memory-size 2000000000", "memory_size 2000000000 of clser needs"),
    "slots beyond int32": ("clser_mnist", "--memory-size 1000000000000", "below 2**31"),
    "a swept size": (
        "clser_mnist",
        "--sweep memory_size 200 1000000000000",
        "memory_size is 1000000000000",
    ),
    "slots of one of several": (
        "compare",
        f"{SMALL} --methods sgd er --er.memory-size 2000000000",
        "memory_size 2000000000 of er needs",
    ),
    "units": ("clser_mnist", "--hidden 1000000000", "hidden 1000000000 of clser needs"),
    "channels": ("dualnet_cifar", "--width 1000000", "width 1000000 of dualnet needs"),
    "pixels": ("clser_mnist", "--image-size 4096", "1797 scans of digits are enlarged, needs"),
    "steps": ("clser_mnist", "--chunk 100000000000000000000", "below 2**31"),
    "chunk": ("clser_mnist", "--chunk 2000000000", "chunk 2000000000 needs"),
    "seeds": ("clser_mnist", "--seeds 100000000000000000000", "seeds holds 1000"),
    "batch of a benchmark": (
        "benchmark/run",
        "--batch-size 100000000",
        "batch_size 100000000 needs",
    ),
    "turns of a benchmark": ("benchmark/run", "--net mlp --turns 2000000000", "turns "),
    **{
        f"rate {value}": ("clser_mnist", f"--learning-rate {value}", "give a finite number")
        for value in ("1e39", "-1e39", "inf", "-inf", "nan", "1e-60")
    },
    "a rate below 0": ("clser_mnist", "--learning-rate -1", "learning_rate is -1.0"),
    "minutes nan": ("benchmark/table", "--cell-minutes nan", "cell_minutes is nan"),
    # Waits.
    "no port": ("clser_mnist", "--coordinator here", "give HOST:PORT"),
    "a page": ("clser_mnist", "--coordinator http://here:1", "give HOST:PORT"),
    "a large port": (
        "clser_mnist",
        "--coordinator localhost:99999 --num-processes 2 --process-id 0",
        "from 1 to 65535",
    ),
    "found out twice": (
        "clser_mnist",
        "--coordinator auto --num-processes 2 --process-id 0",
        "leave them out",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_do_nothing_or_fits_nowhere_is_one_sentence(call, name, tmp_path):
    script, line, expected = REFUSED[name]
    (tmp_path / "taken").write_text("")
    code, out, err = call(script, line)
    assert code == 2, err
    assert expected in err
    assert out == ""
    assert "not offered" in name or err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["taken"], "something was written"


def test_minus_zero_is_zero():
    """-0 is 0: a rate of nothing, which is allowed."""
    config = parse(StreamConfig, {"": StreamConfig()}, default_preset="", argv=["--blur", "-0"])
    assert config.blur == 0


def test_the_coordinator_that_nobody_answers_for_is_told_in_time(monkeypatch):
    monkeypatch.setattr(processes, "WAIT_SECONDS", 0)
    with pytest.raises(InputError, match=r"localhost:9, where nothing answered for 0 seconds"):
        processes.initialize("localhost:9", 2, 1)


@pytest.fixture(scope="module")
def learner():
    plan = StreamConfig(image_size=8)
    return make_learner("er", {}, make_stream(plan), plan, NetConfig(net="mlp", hidden=(8,)))


def test_a_sweep_over_several_fields_is_a_grid(learner):
    """Hyper-parameters side by side in one program, what fixes a program a learner each."""
    asked = ("learning_rate", "0.1", "1e-2"), ("memory_size", "40", "60")
    found = grid(learner, asked)
    assert [one.method.name for one, _ in found] == ["er memory_size=40", "er memory_size=60"]
    assert [one.recipe["arguments"]["memory_size"] for one, _ in found] == [40, 60]
    for _, hypers in found:
        rates = {label: hyper["learning_rate"] for label, hyper in hypers.items()}
        assert rates == {"learning_rate=0.1": 0.1, "learning_rate=1e-2": 0.01}
    ((same, hypers),) = grid(learner, ())
    assert same is learner
    assert hypers == {"": learner.method.hyper}


def test_labels_of_a_grid_tell_all_values():
    plan = StreamConfig(image_size=8)
    given = {}, make_stream(plan), plan, NetConfig(net="mlp", hidden=(8,))
    axes = ("stable_rate", "0.5", "1"), ("plastic_rate", "0.5")
    ((_, hypers),) = grid(make_learner("clser", *given), axes)
    assert list(hypers) == ["stable_rate=0.5 plastic_rate=0.5", "stable_rate=1 plastic_rate=0.5"]
    assert hypers["stable_rate=1 plastic_rate=0.5"]["stable_rate"] == 1


def test_two_learners_of_one_name_are_refused(learner):
    with pytest.raises(InputError, match="er is asked for more than once"):
        check_execution([learner, learner], RunConfig())


def test_compare_takes_the_memory_of_one_method(call, monkeypatch):
    """--er.memory-size acts alone, and --memory-size acts for all."""
    seen = {}

    def execute(learners, run, config):
        seen.update({one.recipe["method"]: one.recipe["arguments"] for one in learners})
        raise InputError("enough")

    monkeypatch.setattr("cls_jax.app.main.execute", execute)
    call("compare", f"{SMALL} --methods er clser --er.memory-size 20")
    assert (seen["er"]["memory_size"], seen["clser"]["memory_size"]) == (20, 250)
    call("compare", f"{SMALL} --methods er clser --memory-size 40")
    assert (seen["er"]["memory_size"], seen["clser"]["memory_size"]) == (40, 40)


def test_help_offers_nothing_that_is_always_refused(call):
    code, out, _ = call("dualnet_cifar", "--help")
    assert code == 0
    assert "--width" in out
    assert "--net" not in out
    assert "--hidden" not in out
    assert "--sweep" not in call("reproduce", "--help")[1]
    assert "--sweep" in call("clser_mnist", "--help")[1]


def test_seconds_are_not_spent_on_what_fits(learner):
    check_schedule("epochs", 500, 60_000)
    check_execution([learner], RunConfig(seeds=(0, 1), over_seeds="vmap"))


def test_losses_of_trials_are_their_own(call, tmp_path):
    """A real sweep: a rate of 0 keeps its loss where the other's falls; grid files by label."""
    line = f"{SMALL} --methods sgd --epochs 4 --sweep learning_rate 0 0.1 --seeds 0 1"
    code, out, err = call("compare", f"{line} --batch-size 50 --workdir out --log csv")
    assert code == 0, err
    assert "sgd learning_rate=0.1" in out
    with open(tmp_path / "out" / "losses.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    last = {value: {} for value in ("learning_rate=0", "learning_rate=0.1")}
    for row in rows:
        last[row["value"]][row["seed"]] = float(row["mean"])
    assert [[*of] for of in last.values()] == [["0", "1"]] * 2
    still, learned = (of.values() for of in last.values())
    assert min(still) > max(learned)
    assert json.loads((tmp_path / "out" / "config.json").read_text())
