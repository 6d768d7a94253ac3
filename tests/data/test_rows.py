"""Data sets of Hugging Face and PyTorch, by stand-ins that can what theirs can."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import cls_jax as cls
from cls_jax.core.errors import InputError

RNG = np.random.default_rng(0)
Y = np.arange(24) % 3
PIXELS = RNG.integers(0, 256, (24, 6, 5, 3)).astype(np.uint8)
PICTURES = [Image.fromarray(one) for one in PIXELS]
GREY = [Image.fromarray(one[..., 0]) for one in PIXELS]
VECTORS = RNG.normal(size=(24, 4))
MIXED = [*PICTURES[:-1], GREY[-1]]
SIZES = [*PICTURES[:-1], PICTURES[0].resize((4, 4))]


class Rows:
    """As ``datasets.Dataset`` is used here: columns, features, rows as dicts."""

    def __init__(self, names=None, **columns):
        self.columns = columns
        self.column_names = [*columns]
        self.features = {name: SimpleNamespace() for name in columns} | {
            "label": SimpleNamespace(names=names) if names else SimpleNamespace()
        }
        self.info = SimpleNamespace(dataset_name="beans")

    def __len__(self):
        return len(next(iter(self.columns.values())))

    def __iter__(self):
        for row in zip(*self.columns.values(), strict=True):
            yield dict(zip(self.columns, row, strict=True))


class Pairs:
    """As ``torch.utils.data.Dataset`` is used here."""

    def __init__(self, x, y=Y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        if index >= len(self):  # as Python's own loop wants it
            raise IndexError
        return self.x[index], self.y[index]


def test_hugging_face_pictures_and_names():
    rows = Rows(names=["a", "b", "c"], image=PICTURES, label=Y.tolist())
    data = cls.Dataset.from_huggingface(rows, rows)
    assert (data.name, data.label_names) == ("beans", ("a", "b", "c"))
    np.testing.assert_array_equal(data.train.x, PIXELS)
    np.testing.assert_array_equal(data.test.y, Y)


def test_hugging_face_columns_of_other_names_and_vectors():
    rows = Rows(embedding=VECTORS.tolist(), label=Y.tolist())
    data = cls.Dataset.from_huggingface(rows, image="embedding", test_fraction=0.25, name="mine")
    assert (data.name, data.num_classes) == ("mine", 3)
    assert (data.train.x.shape, data.train.x.dtype) == ((18, 4), np.float32)


def test_torch_pairs():
    train = Pairs(PICTURES)
    train.classes = ["a", "b", "c"]
    data = cls.Dataset.from_torch(train, Pairs(PIXELS))
    assert (data.name, data.label_names) == ("Pairs", ("a", "b", "c"))
    np.testing.assert_array_equal(data.train.x, PIXELS)
    np.testing.assert_array_equal(data.test.x, PIXELS)
    vectors = cls.Dataset.from_torch(Pairs(np.float32(VECTORS)), test_fraction=0.25)
    assert vectors.train.x.shape == (18, 4)


def test_grey_stays_grey_and_among_colours_becomes_one():
    grey = cls.Dataset.from_torch(Pairs(GREY), test_fraction=0.25)
    assert grey.train.x.shape == (18, 6, 5, 1)
    mixed = cls.Dataset.from_torch(Pairs(MIXED), Pairs(MIXED)).train.x
    np.testing.assert_array_equal(mixed[-1], np.repeat(PIXELS[-1, :, :, :1], 3, -1))
    clear = [one.convert("RGBA") for one in PICTURES]
    np.testing.assert_array_equal(
        cls.Dataset.from_torch(Pairs(clear), Pairs(clear)).train.x, PIXELS
    )


def test_pictures_of_many_sizes_are_resized_once():
    data = cls.Dataset.from_torch(Pairs(SIZES), Pairs(PICTURES), size=4)
    assert data.train.x.shape == (24, 4, 4, 3)
    np.testing.assert_array_equal(data.train.x[-1], np.asarray(SIZES[-1]))


class Streamed(Rows):
    __len__ = property()


huggingface, torch = cls.Dataset.from_huggingface, cls.Dataset.from_torch
ROWS = Rows(image=PICTURES, label=Y.tolist())
TENSORS = Pairs(np.float32(PIXELS.transpose(0, 3, 1, 2) / 255))
WRONG = {
    "splits": (
        lambda: huggingface({"train": ROWS}),
        r"train is several splits \('train'\); give o",
    ),
    "none": (lambda: huggingface(3), "train is 3; give a split of a data set of Hugging Face"),
    "streamed": (lambda: huggingface(Streamed(image=[], label=[])), "that is not streamed"),
    "column": (lambda: huggingface(ROWS, image="img"), "no column 'img', but image, label; say wh"),
    "test": (lambda: huggingface(ROWS, 4), "test is 4; give a split"),
    "no test": (lambda: huggingface(ROWS), "beans has neither test examples nor test_fraction"),
    "texts": (
        lambda: huggingface(Rows(image=PICTURES, label=["x"] * 24), ROWS),
        r"beans: train\[0\] has the label 'x'; labels must be whole numbers .*class_encode_column",
    ),
    "loader": (lambda: torch(iter([])), "give a map-style data set, one with len"),
    "tensors": (
        lambda: torch(TENSORS, TENSORS),
        r"\[0\] is float32\[3, 6, 5\]; .* such as ToTensor",
    ),
    "sizes": (
        lambda: torch(Pairs(SIZES), Pairs(SIZES)),
        r"examples of \(4, 4, 3\) and \(6, 5, 3\)",
    ),
    "not pairs": (lambda: torch(PICTURES), "example 0 of list is .*; it must be a pair"),
    "empty": (lambda: torch(Pairs([])), "Pairs: train is empty"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_told(name):
    make, why = WRONG[name]
    with pytest.raises(InputError, match=why):
        make()
