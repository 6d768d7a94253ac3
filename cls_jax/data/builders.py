"""CIFAR-10, CIFAR-100, MNIST and Fashion-MNIST as prepared tfds data sets, without TensorFlow.

tfds's own builders of these four need TensorFlow to unpack and to encode PNG. Ours read the
official archive, brought by hand or downloaded, check its hash, and write ArrayRecord with tfds's
names, versions, features, keys and splits, so a folder prepared by either is read the same.
"""

import gzip
import io
import pickle
import struct
import tarfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cls_jax.core.errors import InputError
from cls_jax.data.download import Archive, build, check, download, staging, unreachable_host


class Raw(NamedTuple):
    """A parsed set: ``images[split]`` uint8[n, h, w, c], ``labels[split][key]``, ``names[key]``."""

    images: Mapping[str, np.ndarray]
    labels: Mapping[str, Mapping[str, Any]]
    names: Mapping[str, list[str]]


class Classic(NamedTuple):
    """How one set is published.

    Attributes:
      version: of tfds's builder, which ours stands in for.
      folders: sub-folders in which archives brought by hand are looked for.
      variants: complete sets of archives, any of which will do; the first is the one downloaded.
      parse: contents by file name -> Raw.
      has_id: whether the features hold ``id``, e.g. "train_00000".
      about: home page.
    """

    version: str
    folders: tuple[str, ...]
    variants: tuple[tuple[Archive, ...], ...]
    parse: Callable[[Mapping[str, bytes]], Raw]
    has_id: bool
    about: str


# label key of tfds, keys of labels and of names in the python archive, file of names in the binary
_CIFAR10 = (("label", b"labels", b"label_names", "batches.meta.txt"),)
_CIFAR100 = (
    ("coarse_label", b"coarse_labels", b"coarse_label_names", "coarse_label_names.txt"),
    ("label", b"fine_labels", b"fine_label_names", "fine_label_names.txt"),
)
_CLOTHES = [
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
]


class _ArraysOnly(pickle.Unpickler):
    """Unpickles containers, bytes, text, numbers and NumPy arrays; nothing that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            module = "numpy multiarray"
        if (module, name) == ("numpy multiarray", "_reconstruct"):
            return np.ndarray.__reduce__(np.empty(0))[0]
        allowed = {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}
        if (module, name) in allowed:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"refused {module}.{name}")


def _parse_cifar(archives: Mapping[str, bytes], keys: tuple[tuple, ...]) -> Raw:
    """Either form of a CIFAR archive; in both the examples stand in the same order."""
    ((file, content),) = archives.items()
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as tar:
        members = {
            Path(m.name).name: opened.read()
            for m in tar
            if m.isfile() and (opened := tar.extractfile(m)) is not None
        }
    images: dict[str, np.ndarray] = {}
    labels: dict[str, dict[str, np.ndarray]] = {}
    for split, prefixes in (("train", ("data_batch_", "train")), ("test", ("test",))):
        parts = [members[m] for m in sorted(members) if m.startswith(prefixes)]
        if "-python" in file:
            read = [_ArraysOnly(io.BytesIO(part), encoding="bytes").load() for part in parts]
            pixels = np.concatenate([part[b"data"] for part in read])
            labels[split] = {
                key: np.concatenate([part[source] for part in read]) for key, source, _, _ in keys
            }
        else:
            rows = np.frombuffer(b"".join(parts), np.uint8).reshape(-1, len(keys) + 3072)
            pixels = rows[:, len(keys) :]
            labels[split] = {key: rows[:, i] for i, (key, _, _, _) in enumerate(keys)}
        images[split] = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    if "-python" in file:
        meta = members["batches.meta" if "batches.meta" in members else "meta"]
        stored = _ArraysOnly(io.BytesIO(meta), encoding="bytes").load()
        names = {key: [n.decode() for n in stored[source]] for key, _, source, _ in keys}
    else:
        names = {key: members[source].decode().split() for key, _, _, source in keys}
    return Raw(images, labels, names)


def _parse_idx(archives: Mapping[str, bytes], names: list[str]) -> Raw:
    """MNIST's four files: big-endian header (type, dimensions), then bytes."""

    def read(file: str) -> np.ndarray:
        content = gzip.decompress(archives[f"{file}.gz"])
        shape = struct.unpack_from(f">{content[3]}I", content, 4)
        return np.frombuffer(content, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)

    parts = {"train": "train", "test": "t10k"}
    return Raw(
        {split: read(f"{part}-images-idx3-ubyte")[..., None] for split, part in parts.items()},
        {split: {"label": read(f"{part}-labels-idx1-ubyte")} for split, part in parts.items()},
        {"label": names},
    )


def _cifar(name: str, keys: tuple[tuple, ...], sha256: str, md5: str) -> Classic:
    url = f"https://www.cs.toronto.edu/~kriz/{name}"
    archives = [
        (Archive(f"{name}-{form}.tar.gz", f"{url}-{form}.tar.gz", digest),)
        for form, digest in (("binary", f"sha256:{sha256}"), ("python", f"md5:{md5}"))
    ]
    home = "https://www.cs.toronto.edu/~kriz/cifar.html"
    return Classic("3.0.2", ("",), tuple(archives), partial(_parse_cifar, keys=keys), True, home)


