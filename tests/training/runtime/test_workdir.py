"""The folder of an experiment: refusals before any compute, provenance, whole files."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cls_jax.app.build import StreamConfig
from cls_jax.app.main import begin
from cls_jax.app.run_config import RunConfig
from cls_jax.core.errors import InputError
from cls_jax.core.files import plain, write_all, write_file, write_json
from cls_jax.training.runtime import provenance as made_by
from cls_jax.training.runtime import workdir as wd
from cls_jax.training.runtime.lock import locked
from cls_jax.training.runtime.workdir import check_workdir, claim

CONFIG = {
    "method": "dualnet",
    "seeds": (0, 1),
    "learning_rate": 0.03,
    "net": {"width": 16, "dtype": "float32"},
    "workdir": "runs/a",
}


def prepare(folder, *given):
    """The folder as a run takes it, and leaves it again."""
    with claim(folder, *given) as made:
        return made


def test_check_writes_nothing(tmp_path):
    assert check_workdir(tmp_path / "a" / "b", CONFIG) is None
    assert not any(tmp_path.iterdir())


def test_prepare_makes_the_folder_with_its_record(tmp_path):
    folder = prepare(tmp_path / "a" / "b", CONFIG)
    assert {path.name for path in folder.iterdir()} == {".lock", "config.json"}
    record = json.loads((folder / "config.json").read_text())
    assert record["config"] == {**CONFIG, "seeds": [0, 1]}
    assert record["command"].startswith("python ")
    assert set(record["versions"]) >= {"cls_jax", "python", "jax", "flax", "optax", "numpy"}
    assert record["versions"]["numpy"] == np.__version__
    assert set(record["device"]) == {"platform", "kind", "count"}
    assert record["commit"] is None or len(record["commit"].removesuffix("-dirty")) == 40


def test_the_same_experiment_is_taken_again_and_remembers_it(tmp_path):
    prepare(tmp_path, CONFIG)
    moved = {**CONFIG, "workdir": "runs/elsewhere", "chunk": 3, "devices": 8}  # how, not what
    moved["figure_format"] = ("svg",)  # absent in what an earlier version wrote
    assert check_workdir(tmp_path, moved)["config"] == plain(CONFIG)
    prepare(tmp_path, moved)
    record = json.loads((tmp_path / "config.json").read_text())
    assert record["config"] == plain(CONFIG)
    assert [set(one) for one in record["resumed"]] == [set(made_by.provenance())]


def test_config_json_is_read_once_a_run(tmp_path, monkeypatch):
    """And compared once: before anything is written, not again for the report."""
    prepare(tmp_path, CONFIG)
    read, times = wd.read_json, []
    monkeypatch.setattr(wd, "read_json", lambda path: [times.append(path), read(path)][1])
    with claim(tmp_path, CONFIG) as folder:
        write_all(folder, {"results.json": "{}"})
    assert times == [tmp_path / "config.json"]


@pytest.mark.parametrize("theirs", ["another", "the same"])
def test_who_comes_before_the_lock_is_seen(theirs, tmp_path, monkeypatch):
    """A process that takes the folder between our look at it and our lock on it."""
    other = CONFIG if theirs == "the same" else {**CONFIG, "method": "er"}
    made, real = [], locked

    def late(folder, wait):
        if not made:
            made.append(True)
            prepare(folder, other)
        return real(folder, wait)

    monkeypatch.setattr(wd, "locked", late)
    if theirs == "another":
        with pytest.raises(InputError, match=r'another experiment \(method: "er" → "dualnet"'):
            prepare(tmp_path / "w", CONFIG)
    else:
        prepare(tmp_path / "w", CONFIG)
    record = json.loads((tmp_path / "w" / "config.json").read_text())
    assert record["config"]["method"] == other["method"]
    assert len(record.get("resumed", [])) == (theirs == "the same")


def test_other_data_or_software_is_refused_by_name(tmp_path):
    same = {"data": {"digits": "aa"}, "software": {"jax": "0.10.2", "cls_jax": "11"}}
    prepare(tmp_path, CONFIG, same)
    assert check_workdir(tmp_path, CONFIG, same)
    for other, expected in (
        ({**same, "data": {"digits": "bb"}}, 'data.digits: "aa" → "bb"'),
        ({**same, "data": {"mnist": "bb"}}, 'data.mnist: absent → "bb"; data.digits: "aa"'),
        ({**same, "software": {"jax": "0.12", "cls_jax": "11"}}, 'software.jax: "0.10.2" → "0.12"'),
    ):
        with pytest.raises(InputError, match=f"another experiment \\({expected}"):
            check_workdir(tmp_path, CONFIG, other)


def test_software_names_what_fixes_the_numbers(tmp_path, monkeypatch):
    found = made_by.software()
    assert {"jax", "jaxlib", "flax", "optax", "numpy", "cls_jax"} == set(found)
    monkeypatch.setattr(made_by, "PACKAGE", tmp_path)
    (tmp_path / "__init__.py").write_text("other = 1")
    assert made_by.software()["cls_jax"] != found["cls_jax"]


def test_a_workdir_is_for_one_process_at_a_time(tmp_path):
    with claim(tmp_path / "w", CONFIG, {}) as folder:
        assert (folder / "config.json").exists()
        with (
            pytest.raises(InputError, match=f"w is in use by process {os.getpid()}; wait for it"),
            claim(tmp_path / "w", CONFIG, {}),
        ):
            pass
    with claim(tmp_path / "w", CONFIG, {}):
        pass


def test_a_disk_too_full_for_the_lock_is_told(tmp_path, monkeypatch):
    def full(number, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(InputError, match="w: No space left"), claim(tmp_path / "w", CONFIG, {}):
        pass


def test_restarting_moves_aside_and_deletes_nothing(tmp_path, capsys):
    workdir = tmp_path / "w"
    for expected in ({"w"}, {"w", "w.1"}, {"w", "w.1", "w.2"}):
        with claim(workdir, {**CONFIG, "learning_rate": len(expected)}, {}, restart=True):
            (workdir / f"mine{len(expected)}").touch()
        assert {path.name for path in tmp_path.iterdir()} == expected
    assert (tmp_path / "w.1" / "mine1").exists()
    assert (tmp_path / "w.2" / "mine2").exists()
    assert f"{workdir} was moved to {workdir}.2" in capsys.readouterr().err


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("name", ["mine", ".hidden", "accuracy_matrix.png", "checkpoints"])
def test_a_folder_that_holds_something_else_is_left_as_it_is(tmp_path, name, restart):
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / name).write_text("mine")
    expected = f"has no config.json of cls_jax but holds '{name}', which is left as it is"
    with (
        pytest.raises(InputError, match=expected),
        claim(tmp_path / "w", CONFIG, {}, restart=restart),
    ):
        pass
    with pytest.raises(InputError, match=expected):
        prepare(tmp_path / "w", CONFIG)
    assert everything(tmp_path) == {"w": None, f"w/{name}": b"mine"}


def test_what_a_killed_start_left_is_no_reason_to_refuse(tmp_path):
    for name in (".lock", ".lock.pid", ".config.json.12.tmp"):
        (tmp_path / name).write_text("")
    assert prepare(tmp_path, CONFIG) == tmp_path


@pytest.mark.parametrize("text", ["not json", '{"model_type": "bert"}', "[" * 100_000])
def test_restarting_does_not_move_the_folder_of_another_program(tmp_path, text):
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "config.json").write_text(text)
    with (
        pytest.raises(InputError, match="not a record of cls_jax; give another --workdir"),
        claim(tmp_path / "w", CONFIG, {}, restart=True),
    ):
        pass
    assert everything(tmp_path) == {"w": None, "w/config.json": text.encode()}


def test_the_fingerprint_decides_not_where_the_data_lie(tmp_path):
    """The record says where they lay last, so that evaluating finds them."""
    stream = lambda data: {"stream": {"data": data, "tasks": 5}}  # noqa: E731
    same = {"data": {"pets": "aa"}}
    prepare(tmp_path, stream("folder:/old/pets"), same)
    with pytest.raises(InputError, match=r"stream\.data"):
        check_workdir(tmp_path, stream("folder:/new/animals"), {"data": {"animals": "bb"}})
    moved = stream("folder:/new/animals"), {"data": {"animals": "aa"}}
    assert check_workdir(tmp_path, *moved)
    prepare(tmp_path, *moved)
    assert check_workdir(tmp_path, moved[0])  # as the report asks after the training
    with pytest.raises(InputError, match=r"stream\.tasks: 5 → 4"):
        check_workdir(tmp_path, {"stream": {**moved[0]["stream"], "tasks": 4}}, moved[1])


def everything(folder):
    """Path -> content of all that lies below a folder; None for folders."""
    paths = sorted(folder.rglob("*"))
    found = {str(p.relative_to(folder)): None if p.is_dir() else p.read_bytes() for p in paths}
    return found


@pytest.mark.parametrize("name", [".lock", "config.json", "checkpoints", "tensorboard", "wandb"])
def test_no_link_in_a_workdir_is_followed(tmp_path, name):
    """It may have come with the folder, and lead to a file of the user's."""
    (tmp_path / "victim").mkdir()
    prepare(tmp_path / "w", CONFIG)
    record = (tmp_path / "w" / "config.json").read_bytes()
    (tmp_path / "w" / name).unlink(missing_ok=True)
    (tmp_path / "w" / name).symlink_to(tmp_path / "victim" / "new")
    for restart in (False, True):
        with (
            pytest.raises(InputError, match=f"{name} in it is a link, and none is followed"),
            claim(tmp_path / "w", CONFIG, {}, restart=restart and name == ".lock"),
        ):
            pass
    assert not any((tmp_path / "victim").iterdir())
    assert record


