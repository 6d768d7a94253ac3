"""Saved runs: the bits come back, from any segment and grouping; torn and full disks are told."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls_jax.core.errors import InputError, SaveFailed, Stopped
from cls_jax.streams.class_il import class_il
from cls_jax.training.plan import Plan
from cls_jax.training.runner import run, sweep
from cls_jax.training.runtime import checkpoint
from cls_jax.training.runtime.checkpoint import (
    Checkpoints,
    Interval,
    check_saves,
    fingerprint,
    interval,
)
from cls_jax.training.runtime.preemption import StopFlag
from cls_jax.training.runtime.saves import literal, read_trials, saves_of
from cls_jax.training.segments import NoCheckpoints
from tests.conftest import TASKS
from tests.support.methods import exchanged
from tests.training.test_runner import flat_method, uneven_source

ALWAYS = Interval(steps=1)


@pytest.fixture(scope="module")
def uneven():
    return class_il(uneven_source(), tasks=TASKS, batch_size=4, epochs=2)


class After(Checkpoints):
    """Is asked to stop at the ``number``-th maybe_save."""

    def __init__(self, folder, number, every=ALWAYS, last=2):
        super().__init__(folder, "it", every=every, last=last, wish=StopFlag())
        self.left = number

    def maybe_save(self, *args):
        self.left -= 1
        if self.left == 0:
            self.wish.signal = 15
        super().maybe_save(*args)


SMALL = (Plan(chunk=3),)


def stopped_runs(folder, number, every=ALWAYS, plans=SMALL, **how):
    """Runs from stop to stop, each life ``number`` offers long, over ``plans`` in turn."""
    lives = 0
    while True:
        keep = After(folder, number, every)
        try:
            return lives, sweep(keep=keep, plan=plans[lives % len(plans)], **how)
        except Stopped:
            lives += 1
            assert lives < 200


LATER = "gdumb", "ewc_online", "icarl", "joint"
"""Methods with second phases and boundaries, stopped in the slow part."""
every_harm = pytest.mark.parametrize(
    "how", ["cut", *(pytest.param(how, marks=pytest.mark.more) for how in ("lost", "flipped"))]
)


def assert_same(one, other):
    """Bit for bit, every leaf of every state and the matrices."""
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a.matrix, b.matrix)
        for x, y in zip(a.states, b.states, strict=True):
            assert fingerprint(x) == fingerprint(y)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("sgd", 1),
        ("clser", 5),
        *(pytest.param(name, 5, marks=pytest.mark.more) for name in LATER),
    ],
)
def test_a_run_stopped_again_and_again_is_the_run_that_was_not(tmp_path, uneven, name, number):
    method = flat_method(name, **({"cutmix": False} if name == "gdumb" else {}))
    how = {"method": method, "stream": uneven, "hypers": [{}], "seeds": (4,)}
    lives, found = stopped_runs(tmp_path, number, **how)
    assert lives >= 2
    assert_same(found, sweep(**how, plan=Plan(chunk=5)))


@pytest.mark.parametrize("over_seeds", ["vmap", pytest.param("sequential", marks=pytest.mark.more)])
def test_all_trials_of_a_sweep_come_back(tmp_path, uneven, over_seeds):
    method = flat_method("er")
    hypers = [{}, {"learning_rate": 0.01}]
    how = {"method": method, "stream": uneven, "hypers": hypers, "seeds": (1, 2)}
    plan = Plan(chunk=4, over_seeds=over_seeds)
    lives, found = stopped_runs(tmp_path, 11, plans=(plan,), **how)
    assert lives >= 1
    assert_same(found, sweep(**how, plan=plan))


@pytest.mark.more
def test_trials_go_on_grouped_in_another_way(tmp_path, uneven):
    method = flat_method("er")
    how = {"method": method, "stream": uneven, "hypers": [{}], "seeds": (1, 2, 3)}
    plans = [Plan(chunk=4, over_seeds=over) for over in ("vmap", "sequential")]
    lives, found = stopped_runs(tmp_path, 6, plans=plans, **how)
    assert lives > 2
    (whole,) = sweep(**how, plan=plans[1])
    for a, b in zip(found[0].states, whole.states, strict=True):
        jax.tree.map(np.testing.assert_array_equal, a.memory.slots, b.memory.slots)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-4, atol=2e-5), a, b)


def test_a_finished_run_is_read_not_repeated(tmp_path, uneven, capsys):
    method = flat_method("sgd")
    first = run(method, uneven, keep=After(tmp_path, 0))

    def never(*args):
        raise AssertionError("a step was made")

    idle = exchanged(method, step=never)
    second = run(idle, uneven, keep=After(tmp_path, 0))
    assert_same([first], [second])
    assert second.seconds == pytest.approx(first.seconds, rel=0.2)
    assert "it is finished in" in capsys.readouterr().err


def test_a_resumed_run_compiles_no_program_of_its_own(tmp_path, uneven, monkeypatch):
    """Its states are bound to no device, as those of a newborn run."""
    method = flat_method("clser")
    with pytest.raises(Stopped):
        run(method, uneven, keep=After(tmp_path, 4), plan=Plan(chunk=2))
    resumed = run(method, uneven, keep=After(tmp_path, 0), plan=Plan(chunk=2))
    fresh = run(method, uneven, plan=Plan(chunk=2))
    bound = lambda result: {leaf.committed for leaf in jax.tree.leaves(result.states[0])}  # noqa: E731
    assert bound(resumed) == bound(fresh) == {False}


def test_only_the_last_few_stay_and_never_is_only_the_end(tmp_path, uneven):
    method = flat_method("sgd")
    run(method, uneven, keep=After(tmp_path / "a", 0, last=3), plan=Plan(chunk=2))
    assert len([p for p in (tmp_path / "a" / "seed0").iterdir() if p.name.isdigit()]) == 3
    run(method, uneven, keep=After(tmp_path / "b", 0, every=interval("never")))
    assert [p.name for p in (tmp_path / "b" / "seed0").iterdir()] == ["1"]


def test_steps_count_anew_for_every_seed(tmp_path, uneven):
    method = flat_method("sgd")
    keep = After(tmp_path, 0, every=Interval(steps=4), last=99)
    plan = Plan(chunk=2, over_seeds="sequential")
    run(method, uneven, seeds=(4, 5, 6), keep=keep, plan=plan)
    saves = [len([p for p in path.iterdir() if p.name.isdigit()]) for path in tmp_path.iterdir()]
    assert len(saves) == 3
    assert min(saves) > 3


def broken(path, how):
    """Damages one checkpoint's largest file."""
    victim = max((p for p in path.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(victim.read_bytes())
    if how == "cut":
        victim.write_bytes(content[: len(content) // 2])
    elif how == "lost":
        victim.unlink()
    else:
        content[len(content) // 2] ^= 0xFF
        victim.write_bytes(content)


@every_harm
def test_a_torn_checkpoint_gives_way_to_the_one_before(tmp_path, uneven, capsys, how):
    method = flat_method("clser")
    with pytest.raises(Stopped):
        run(method, uneven, keep=After(tmp_path, 8), plan=Plan(chunk=2))
    newest = max((tmp_path / "seed0").iterdir(), key=lambda p: int(p.name))
    broken(newest, how)
    resumed = run(method, uneven, keep=After(tmp_path, 0), plan=Plan(chunk=2))
    text = capsys.readouterr().err
    assert f"warning: checkpoint seed0/{newest.name} cannot be read" in text
    assert "it goes on from" in text
    assert_same([resumed], [run(method, uneven, plan=Plan(chunk=2))])


def test_where_nothing_can_be_read_nothing_begins_anew(tmp_path, uneven, capsys):
    method = flat_method("sgd")
    with pytest.raises(Stopped):
        run(method, uneven, keep=After(tmp_path, 3, every=interval("never")))
    broken(tmp_path / "seed0" / "1", "lost")
    before = sorted(tmp_path.rglob("*"))
    expected = r"has saves of seed0, but none can be read \(.*\); .* only --restart begins anew"
    with pytest.raises(InputError, match=expected):
        run(method, uneven, keep=After(tmp_path, 0))
    assert sorted(tmp_path.rglob("*")) == before
    assert "there is none before it" in capsys.readouterr().err


@pytest.mark.more
def test_trials_that_are_whole_in_another_group_go_on(tmp_path, uneven, capsys):
    method = flat_method("sgd")
    how = {"method": method, "stream": uneven, "hypers": [{}], "seeds": (1, 2)}
    plans = [Plan(chunk=4, over_seeds=over) for over in ("vmap", "sequential")]
    with pytest.raises(Stopped):
        sweep(**how, plan=plans[0], keep=After(tmp_path, 5))
    sweep(**how, plan=plans[1], keep=After(tmp_path, 0))
    for save in (tmp_path / "seed1+seed2").iterdir():
        shutil.rmtree(save / "about")
    sweep(**how, plan=plans[1], keep=After(tmp_path, 0))
    text = capsys.readouterr().err
    assert "it is finished in" in text
    assert "warning: checkpoint seed1+seed2/" in text
    shutil.rmtree(tmp_path / "seed2")
    with pytest.raises(InputError, match="has saves of seed2, but none can be read"):
        sweep(**how, plan=plans[1], keep=After(tmp_path, 0))


class Saved:
    """Two saves of a run, to be harmed: their folder, one trial as shapes, and what they hold."""

    def __init__(self, folder, method, stream):
        keep, restore = After(folder / "m", 5), Checkpoints.restore

        def noted(names, like):
            self.like = like
            return restore(keep, names, like)

        keep.restore = noted
        with pytest.raises(Stopped):
            run(method, stream, keep=keep, plan=Plan(chunk=2))
        self.folder = folder
        self.newest, before = saves_of(folder / "m" / "seed0")
        self.newer = self.read(folder)
        lost = self.copy(folder / "before")
        shutil.rmtree(lost / "m" / "seed0" / str(self.newest))
        self.older = self.read(lost)
        assert before == self.newest - 1
        assert self.older != self.newer

    def copy(self, folder):
        shutil.copytree(self.folder / "m", folder / "m")
        return folder

    def read(self, folder):
        (one,) = read_trials(folder / "m", self.like).kept.values()
        return one.place, fingerprint(one.run)


@pytest.fixture(scope="module")
def saved(tmp_path_factory, uneven):
    return Saved(tmp_path_factory.mktemp("saved"), flat_method("sgd"), uneven)


def changed_words(change):
    """Harms a save in its words."""

    def harm(save):
        path = save / "about" / "metadata"
        words = json.loads(path.read_text())
        change(words)
        path.write_text(json.dumps(words))

    return harm


HARMS = {
    "a digit of the place": changed_words(lambda w: w["place"].__setitem__(2, w["place"][2] + 2)),
    "a place of another type": changed_words(lambda w: w.update(place=[*map(float, w["place"])])),
    "another trial": changed_words(lambda w: w.update(trials=["seed1"])),
    "more trials": changed_words(lambda w: w["trials"].append("seed1")),
    "what it cost": changed_words(lambda w: w["meter"].__setitem__(1, w["meter"][1] + 1)),
    "stacked": changed_words(lambda w: w.update(stacked=True)),
    "fingerprint": changed_words(lambda w: w.update(fingerprint="0" * 32)),
    "no place": changed_words(lambda w: w.pop("place")),
    "no digest": changed_words(lambda w: w.pop("digest")),
    "something more": changed_words(lambda w: w.update(more=1)),
    "no words": lambda save: (save / "about" / "metadata").write_text("[]"),
    "words cut": lambda save: (save / "about" / "metadata").write_text('{"place": ['),
    "words gone": lambda save: shutil.rmtree(save / "about"),
    "run gone": lambda save: shutil.rmtree(save / "run"),
    "all gone": lambda save: [shutil.rmtree(path) for path in save.iterdir() if path.is_dir()],
    "another number": lambda save: save.rename(save.with_name("99")),
}
QUICK = ("a digit of the place", "fingerprint", "words cut", "run gone")


@pytest.mark.parametrize(
    "what",
    [what if what in QUICK else pytest.param(what, marks=pytest.mark.more) for what in HARMS],
)
def test_whatever_of_a_save_does_not_agree_is_told(tmp_path, saved, capfd, what):
    folder = saved.copy(tmp_path)
    HARMS[what](folder / "m" / "seed0" / str(saved.newest))
    assert saved.read(folder) == saved.older
    (text,) = capfd.readouterr().err.splitlines()
    assert text.startswith("warning: checkpoint seed0/")
    assert text.endswith("); the one before is taken")


@pytest.mark.more
def test_a_save_of_another_method_or_trial_is_not_taken(tmp_path, saved, capfd):
    folder = saved.copy(tmp_path)
    (folder / "m").rename(folder / "n")
    found = read_trials(folder / "n", saved.like)
    assert found.kept == {}
    assert found.lost == {
        "seed0": f"it is save m/seed0/{saved.newest - 1}, put here by someone else"
    }
    (folder / "n").rename(folder / "m")
    (folder / "m" / "seed0").rename(folder / "m" / "seed1")
    assert read_trials(folder / "m", saved.like).why_lost("seed1") is not None
    assert read_trials(folder / "m", saved.like).why_lost("seed2") is None


@every_harm
def test_every_file_of_a_save_is_whole_or_told_or_without_effect(tmp_path, saved, capfd, how):
    """What comes back is the newest save to the bit, or the one before with one line on stderr."""
    newest = saved.folder / "m" / "seed0" / str(saved.newest)
    files = [p.relative_to(newest) for p in sorted(newest.rglob("*")) if p.is_file()]
    count = 0
    for number, file in enumerate(files):
        folder = saved.copy(tmp_path / str(number))
        victim = folder / "m" / "seed0" / str(saved.newest) / file
        content = bytearray(victim.read_bytes())
        content[len(content) // 2] ^= 0x01
        victim.write_bytes(content if how == "flipped" else content[: len(content) // 2])
        if how == "lost":
            victim.unlink()
        found, lines = saved.read(folder), capfd.readouterr().err.splitlines()
        assert len(lines) == (found == saved.older), (file, lines)
        assert found in (saved.newer, saved.older), file
        count += len(lines)
    assert count >= 4


def test_what_is_beside_the_saves_is_let_be(tmp_path, saved, capfd):
    folder = saved.copy(tmp_path)
    group = folder / "m" / "seed0"
    shutil.copytree(group / str(saved.newest), group / f"{saved.newest} (copy)")
    shutil.copytree(group, folder / "m" / "seed0 (copy)")
    for name in ("abc", "007", "-3", ".hidden"):
        (group / name).mkdir()
    (group / "12").write_text("a file")
    (folder / "m" / "seed5").mkdir()
    assert saved.read(folder) == saved.newer
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["proj [a]", "{x,y} 100% $HOME #1 [!z]"])
def test_a_path_is_no_pattern(tmp_path, uneven, capfd, name):
    """Orbax looks for what it wrote with the path as a pattern: [a] would be an a."""
    method = flat_method("sgd")
    folder = tmp_path / name / "m"
    with pytest.raises(Stopped):
        run(method, uneven, keep=After(folder, 4), plan=Plan(chunk=2))
    resumed = run(method, uneven, keep=After(folder, 0), plan=Plan(chunk=2))
    assert "it goes on from" in (text := capfd.readouterr().err)
    assert "warning" not in text
    assert_same([resumed], [run(method, uneven, plan=Plan(chunk=2))])


def test_no_folder_is_a_cloud():
    """To orbax /s3/a is s3://a."""
    assert [os.fspath(literal(Path(f"/{name}/a"))) for name in ("s3", "gs", "hf", "b")] == [
        "/s3/a", "/gs/a", "/hf/a", "/b/a",
    ]  # fmt: skip


def test_the_first_save_is_read_back_before_it_counts(tmp_path, uneven, monkeypatch):
    def torn(*args):
        raise ValueError("NOT_FOUND: it is not there")

    monkeypatch.setattr(checkpoint, "read", torn)
    method = flat_method("sgd")
    expected = (
        r"the run could not be saved in task 1 \(what was written cannot be read back: NOT_FOUND"
    )
    with pytest.raises(SaveFailed, match=expected):
        run(method, uneven, keep=After(tmp_path, 0), plan=Plan(chunk=2))
    assert saves_of(tmp_path / "seed0") == []
    monkeypatch.undo()
    run(method, uneven, keep=After(tmp_path, 0), plan=Plan(chunk=2))


def test_what_began_and_was_not_saved_is_told(tmp_path, capsys):
    how = {"every": ALWAYS, "last": 2, "wish": StopFlag()}
    Checkpoints(tmp_path, "it", **how).restore(["seed0"], None)
    assert capsys.readouterr().err == ""
    Checkpoints(tmp_path, "it", **how, again=True).restore(["seed0"], None)
    assert capsys.readouterr().err == f"it begins anew: {tmp_path} has no save of it\n"


def test_a_place_where_nothing_can_be_saved_is_told_at_once(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("file", "dangling"):
        with pytest.raises(InputError, match=f"{name} is not a folder, and runs are saved there"):
            check_saves(tmp_path / name / "sgd")
        with pytest.raises(InputError, match=f"{name} is not a folder, and runs are saved there"):
            check_saves(tmp_path / name)
    check_saves(tmp_path / "checkpoints" / "sgd")
    folder = tmp_path / "checkpoints" / "er"
    folder.mkdir(parents=True)
    (folder / "notes.txt").touch()
    check_saves(folder)
    (folder / "seed0+seed1").touch()
    with pytest.raises(InputError, match=r"seed0\+seed1 is not a folder"):
        check_saves(folder)
    (folder / "seed0+seed1").unlink()
    (folder / "recipe.json").mkdir()
    with pytest.raises(InputError, match=r"recipe\.json is not a file; move it away"):
        check_saves(folder)
    monkeypatch.setattr(checkpoint.os, "access", lambda path, mode: False)
    with pytest.raises(InputError, match="cannot be read and written, and runs are saved there"):
        check_saves(folder)


def test_a_full_disk_is_one_sentence_and_what_was_saved_stays(tmp_path, uneven, monkeypatch):
    method = flat_method("sgd")
    with pytest.raises(Stopped):
        run(method, uneven, keep=After(tmp_path, 4), plan=Plan(chunk=2))
    before = sorted(p.name for p in (tmp_path / "seed0").iterdir())
    real = shutil.disk_usage
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda path: SimpleNamespace(free=4096))
    with pytest.raises(SaveFailed, match=r"are needed and 0\.0 are free.*run the same command"):
        run(method, uneven, keep=After(tmp_path, 0), plan=Plan(chunk=2))
    assert sorted(p.name for p in (tmp_path / "seed0").iterdir()) == before
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", real)
    resumed = run(method, uneven, keep=After(tmp_path, 0), plan=Plan(chunk=2))
    assert_same([resumed], [run(method, uneven)])


def test_a_save_that_fails_behind_the_run_is_told_too(tmp_path, uneven, monkeypatch):
    """The disk fills while orbax writes: the files cannot be opened any more."""
    import orbax.checkpoint as ocp

    def full(self):
        raise ValueError("RESOURCE_EXHAUSTED: No space left on device [os_error_code='28']")

    monkeypatch.setattr(ocp.CheckpointManager, "check_for_errors", full)
    method = flat_method("sgd")
    with pytest.raises(SaveFailed, match="no space is left on the disk"):
        run(method, uneven, keep=After(tmp_path, 0), plan=Plan(chunk=2))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", Interval(seconds=90)),
        ("0.5s", Interval(seconds=0.5)),
        ("5m", Interval(seconds=300)),
        ("1h", Interval(seconds=3600)),
        ("200steps", Interval(steps=200)),
        ("1 step", Interval(steps=1)),
        ("never", Interval()),
    ],
)
def test_intervals(text, expected):
    assert interval(text) == expected


@pytest.mark.parametrize("text", ["", "60", "s", "-5s", "0steps", "often", "5 minutes"])
def test_bad_intervals_are_named(text):
    with pytest.raises(InputError, match=f"save_every is '{text}'; give e.g. 60s"):
        interval(text)


def test_time_decides_when_to_save(tmp_path, uneven, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])
    keep = Checkpoints(tmp_path, "it", every=Interval(seconds=10), last=99, wish=StopFlag())
    saves = []
    maybe_save = keep.maybe_save

    def count(names, state, place, meter):
        now[0] += 4
        before = keep._saved_at
        maybe_save(names, state, place, meter)
        saves.append(keep._saved_at != before)

    keep.maybe_save = count
    method = flat_method("sgd")
    run(method, uneven, keep=keep, plan=Plan(chunk=2))
    assert saves[:9] == [False, False, True] * 3
    assert saves[-1]


def test_a_fingerprint_sees_every_bit_and_no_device(tmp_path):
    tree = {"a": jnp.arange(6.0).reshape(2, 3), "k": jax.random.key(1), "n": jnp.int32(3)}
    same = jax.tree.map(jnp.copy, tree)
    assert fingerprint(tree) == fingerprint(same)
    for changed in (
        {**tree, "a": tree["a"].at[1, 1].add(1e-6)},
        {**tree, "a": tree["a"].reshape(3, 2)},
        {**tree, "a": -tree["a"]},  # minus zero
        {**tree, "k": jax.random.key(2)},
        {**tree, "n": jnp.uint32(3)},
        {"b": tree["a"], "k": tree["k"], "n": tree["n"]},
    ):
        assert fingerprint(changed) != fingerprint(tree)


def test_forgetting_keeps_nothing():
    assert NoCheckpoints().restore(["seed0"], None)[0] == {}