def _mnist(
    folders: tuple[str, ...], url: str, names: list[str], home: str, digests: Mapping[str, str]
) -> Classic:
    archives = tuple(
        Archive(f"{file}-ubyte.gz", f"{url}/{file}-ubyte.gz", f"sha256:{digest}")
        for file, digest in digests.items()
    )
    return Classic("3.0.1", folders, (archives,), partial(_parse_idx, names=names), False, home)


# Hashes: tensorflow_datasets/url_checksums/*.txt (sha256); the CIFAR page itself (md5).
CLASSICS = {
    "cifar10": _cifar(
        "cifar-10",
        _CIFAR10,
        "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        "c58f30108f718f92721af3b95e74349a",
    ),
    "cifar100": _cifar(
        "cifar-100",
        _CIFAR100,
        "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        "eb9058c3a382ffc7106e4002c42a8d85",
    ),
    "mnist": _mnist(
        ("", "mnist"),
        "https://storage.googleapis.com/cvdf-datasets/mnist",
        [str(i) for i in range(10)],
        "http://yann.lecun.com/exdb/mnist/",
        {
            "train-images-idx3": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "train-labels-idx1": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "t10k-images-idx3": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "t10k-labels-idx1": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        },
    ),
    "fashion_mnist": _mnist(
        ("fashion_mnist",),
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        _CLOTHES,
        "https://github.com/zalandoresearch/fashion-mnist",
        {
            "train-images-idx3": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "train-labels-idx1": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "t10k-images-idx3": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "t10k-labels-idx1": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        },
    ),
}


def prepare_classic(name: str, root: Path) -> Path:
    """The version folder under ``root`` of a set of ``CLASSICS``, prepared now.

    Args:
      name: key of ``CLASSICS``.
      root: tfds's data_dir; made where it is missing. On failure nothing is left in it.

    Returns:
      root/name/version, holding ArrayRecord files.

    Raises:
      InputError: a wrong archive, no archive and no network, or a directory that is not writable.
    """
    classic = CLASSICS[name]
    places = [root, root / "downloads", root / "downloads" / "manual"]
    places = [place / folder for folder in classic.folders for place in places]
    found = {
        archive.file: next(p / archive.file for p in places if (p / archive.file).is_file())
        for variant in classic.variants
        for archive in variant
        if any((place / archive.file).is_file() for place in places)
    }
    wholes = (v for v in classic.variants if all(archive.file in found for archive in v))
    chosen = next(wholes, classic.variants[0])
    missing = [archive for archive in chosen if archive.file not in found]
    by_hand = (
        f"put {' or '.join(', '.join(a.file for a in v) for v in classic.variants)} into "
        f"{root / classic.folders[-1]}, or set TFDS_DATA_DIR to a directory that holds {name} "
        f'prepared (on a connected machine: python -c "import cls_jax; '
        f"cls_jax.load_data('{name}', data_dir='DIR')\")"
    )
    if missing and (host := unreachable_host(missing[0].url)):
        raise InputError(
            f"data set {name!r} is not prepared in {root} and its host {host} does not answer; "
            f"{by_hand}"
        )
    contents = {a.file: found[a.file].read_bytes() for a in chosen if a.file in found}
    for archive in chosen:
        if archive.file in found:
            where = str(found[archive.file])
            check(archive, contents[archive.file], where, "delete it and bring it again")
    with staging(root) as stage:
        for archive in missing:
            contents[archive.file] = content = download(archive.url, by_hand)
            check(archive, content, archive.url, "try again, or bring it by hand")
        builder = _builder(name, classic, classic.parse(contents), stage)
        return build(builder, stage, root)


def _builder(dataset: str, classic: Classic, raw: Raw, stage: Path) -> Any:
    """tfds's builder for ``raw``; images go in as PNG bytes, which needs no TensorFlow."""
    import tensorflow_datasets as tfds
    from PIL import Image

    features: dict[str, Any] = {"image": tfds.features.Image(shape=raw.images["train"].shape[1:])}
    features |= {key: tfds.features.ClassLabel(names=n) for key, n in raw.names.items()}
    if classic.has_id:
        features["id"] = tfds.features.Text()

    class Info(tfds.core.DatasetInfo):
        def initialize_from_bucket(self) -> None:
            """Asks no server: all there is to know is in the archive."""

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = dataset
        VERSION = tfds.core.Version(classic.version)

        def _info(self):
            return Info(
                builder=self,
                description=f"{dataset}, written by cls_jax from the official archive.",
                features=tfds.features.FeaturesDict(features),
                supervised_keys=("image", "label"),
                homepage=classic.about,
            )

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in raw.images}

        def _generate_examples(self, split):
            for i, image in enumerate(raw.images[split]):
                png = io.BytesIO()
                pixels = np.ascontiguousarray(image[..., 0] if image.shape[2] == 1 else image)
                Image.fromarray(pixels).save(png, "PNG", compress_level=1)
                example: dict[str, Any] = {
                    key: int(values[i]) for key, values in raw.labels[split].items()
                }
                if classic.has_id:
                    example["id"] = f"{split}_{i:05d}"
                yield i, example | {"image": png.getvalue()}

    return Builder(data_dir=stage, file_format="array_record")