def test_a_link_beside_a_file_is_not_written_through(tmp_path):
    (tmp_path / "victim").write_text("mine")
    (tmp_path / f".x.txt.{os.getpid()}.tmp").symlink_to(tmp_path / "victim")
    write_file(tmp_path / "x.txt", "ours")
    assert everything(tmp_path) == {"victim": b"mine", "x.txt": b"ours"}


def test_a_killed_process_lets_go_of_its_workdir(tmp_path):
    """And while it lives, its number is told to whoever comes."""
    code = (
        "import sys, time; from cls_jax.training.runtime.lock import locked\n"
        "with locked(sys.argv[1]): print('in', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout.readline() == "in\n"
        with pytest.raises(InputError, match=f"in use by process {other.pid};"), locked(tmp_path):
            pass
    finally:
        other.kill()
        other.communicate()
    with locked(tmp_path):
        assert (tmp_path / ".lock.pid").read_text() == str(os.getpid())
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_where_nothing_can_be_locked_it_is_said(tmp_path, monkeypatch, capsys):
    def no_locks(self):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("filelock.FileLock._acquire", no_locks)
    with locked(tmp_path):
        assert "cannot be locked; let one process use it" in capsys.readouterr().err


def test_the_folder_where_one_is_is_not_moved_away(tmp_path, monkeypatch):
    (tmp_path / "w").mkdir()
    monkeypatch.chdir(tmp_path / "w")
    with claim(".", CONFIG, {}):
        pass
    with (
        pytest.raises(
            InputError, match=r"workdir \. cannot be moved aside from inside it; leave it"
        ),
        claim(".", CONFIG, {}, restart=True),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["w"]


def test_another_experiment_is_refused_with_its_differences(tmp_path):
    prepare(tmp_path, CONFIG)
    before = (tmp_path / "config.json").read_bytes()
    other = {**CONFIG, "learning_rate": 0.1, "net": {"width": 32, "dtype": "float32"}}
    with pytest.raises(InputError) as refusal:
        prepare(tmp_path, other)
    assert str(refusal.value) == (
        f"workdir {tmp_path} holds another experiment "
        "(learning_rate: 0.03 → 0.1; net.width: 16 → 32); "
        "give another --workdir, or --restart to move that one aside"
    )
    assert (tmp_path / "config.json").read_bytes() == before


def test_fields_come_and_go_and_only_the_first_are_named(tmp_path):
    prepare(tmp_path, CONFIG)
    with pytest.raises(InputError, match=r"method: .*seeds: .*learning_rate: .*and 3 more"):
        check_workdir(tmp_path, {"method": "er", "seeds": (7,), "learning_rate": 1.0, "new": 1})
    with pytest.raises(InputError, match='new: absent → "x"'):
        check_workdir(tmp_path, {**CONFIG, "new": "x"})


FOREIGN = ["not json", "[]", "{}", '{"config": 3}', '{"config": {}, "versions": 3}', "[" * 100_000]
FOREIGN += ['{"config": {}, "versions": {"cls_jax": "1"}, "resumed": 1}', "[" * 80 + "]" * 80]


@pytest.mark.parametrize("text", FOREIGN, ids=range(len(FOREIGN)))
def test_a_foreign_config_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match="not a record of cls_jax"):
        check_workdir(tmp_path, CONFIG)


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="is a file"):
            prepare(path, CONFIG)
    assert (tmp_path / "file").read_text() == "mine"


