"""Every case of the tables: exit 2, one sentence that names it, nothing computed or written."""

import pytest

from tests.bad_input import data, flags, folders
from tests.support.ask import ask, contents

CASES = [*flags.CASES, *data.CASES, *folders.CASES]


def test_the_tables_are_many_and_name_each_case_once():
    names = [case.name for case in CASES]
    assert len(names) == len(set(names)) >= 300


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_one_sentence_and_nothing_else(case, tmp_path, monkeypatch):
    home = tmp_path / "home"
    here = tmp_path / "here"
    home.mkdir()
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)

    def computed(*_, **__):
        raise AssertionError("it began to compute")

    monkeypatch.setattr("cls_jax.app.main.sweep", computed)
    monkeypatch.setattr("cls_jax.training.runner.run", computed)
    monkeypatch.setattr("jax.distributed.initialize", computed)
    case.made(here)
    before = contents(here)
    code, out, err = ask(case.script, *case.arguments)
    assert code == 2, f"exit {code}: {err}"
    for word in case.expected:
        assert word in " ".join(err.split()), f"{word!r} is not in: {err}"
    assert "Traceback" not in err
    assert out == ""
    if "error:" in err and "╭" not in err and "usage:" not in err:  # ours, not the parser's
        last = err.rstrip("\n").splitlines()[-1]
        assert last.startswith("error: "), err
        assert len(last) < 900, "a sentence, not a page"
    assert contents(here) == before, "something was written"
