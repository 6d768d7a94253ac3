"""npz:FILE and folder:DIR: what they give back, and every refusal."""

import numpy as np
import pytest
from PIL import Image

from cls_jax.core.errors import InputError
from cls_jax.data.load import load
from cls_jax.data.local import resize

RNG = np.random.default_rng(0)


def files_under(root):
    return sorted(str(p.relative_to(root)) for p in root.rglob("*"))


# --- npz

IMAGES = RNG.integers(0, 256, (6, 5, 4, 3), np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize("keys", [0, 1, 2])
@pytest.mark.parametrize(
    "x", [IMAGES, IMAGES[..., :1], IMAGES[..., 0], RNG.normal(size=(6, 7)).astype(np.float32)]
)
def test_npz_gives_back_its_arrays(tmp_path, keys, x):
    from cls_jax.data.npz import NPZ_KEYS

    file = tmp_path / "mine.npz"
    arrays = (x, LABELS.astype(np.uint8), x[::-1], LABELS[:, None])
    np.savez(file, **dict(zip(NPZ_KEYS[keys], arrays, strict=True)))
    source = load(f"npz:{file}")
    want = x[..., None] if x.ndim == 3 else x
    assert (source.name, source.num_classes) == ("mine.npz", 3)
    np.testing.assert_array_equal(source.train.x, want)
    np.testing.assert_array_equal(source.test.x, want[::-1])
    np.testing.assert_array_equal(source.test.y, LABELS)
    assert source.train.x.dtype == x.dtype
    assert source.train.y.dtype == source.test.y.dtype == np.int32


def test_npz_is_resized_when_asked(tmp_path):
    np.savez(tmp_path / "a.npz", train_x=IMAGES, train_y=LABELS, test_x=IMAGES, test_y=LABELS)
    source = load(f"npz:{tmp_path}/a.npz", size=6)
    assert source.train.x.shape == (6, 6, 6, 3)
    np.testing.assert_array_equal(source.train.x[2], resize(IMAGES[2], 6))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"train_x": None}, r"must hold the arrays train_x.*it holds test_x, test_y, train_y"),
        ({"train_x": IMAGES / 255}, r"train_x is float64\[6, 5, 4, 3\]; it must be images uint8"),
        ({"train_x": IMAGES.reshape(6, -1)}, r"train_x is uint8\[6, 60\]"),
        ({"train_x": IMAGES[..., :2]}, r"train_x is uint8\[6, 5, 4, 2\]; images must have 1 or 3"),
        ({"train_x": IMAGES[:5]}, r"train_x has 5 examples but train_y has 6 labels"),
        ({"test_x": IMAGES[:, :3]}, r"train_x holds uint8\[5, 4, 3\] and test_x uint8\[3, 4, 3\]"),
        ({"train_x": np.full((6, 2), np.nan)}, r"train_x holds 12 values that are NaN"),
        ({"train_x": np.full((6, 2), 1e300)}, r"train_x holds 12 values that are NaN or beyond"),
        ({"train_y": LABELS - 1}, r"train_y has label -1; labels must be 0..C-1"),
        ({"train_y": LABELS * 1.0}, r"train_y is float64\[6\]; labels must be integers"),
        ({"train_y": LABELS + 1}, r"C = max \+ 1 = 4, but train_y has no example of class 0"),
        ({"test_y": LABELS % 2}, r"C = max \+ 1 = 3, but test_y has no example of class 2"),
        ({"test_y": LABELS * 10**12}, r"test_y has label 2000000000000; labels must be 0..C-1"),
        ({"train_x": IMAGES[:0], "train_y": LABELS[:0]}, r"train_x is empty"),
        ({"train_y": np.array([{}] * 6)}, r"train_y holds Python objects, which are not loaded"),
    ],
)
def test_npz_refusals(tmp_path, changes, sentence):
    arrays = {"train_x": IMAGES, "train_y": LABELS, "test_x": IMAGES, "test_y": LABELS} | changes
    file = tmp_path / "bad.npz"
    np.savez(file, **{key: array for key, array in arrays.items() if array is not None})
    with pytest.raises(InputError, match=sentence) as caught:
        load(f"npz:{file}")
    assert "bad.npz" in str(caught.value)


