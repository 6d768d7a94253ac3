"""What the loggers write: every number once, under the same names, also where a run goes on."""

import csv
import struct
import sys
import time
import types
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

import cls_jax as cls
from cls_jax.core.errors import InputError, SaveFailed
from cls_jax.report import csv_log, logs, tensorboard_log
from cls_jax.training.events import Ended, Evaluated, Progress, Since, Started
from tests.conftest import small_method

LABELS = ("rate=0.1", "rate=1")
SEEDS, VALUES = (0, 1, 0, 1), (0, 0, 1, 1)
STARTED = Started("", "er", (0, 1), 2, 9, "scan", views=("answer", "working"), labels=LABELS)


def matrix(rows=3):
    """float[4 trials, 2 networks, 2 scores, 3, 2], each number another, so many rows measured."""
    made = np.arange(4 * 2 * 2 * 3 * 2, dtype=float).reshape(4, 2, 2, 3, 2)
    made[..., rows:, :] = np.nan
    return made


def progress(step):
    """A chunk of all four trials, which have losses of their own."""
    each = tuple({"loss": step + trial / 10} for trial in range(4))
    return Progress(SEEDS, 0, "train", step, 9, 1, 1.0, {"loss": -1.0}, VALUES, each)


def evaluated(task):
    return Evaluated(SEEDS, task, matrix(task + 2), 1.0, VALUES)


WHOLE = (evaluated(-1), progress(3), progress(6), evaluated(0), progress(9), evaluated(1))
"""Everything that a run tells, between its start and its end."""


def tell(log, *events, since=()):
    """A run, or a part of one that is killed unless the last event is an end."""
    for event in (STARTED._replace(since=since), *events):
        log(event)


def since(step, rows):
    """All four trials go on here."""
    trials = zip(VALUES, SEEDS, strict=True)
    return tuple(Since(value, seed, step, rows) for value, seed in trials)


def table(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# --- CSV ------------------------------------------------------------------------------------------


def test_csv_has_every_number_once(tmp_path):
    tell(logs.csv(tmp_path / "new"), *WHOLE, Ended(True))
    losses, scores = (table(tmp_path / "new" / name) for name in ("losses.csv", "scores.csv"))
    assert len(losses) == 3 * 4
    assert len(scores) == 3 * 4 * 2 * 2 * 2
    assert losses[5] == {
        "method": "er", "value": "rate=0.1", "seed": "1", "phase": "train", "metric": "loss",
        "step": "6", "mean": "6.1",
    }  # fmt: skip
    (found,) = (
        row["accuracy"]
        for row in scores
        if [*row.values()][:-1] == ["er", "rate=1", "1", "working", "task-IL", "task_2", "2"]
    )
    assert float(found) == matrix()[3, 1, 1, 2, 1]


@pytest.mark.parametrize("torn", [b"", b"er,rate=1,1,train,loss,9,0.1", b'er,"rate=1,1\xff'])
def test_csv_of_a_killed_run_is_that_of_a_quiet_one(tmp_path, torn):
    """Killed after step 6, saved after step 3; what was told since the save is told again."""
    tell(logs.csv(tmp_path / "quiet"), *WHOLE, Ended(True))
    tell(logs.csv(tmp_path / "killed"), *WHOLE[:4])
    with open(tmp_path / "killed" / "losses.csv", "ab") as file:
        file.write(torn)
    tell(logs.csv(tmp_path / "killed"), *WHOLE[2:], Ended(True), since=since(3, 1))
    for name in ("losses.csv", "scores.csv"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "quiet" / name).read_bytes()
    tell(logs.csv(tmp_path / "killed"), Ended(True), since=since(9, 3))  # finished: nothing is cut
    assert len(table(tmp_path / "killed" / "losses.csv")) == 12


def test_csv_cuts_its_own_trials_alone(tmp_path):
    tell(logs.csv(tmp_path), *WHOLE, Ended(True))
    other = STARTED._replace(method="sgd", labels=("",), views=("answer",))
    log = logs.csv(tmp_path)
    log(other._replace(since=(Since(0, 0, 0, 0),)))
    log(Progress((0,), 0, "train", 3, 9, 1, 1.0, {"loss": 2.0}))
    log(Ended(False))
    rows = table(tmp_path / "losses.csv")
    assert len(rows) == 13
    assert [*rows[-1].values()] == ["sgd", "", "0", "train", "loss", "3", "2.0"]


def test_csv_leaves_what_is_not_its_own(tmp_path):
    columns = ",".join(csv_log.LOSSES)
    for text in ("mine\n1\n", f"{columns}\ner,,0\n", f"{columns}\ner,,0,train,loss,soon,1\n"):
        (tmp_path / "losses.csv").write_text(text)
        with pytest.raises(InputError, match=r"losses.csv is no log of cls_jax; move it away"):
            tell(logs.csv(tmp_path))
        assert (tmp_path / "losses.csv").read_text() == text
    (tmp_path / "losses.csv").unlink()
    (tmp_path / "losses.csv").symlink_to(tmp_path / "victim")
    with pytest.raises(InputError, match=r"losses.csv in it is a link"):
        tell(logs.csv(tmp_path))
    assert not (tmp_path / "victim").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_csv_on_a_full_disk_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_log, "open", full_disk, raising=False)
    log = logs.csv(tmp_path)
    with pytest.raises(SaveFailed, match=r"could not be written .* run the same command again"):
        tell(log, progress(3))
    log(Ended(False))


