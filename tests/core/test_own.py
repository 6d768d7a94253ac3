"""Files of one's own, imported by their path: under which names, and when not."""

import sys

import pytest

from cls_jax.core.errors import InputError
from cls_jax.core.own import FILES, import_file


def written(folder, name, text="x = 1\n"):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


def test_a_file_runs_once_for_each_content(tmp_path):
    file = written(tmp_path, "mine_a.py", "runs = []\n")
    import_file(file)
    module = sys.modules["mine_a"]
    import_file(str(file))
    assert sys.modules["mine_a"] is module
    written(tmp_path, "mine_a.py", "runs = [1]\n")
    import_file(file)
    assert sys.modules["mine_a"].runs == [1]


def test_two_files_of_one_name_are_not_mistaken_for_each_other(tmp_path):
    import_file(written(tmp_path / "a", "mine_b.py"))
    with pytest.raises(InputError, match=r"b/mine_b.py: .*a/mine_b.py has that name already"):
        import_file(written(tmp_path / "b", "mine_b.py", "x = 2\n"))
    assert sys.modules["mine_b"].x == 1


@pytest.mark.parametrize("name", ["json", "this", "sys", "numpy", "cls_jax"])
def test_a_module_of_others_keeps_its_name(tmp_path, name):
    before = sys.modules.get(name)
    with pytest.raises(InputError, match=rf"{name}.* has that name already; rename the file"):
        import_file(written(tmp_path, f"{name}.py"))
    assert sys.modules.get(name) is before


def test_a_dot_is_no_part_of_a_name(tmp_path):
    with pytest.raises(InputError, match="has a dot in its name; rename the file"):
        import_file(written(tmp_path, "json.tool.py"))


def test_a_file_that_fails_leaves_no_module(tmp_path):
    with pytest.raises(ZeroDivisionError):
        import_file(written(tmp_path, "mine_c.py", "1 / 0\n"))
    assert "mine_c" not in sys.modules
    assert "mine_c.py" not in FILES