def test_an_unwritable_place_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(InputError, match="cannot be written"):
        check_workdir(tmp_path / "a", CONFIG)
    monkeypatch.undo()
    monkeypatch.setattr(wd, "write_json", _disk_full)
    with pytest.raises(InputError, match="No space left"):
        prepare(tmp_path / "a", CONFIG)


def _disk_full(path, value):
    raise OSError(28, "No space left on device")


def test_plain_is_what_json_gives_back():
    value = {
        "a": (1, 2.5, None, True),
        3: np.float32(0.5),
        "m": np.array([[1.0, np.nan]]),
        "path": Path("x/y"),
        "set": {2, 1},
    }
    assert plain(value) == {
        "a": [1, 2.5, None, True],
        "3": 0.5,
        "m": [[1.0, None]],
        "path": "x/y",
        "set": [1, 2],
    }


def test_json_is_strict(tmp_path):
    write_json(tmp_path / "x.json", {"std": float("nan"), "top": np.float64(np.inf)})
    assert json.loads((tmp_path / "x.json").read_text()) == {"std": None, "top": None}


def test_a_file_is_whole_or_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "x.txt"
    write_file(path, "old")
    monkeypatch.setattr(os, "replace", lambda *names: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_file(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]


def test_files_are_put_in_place_together_or_not_at_all(tmp_path, monkeypatch):
    """In the order given; what lies beside them goes in any case."""
    write_all(tmp_path, {"a": "old", "b": b"old"})
    with pytest.raises(UnicodeEncodeError):
        write_all(tmp_path, {"a": "new", "b": "\udcff"})
    assert everything(tmp_path) == {"a": b"old", "b": b"old"}
    placed, move = [], os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: [placed.append(b.name), move(a, b)])
    write_all(tmp_path, {"b": "new", "a": "né", "c": ""})
    assert placed == ["b", "a", "c"]
    assert everything(tmp_path) == {"a": "né".encode(), "b": b"new", "c": b""}