def full_disk(*_, **__):
    return open("/dev/full", "a", encoding="utf-8")


# --- TensorBoard ----------------------------------------------------------------------------------


class Writer:
    """What tensorboardX would be told: folder -> tag -> values."""

    written: ClassVar[dict[str, dict]] = {}
    purged: ClassVar[dict[str, int | None]] = {}

    def __init__(self, folder, flush_secs, purge_step):
        self.mine, self.purged[folder] = self.written.setdefault(folder, {}), purge_step

    def add_scalar(self, tag, value, step):
        self.mine.setdefault(tag, []).append((step, float(value)))

    def close(self):
        pass


def test_tensorboard_keeps_methods_values_seeds_and_networks_apart(tmp_path, monkeypatch):
    """Two values by two seeds in one program, two networks, two scenarios: each number once."""
    monkeypatch.setattr(tensorboard_log, "writer_class", lambda: Writer)
    monkeypatch.setattr(Writer, "written", {})
    for method in ("er", "er 2"):
        log = logs.tensorboard(tmp_path)
        log(STARTED._replace(method=method, since=since(3, 1)[:1]))
        for event in (progress(5), evaluated(0), Ended(True)):
            log(event)
    found = {str(Path(path).relative_to(tmp_path)): tags for path, tags in Writer.written.items()}
    assert found.keys() == {
        f"tensorboard/{m}/{value}/seed{s}"
        for m in ("er", "er_2")
        for value in LABELS
        for s in (0, 1)
    }
    for trial, (value, seed) in enumerate(zip(VALUES, SEEDS, strict=True)):
        mine = found[f"tensorboard/er/{LABELS[value]}/seed{seed}"]
        assert all(len(each) == 1 for each in mine.values())
        assert len(mine) == 1 + 2 * 2 * 2  # a loss, networks, scenarios, tasks
        assert mine["train/loss"] == [(5, 5 + trial / 10)]
        assert mine["answer/task-IL/task_2"] == [(1, matrix()[trial, 0, 1, 1, 1])]
        assert mine["working/class-IL/task_1"] == [(1, matrix()[trial, 1, 0, 1, 0])]
    goes_on = str(tmp_path / "tensorboard" / "er" / LABELS[0] / "seed0")
    assert {path for path, step in Writer.purged.items() if step is not None} >= {goes_on}
    assert Writer.purged[goes_on] == 4


def test_tensorboards_own_files_hold_them(tmp_path):
    pytest.importorskip("tensorboardX")
    tell(logs.tensorboard(tmp_path), *WHOLE, Ended(True))
    scalars = _scalars(tmp_path / "tensorboard" / "er" / LABELS[1] / "seed1")
    assert scalars["train/loss"] == pytest.approx({3: 3.3, 6: 6.3, 9: 9.3})
    rows = matrix()[3, 0, 0, :, 0]
    assert scalars["answer/class-IL/task_1"] == pytest.approx(dict(enumerate(rows)))


def _scalars(folder):
    """tag -> {step: value} of every event file: length, crc, record, crc."""
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for path in folder.iterdir():
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            for value in event.summary.value:
                found.setdefault(value.tag, {})[event.step] = value.simple_value
            data = data[16 + length :]
    return found


# --- Weights & Biases -----------------------------------------------------------------------------


class Wandb(types.ModuleType):
    """What wandb would be told."""

    class Error(Exception):
        """As wandb's own."""

    def __init__(self):
        super().__init__("wandb")
        self.Settings = lambda **given: given
        self.given, self.axes, self.told, self.ended = [], {}, [], []
        self.define_metric = lambda name, **how: self.axes.update({name: how})
        self.log = self.told.append
        self.finish = lambda exit_code: self.ended.append(exit_code)

    def init(self, **given):
        self.given.append(given)
        return self