def test_npz_that_is_no_npz(tmp_path):
    with pytest.raises(InputError, match=r"no file .*none.npz"):
        load(f"npz:{tmp_path}/none.npz")
    (tmp_path / "text.npz").write_text("hello")
    np.save(tmp_path / "one.npy", IMAGES)
    for name, why in (("text.npz", "is no NumPy .npz file"), ("one.npy", "is a single array")):
        with pytest.raises(InputError, match=f"{name} {why}"):
            load(f"npz:{tmp_path}/{name}")
    vectors = np.ones((6, 2), np.float32)
    np.savez(tmp_path / "v.npz", train_x=vectors, train_y=LABELS, test_x=vectors, test_y=LABELS)
    with pytest.raises(InputError, match=r"size=8 is for images, but .*v.npz holds vectors"):
        load(f"npz:{tmp_path}/v.npz", size=8)


# --- folder


def paint(file, colour, mode="RGB", shape=(20, 10)):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, shape, colour).save(file)


def test_folder_with_its_own_split(tmp_path):
    root = tmp_path / "pets"
    for split in ("train", "test"):
        paint(root / split / "cat" / "a.png", (255, 0, 0))
        paint(root / split / "dog" / "b.GIF", 9, "P")
        paint(root / split / "dog" / "a.bmp", 77, "L")
        (root / split / "dog" / "notes.txt").write_text("no picture")
    before = files_under(tmp_path)
    source = load(f"folder:{root}")
    assert (source.name, source.label_names) == ("pets", ("cat", "dog"))
    assert source.train.x.shape == (3, 32, 32, 3)
    assert source.train.y.tolist() == [0, 1, 1]
    assert source.train.x[0, 5, 5].tolist() == [255, 0, 0]
    assert source.train.x[1, 5, 5].tolist() == [77, 77, 77]  # a.bmp before b.GIF
    assert load(f"folder:{root}", size=7).test.x.shape == (3, 7, 7, 3)
    assert files_under(tmp_path) == before


def test_folder_without_a_split_holds_out_every_fifth(tmp_path):
    for name in ("cat", "dog"):
        for i in range(7):
            paint(tmp_path / name / f"{i}.png", (i, 0, 0))
    source = load(f"folder:{tmp_path}")
    assert source.test.x[:, 0, 0, 0].tolist() == [1, 6, 1, 6]
    assert source.train.x[:, 0, 0, 0].tolist() == [0, 2, 3, 4, 5] * 2
    assert source.test.y.tolist() == [0, 0, 1, 1]


def test_folder_refusals(tmp_path):
    with pytest.raises(InputError, match=r"no folder .*none; folder:DIR needs"):
        load(f"folder:{tmp_path}/none")
    with pytest.raises(InputError, match=r"has 0 class folders; it needs at least 2"):
        load(f"folder:{tmp_path}")
    paint(tmp_path / "cat" / "a.png", 0)
    with pytest.raises(InputError, match=r"has 1 class folder; it needs at least 2"):
        load(f"folder:{tmp_path}")
    (tmp_path / "dog").mkdir()
    with pytest.raises(InputError, match=r"dog holds no picture"):
        load(f"folder:{tmp_path}")
    paint(tmp_path / "dog" / "a.png", 0)
    with pytest.raises(InputError, match=r"cat holds one picture; a class needs two"):
        load(f"folder:{tmp_path}")
    for name in ("cat", "dog"):
        paint(tmp_path / name / "b.png", 0)
    broken = tmp_path / "dog" / "b.png"
    broken.write_bytes(broken.read_bytes()[:40])
    with pytest.raises(InputError, match=r"dog/b.png cannot be decoded as a picture"):
        load(f"folder:{tmp_path}")
    paint(tmp_path / "train" / "cat" / "a.png", 0)
    with pytest.raises(InputError, match=r"has train/ alone"):
        load(f"folder:{tmp_path}")
    for part in ("train/dog", "test/cat", "test/cow"):
        paint(tmp_path / part / "a.png", 0)
    with pytest.raises(InputError, match=r"classes \['cow', 'dog'\] are in only one"):
        load(f"folder:{tmp_path}")