def test_commit_is_that_of_the_package_or_none(tmp_path, monkeypatch):
    def git(*arguments):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True, capture_output=True)

    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(made_by, "PACKAGE", package)
    ask = made_by.commit.__wrapped__
    assert ask() is None  # no checkout
    git("init", "-q")
    (tmp_path / "thesis.tex").write_text("")
    git("add", "thesis.tex")
    git("-c", "user.name=t", "-c", "user.email=t@t", "commit", "-q", "-m", "x")
    assert ask() is None  # someone's checkout, but the package is not part of it
    git("add", ".")
    git("-c", "user.name=t", "-c", "user.email=t@t", "commit", "-q", "-m", "y")
    clean = ask()
    assert len(clean) == 40
    (package / "__init__.py").write_text("# changed")
    assert ask() == f"{clean}-dirty"


def test_command_can_be_pasted(monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["/a/b/python3", "-m", "x.y", "--workdir", "my runs"])
    assert made_by.command() == "python -m x.y --workdir 'my runs'"
    kernel = ["/usr/bin/python3", "-m", "colab_kernel_launcher", "-f", "connection.json"]
    monkeypatch.setattr(sys, "orig_argv", kernel)
    monkeypatch.setattr(sys, "argv", ["x.py", "--workdir", "my runs"])  # as %run sets it
    assert made_by.command() == "python x.py --workdir 'my runs'"


OUTPUTS = {
    "empty": ({"workdir": ""}, 'workdir is ""; give a path, or leave --workdir out'),
    "no home": ({"workdir": "~nobody-here/x"}, "nobody's home is ~nobody-here"),
    "strange": ({"workdir": "strange"}, "has no config.json of cls_jax but holds 'mine'"),
    "profile": ({"workdir": "w", "profile": "strange/mine"}, "profile strange/mine: .* is a file"),
    "writer": ({"workdir": "w", "log": ("tensorboard",)}, "tensorboard needs tensorboardX"),
    "wandb": ({"workdir": "w", "log": ("csv", "wandb")}, "log wandb needs wandb, which is not"),
    "no folder": ({"log": ("csv",)}, "log is csv, but there is no folder for it; give --workdir"),
    "saves": ({"workdir": "w", "restart": True, "profile": ""}, 'profile is ""'),
}


@pytest.mark.parametrize("case", OUTPUTS)
def test_what_cannot_be_written_is_refused_before_anything_is(case, tmp_path, monkeypatch):
    """By ``begin``, which every script calls before it opens its data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    monkeypatch.setitem(sys.modules, "wandb", None)
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "mine").touch()
    flags, expected = OUTPUTS[case]
    with pytest.raises(InputError, match=expected):
        begin(RunConfig(**flags))
    assert everything(tmp_path) == {"strange": None, "strange/mine": b""}


def test_paths_are_whole_wherever_they_were_given(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    run = RunConfig(workdir="~/w", profile="~/p")
    assert (run.workdir, run.profile) == (f"{tmp_path}/w", f"{tmp_path}/p")
    for data, whole in (
        ("folder:pets", f"folder:{tmp_path}/pets"),
        ("npz:~/a.npz", f"npz:{tmp_path}/a.npz"),
        ("cifar10", "cifar10"),
    ):
        config = StreamConfig(data=data, data_dir="data")
        assert (config.data, config.data_dir) == (whole, f"{tmp_path}/data")