def test_wandb_is_told_the_same_names_and_goes_on_in_the_same_run(tmp_path, monkeypatch):
    fake = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    tell(logs.wandb(tmp_path, project="mine"), *WHOLE[:3], Ended(False))
    tell(logs.wandb(tmp_path, project="mine"), *WHOLE[3:], Ended(True), since=since(6, 1))
    first, second = fake.given
    assert first == second
    assert (first["project"], first["name"], first["resume"]) == ("mine", "er", "allow")
    assert first["id"] == (tmp_path / "wandb" / "er.id").read_text()
    assert fake.ended == [1, 0]
    trial = "er/rate=1/seed1"
    assert fake.axes[f"{trial}/train/*"] == {"step_metric": f"{trial}/step"}
    assert fake.axes[f"{trial}/working/*"] == {"step_metric": f"{trial}/after_task"}
    assert {f"{trial}/step": 9, f"{trial}/train/loss": 9.3} in fake.told
    last = [one for one in fake.told if f"{trial}/working/class-IL/task_1" in one][-1]
    assert last[f"{trial}/after_task"] == 2
    assert last[f"{trial}/working/task-IL/task_2"] == matrix()[3, 1, 1, 2, 1]

    def refused(**given):
        raise fake.Error("api_key not configured\n(no-tty)")

    monkeypatch.setattr(fake, "init", refused)
    log = logs.wandb(tmp_path)
    with pytest.raises(InputError, match=r"log wandb: api_key not configured \(no-tty\); log"):
        tell(log)
    log(Ended(False))


@pytest.mark.more
def test_an_offline_run_of_wandb_can_be_read(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed: pip install wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    tell(logs.wandb(tmp_path, config={"rate": 0.5}), *WHOLE, Ended(True))
    (path,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    summary, config = {}, {}
    for record in _whole_run(path, Record.FromString):
        for found, items in (
            (config, record.run.config.update),
            (summary, record.summary.update),
        ):
            found |= {item.key or "/".join(item.nested_key): item.value_json for item in items}
    assert config["rate"] == "0.5"
    assert float(summary["er/rate=1/seed1/train/loss"]) == 9.3
    assert float(summary["er/rate=1/seed1/answer/class-IL/task_1"]) == matrix()[3, 0, 0, 2, 0]


def _whole_run(path, record_of):
    """The run's records once its last one, the exit, is on disk.

    W&B's own process writes the file, and may close it after ``finish`` has come back.
    """
    for _ in range(300):
        records = [record_of(data) for data in _records(path.read_bytes())]
        if records and records[-1].WhichOneof("record_type") == "exit":
            return records
        time.sleep(0.1)
    raise AssertionError(f"{path}: {len(records)} records after 30 s, and the exit is not the last")


def _records(data):
    """The records of a file of LevelDB's log format, which begins with seven bytes of W&B's."""
    at, parts = 7, []
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # too little of the block is left for a header
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        parts.append(data[at + 7 : at + 7 + length])
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield b"".join(parts)
            parts = []


# --- all of them ----------------------------------------------------------------------------------


def test_several_tell_all_in_order():
    heard = []
    log = logs.several(lambda e: heard.append(("a", e)), lambda e: heard.append(("b", e)))
    log(progress(5))
    assert heard == [("a", progress(5)), ("b", progress(5))]


@pytest.mark.parametrize(("name", "package"), [("tensorboard", "tensorboardX"), ("wandb", "wandb")])
def test_a_missing_package_says_how_to_install_it(tmp_path, monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=f"log {name} needs {package}, .*; pip install"):
        getattr(logs, name)(tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.more
def test_train_takes_a_logger_or_several_and_goes_on(stream, tmp_path):
    """The logger's own error is the kill."""
    heard, how = [], {"plan": cls.Plan(chunk=4), "save_every": "4steps", "seeds": (0, 1)}
    method, quiet, killed = small_method("sgd"), tmp_path / "quiet", tmp_path / "killed"

    def kill(event):
        if isinstance(event, Progress) and event.seeds[-1] == 1 and event.step == 12:
            raise RuntimeError("killed")

    cls.train(method, stream, observe=[logs.csv(quiet), heard.append], workdir=quiet, **how)
    assert [type(event) for event in (heard[0], heard[-1])] == [Started, Ended]
    assert heard[-1].whole
    both = logs.csv(killed), kill
    with pytest.raises(RuntimeError, match="killed"):
        cls.train(method, stream, observe=both, workdir=killed, **how)
    cls.train(method, stream, observe=logs.csv(killed), workdir=killed, **how)
    for name in ("losses.csv", "scores.csv"):
        assert (killed / name).read_bytes() == (quiet / name).read_bytes()
