"""load(): every form of name and its refusal, the digits, and what describe() tells."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from cls_jax.core.errors import InputError
from cls_jax.data import tfds as prepared
from cls_jax.data.load import describe, load
from cls_jax.data.local import held_out

# --- names and imports


def test_importing_sources_imports_nothing_heavy():
    code = (
        "import sys, cls_jax.data.load\n"
        "print({'tensorflow', 'tensorflow_datasets', 'sklearn', 'PIL'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("cifar11", r"'cifar11' is neither .* near it are .*cifar10.*npz:FILE"),
        ("digit", r"near it are digits"),
        ("qqqqqq", r"nor a data set of tfds; the local forms are digits, npz:FILE or folder:DIR"),
        ("a b", r"name='a b' names no data set"),
        ("mnist:3", r"name='mnist:3' names no data set"),
        ("npz:", r"name='npz:' lacks its path"),
        (7, r"name=7 must be a text"),
        ("mnist:1.0.0", r"'mnist:1.0.0' is not prepared .* mnist:3.0.1 is the only one"),
        ("svhn_cropped", r"needs TensorFlow .*cls_jax\[tf\].* file_format='array_record'"),
    ],
)
def test_a_name_that_cannot_be_loaded(name, sentence, tmp_path, monkeypatch):
    monkeypatch.setattr(prepared, "_has_tensorflow", lambda: False)
    with pytest.raises(InputError, match=sentence):
        load(name, tmp_path / "empty")
    assert not (tmp_path / "empty").exists()


@pytest.mark.parametrize("size", [0, -1, 2.0, True, 5000])
def test_a_size_that_cannot_be(size):
    with pytest.raises(InputError, match=f"size={size!r} must be a whole number"):
        load("digits", size=size)


# --- digits


def test_digits_are_the_scans_enlarged_and_split_without_a_seed():
    from sklearn.datasets import load_digits

    source = load("digits")
    assert source.train.x.dtype == np.uint8
    assert source.train.x.shape == (1435, 32, 32, 3)
    assert source.test.x.shape == (362, 32, 32, 3)
    for split in (source.train, source.test):
        assert split.y.dtype == np.int32
        assert set(split.y) == set(range(10))
    scans, y = load_digits(return_X_y=True)
    test = held_out(y)
    np.testing.assert_array_equal(y[test], source.test.y)
    for i in range(0, 362, 40):  # Pillow's float resize is the same interpolation
        picture = Image.fromarray(scans[test][i].reshape(8, 8).astype(np.float32) * 255 / 16)
        want = np.asarray(picture.resize((32, 32), Image.Resampling.BILINEAR))
        assert np.abs(source.test.x[i] - want[..., None]).max() <= 0.51
    assert describe(source)["fingerprint"] == "b30cfd395bf55bd775160666a702fbad"
    assert load("digits", size=8).train.x.shape[1:] == (8, 8, 3)
    assert load("digits", size=8).train.x.max() == 255


def test_scikit_learn_is_imported_only_where_its_file_lies_elsewhere(monkeypatch):
    before = describe(load("digits"))
    code = (
        "import sys\nfrom cls_jax.data.load import load\nload('digits')\n"
        "assert 'sklearn' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    monkeypatch.setattr("cls_jax.data.load.find_spec", lambda name: None)
    assert describe(load("digits")) == before


def test_held_out_takes_a_fifth_of_each_class():
    assert np.flatnonzero(held_out(np.array([0, 0, 1, 1, 0, 0, 0, 0, 0]))).tolist() == [1, 3, 8]


def test_describe_sees_every_byte():
    source = load("digits", size=8)
    changed = source.train.x.copy()
    changed[-1, -1, -1, -1] ^= 1
    other = source._replace(train=source.train._replace(x=changed))
    assert describe(source) == describe(load("digits", size=8))
    assert describe(source)["fingerprint"] != describe(other)["fingerprint"]
    json.dumps(describe(source))
