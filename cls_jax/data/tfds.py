"""Sources from tfds data sets prepared on disk, read without TensorFlow; preparing them at need."""

import difflib
import importlib.util
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cls_jax.core.errors import InputError
from cls_jax.core.host_memory import check_bytes
from cls_jax.data.builders import CLASSICS, prepare_classic
from cls_jax.data.cache import Store, cache_folder, cached, file_digest
from cls_jax.data.dataset import Dataset, Split
from cls_jax.data.download import build, staging, unreachable_host
from cls_jax.data.foreign import check_folder, check_inside, only_pictures
from cls_jax.data.local import resize

_NAME = re.compile(r"(?P<dataset>\w+)(/(?P<config>[^:/]+))?(:(?P<version>\d+\.\d+\.\d+))?")
_FORMATS = ("array_record", "tfrecord")
_BLOCK = 1024
_LOCAL_FORMS = "digits, npz:FILE or folder:DIR"


def load_tfds(
    name: str, data_dir: str | None = None, size: int | None = None, *, read_only: bool = False
) -> Dataset:
    """The source of a tfds data set, prepared first where it is not; see ``load.load``."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise InputError(
            f"name={name!r} names no data set; it must be {_LOCAL_FORMS}, or a tfds data set as "
            "'name', 'name/config', 'name:1.2.3' or 'name/config:1.2.3'"
        )
    dataset, config, version = match["dataset"], match["config"], match["version"]
    where = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    root = Path(where).expanduser()
    folder = _find(root, dataset, config, version)
    if folder is None and read_only:
        raise InputError(
            f"data set {name!r} is not prepared in {root}, and nothing is written into a folder "
            "that a saved run names; give it yourself with --data-dir to have it prepared there"
        )
    if folder is None and dataset in CLASSICS:
        ours = CLASSICS[dataset].version
        if config or version not in (None, ours):
            raise InputError(
                f"data set {name!r} is not prepared in {root}, and {dataset}:{ours} is the only "
                f"one that can be prepared here; ask for {dataset!r}"
            )
        folder = prepare_classic(dataset, root)
    elif folder is None:
        folder = _prepare_stock(name, dataset, config, root)
    files = sorted(f for f in folder.iterdir() if f.is_file())
    parts = folder.relative_to(root).parts
    place = [str(root.resolve())] if read_only else []
    digest = file_digest((*place, *parts, str(size)), ((f.name, f.stat()) for f in files))
    cache = cache_folder(None if read_only else root) / f"{'-'.join(parts)}-{digest}"
    title = dataset if config is None else f"{dataset}/{config}"

    def make(store: Store) -> Dataset:
        try:
            return _read(title, folder, size, store)
        except InputError:
            raise
        except Exception as error:  # a damaged file is told by whatever its reader raises
            raise InputError(
                f"data set {title!r} in {folder} cannot be read ({_line(error)}); copy the folder "
                "again, or delete it to have it prepared anew"
            ) from error

    return cached(cache, title, make)


def _find(root: Path, dataset: str, config: str | None, version: str | None) -> Path | None:
    """The prepared version folder (the highest version if none is asked for), or None."""
    base = root / dataset / config if config else root / dataset

    def versions(folder: Path) -> list[Path]:
        found = (path.parent for path in folder.glob("*/dataset_info.json"))
        return [path for path in found if re.fullmatch(r"\d+\.\d+\.\d+", path.name)]

    if version is not None:
        prepared = base / version
        return prepared if (prepared / "dataset_info.json").is_file() else None
    if config is None and not versions(base) and base.is_dir():
        configs = sorted(child.name for child in base.iterdir() if versions(child))
        if configs:
            raise InputError(
                f"data set {dataset!r} has several configurations and {', '.join(configs)} is "
                f"prepared in {root}; name one, e.g. '{dataset}/{configs[0]}'"
            )
    numbers = {path: tuple(int(n) for n in path.name.split(".")) for path in versions(base)}
    return max(numbers, key=numbers.__getitem__, default=None)


def _prepare_stock(name: str, dataset: str, config: str | None, root: Path) -> Path:
    """The version folder of a set prepared by tfds's own builder, which needs TensorFlow."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import downloader

    known = tfds.list_builders(with_community_datasets=False)
    if dataset not in known:
        near = difflib.get_close_matches(dataset, [*known, "digits"], n=3, cutoff=0.5)
        raise InputError(
            f"{dataset!r} is neither prepared in {root} nor a data set of tfds"
            f"{'; near it are ' + ', '.join(near) if near else ''}; "
            f"the local forms are {_LOCAL_FORMS}"
        )
    elsewhere = (
        "prepare it on another machine with file_format='array_record' and copy the folder there, "
        "or set TFDS_DATA_DIR to a directory that holds it"
    )
    if not _has_tensorflow():
        raise InputError(
            f"data set {name!r} is not prepared in {root}, and tfds needs TensorFlow to prepare "
            f'it; install the extra (pip install "cls_jax[tf]"), or {elsewhere}'
        )
    cls = tfds.builder_cls(dataset)
    configs = [c.name for c in cls.BUILDER_CONFIGS]
    if configs and config not in configs:
        raise InputError(
            f"data set {name!r} needs one of its configurations, e.g. '{dataset}/{configs[0]}'; "
            f"there are {', '.join(configs[:20])}"
        )
    manual = root / "downloads" / "manual"
    infos = (cls.url_infos or {}).items()
    missing = {url: i.filename for url, i in infos if not (manual / i.filename).is_file()}
    for url in {url.split("/")[2]: url for url in missing if "//" in url}.values():
        if host := unreachable_host(url):
            raise InputError(
                f"data set {name!r} is not prepared in {root} and its host {host} does not "
                f"answer; put {', '.join([*missing.values()][:5])} into {manual}, or {elsewhere}"
            )
    retries, downloader.MAX_RETRIES = downloader.MAX_RETRIES, 2
    try:
        with staging(root) as stage:
            try:
                builder = tfds.builder(name, data_dir=stage, file_format="array_record")
                return build(builder, stage, root, manual_dir=manual)
            except Exception as error:  # whatever a foreign builder raises
                raise InputError(
                    f"tfds could not prepare {name!r} ({_line(error)}); {elsewhere}"
                ) from error
    finally:
        downloader.MAX_RETRIES = retries


def _line(error: Exception) -> str:
    """An error of someone else's on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _has_tensorflow() -> bool:
    return importlib.util.find_spec("tensorflow") is not None


def _opened(folder: Path) -> Any:
    """A prepared version folder's builder, whose annotations are those of one not yet prepared."""
    import tensorflow_datasets as tfds

    return tfds.builder_from_directory(folder)


def _read(title: str, folder: Path, size: int | None, store: Store) -> Dataset:
    """A prepared version folder as a source, every example decoded."""
    check_folder(title, folder)
    builder = _opened(folder)
    info = builder.info
    features, splits = list(info.features or ()), list(info.splits)
    if not {"image", "label"} <= set(features):
        raise InputError(
            f"data set {title!r} has the features {', '.join(sorted(features))}; only sets with "
            "'image' and 'label' can be read"
        )
    test = next((split for split in ("test", "validation") if split in splits), None)
    if "train" not in splits or test is None:
        raise InputError(
            f"data set {title!r} has the splits {', '.join(splits)}; it needs 'train', and 'test' "
            "or 'validation'"
        )
    used = {split: info.splits[split] for split in ("train", test)}
    if info.file_format.value not in _FORMATS:
        raise InputError(
            f"data set {title!r} is prepared as {info.file_format.value}; only {_FORMATS[0]} and "
            f"{_FORMATS[1]} can be read: prepare it with file_format={_FORMATS[0]!r}"
        )
    paths = [f for split in used.values() for f in split.filepaths]
    check_inside(title, folder, paths)
    lost = [f for f in paths if not Path(f).is_file()]
    if lost:
        raise InputError(
            f"data set {title!r} in {folder} lacks {len(lost)} of its files, e.g. "
            f"{Path(lost[0]).name}; copy the folder again, or delete it to have it prepared anew"
        )
    count = sum(split.num_examples for split in used.values())
    check_bytes(
        f"data set {title!r} in {folder}, whose dataset_info.json declares {count} examples,",
        8 * count,
        "copy the folder again, or delete it to have it prepared anew",
    )
    only_pictures(title, info.features)
    store.begin(count)
    train, held = (_split(title, builder, split, folder, size, store) for split in used)
    if train.x.shape[1:] != held.x.shape[1:]:
        raise _ragged(title, train.x.shape[1:], held.x.shape[1:])
    names = getattr(info.features["label"], "names", None)
    classes = int(max(train.y.max(), held.y.max())) + 1
    names = tuple(names) if names else tuple(str(i) for i in range(classes))
    if len(names) < classes:
        raise InputError(
            f"data set {title!r} has label {classes - 1} but names for {len(names)} classes; "
            "its folder is damaged: delete it to have it prepared anew"
        )
    return Dataset(title, train, held, names)


def _split(
    title: str, builder: Any, split: str, folder: Path, size: int | None, store: Store
) -> Split:
    """One split as arrays, in the order of ``id`` if there is one, else as stored."""
    count = builder.info.splits[split].num_examples
    place = "train" if split == "train" else "test"
    y, ids = np.empty(count, np.int64), []

    def images() -> Iterator[np.ndarray]:
        read, shape = 0, None
        for read, example in enumerate(_examples(title, builder, split), 1):
            image = np.asarray(example["image"])
            if image.dtype != np.uint8 or image.ndim != 3 or np.ndim(example["label"]) != 0:
                raise InputError(
                    f"data set {title!r} holds images {image.dtype}{[*image.shape]} with labels of "
                    f"shape {[*np.shape(example['label'])]}; only uint8[h, w, c] with one integer "
                    "label can be read"
                )
            image = image if size is None else resize(image, size)
            shape = image.shape if shape is None else shape
            if image.shape != shape:
                raise _ragged(title, shape, image.shape)
            if read <= count:
                y[read - 1] = example["label"]
                ids.append(example.get("id"))
                yield image
        if read == 0 or read != count:
            raise InputError(
                f"data set {title!r} in {folder} holds {read} examples in split {split!r}, not the "
                f"{count} of its dataset_info.json; delete the folder to have it prepared anew"
            )

    x = store.rows(place, count, images())
    if y.min() < 0:
        raise InputError(f"data set {title!r} hides the labels of its split {split!r}; take another"
                         " set, or give its labelled part as npz:FILE or folder:DIR")  # fmt: skip
    if np.ndim(ids[0]) == 0 and ids[0] is not None:
        order = np.argsort(np.array(ids), kind="stable")
        x, y = store.reordered(place, x, order), y[order]
    return Split(x, y.astype(np.int32))


def _ragged(title: str, one: tuple[int, ...], other: tuple[int, ...]) -> InputError:
    return InputError(
        f"data set {title!r} holds images of differing shapes, {[*one]} and {[*other]}; give size, "
        "to which they are resized"
    )


def _examples(title: str, builder: Any, split: str) -> Iterator[dict[str, Any]]:
    """The decoded examples of a split as stored."""
    info = builder.info
    if info.file_format.value == _FORMATS[0]:
        source = builder.as_data_source(split=split)
        for start in range(0, len(source), _BLOCK):
            yield from source.__getitems__(range(start, min(start + _BLOCK, len(source))))
    else:
        for path in info.splits[split].filepaths:
            for record in tfrecords(Path(path)):
                yield info.features.deserialize_example_np(record)


def tfrecords(path: Path) -> Iterator[bytes]:
    """The records of a TFRecord file: length, its checksum, data, its checksum (not verified)."""
    with open(path, "rb") as file:
        while header := file.read(12):
            (length,) = struct.unpack("<Q", header[:8]) if len(header) == 12 else (0,)
            data, checksum = file.read(length), file.read(4)
            if len(header) + len(data) + len(checksum) != 16 + length:
                raise InputError(f"{path} ends in the middle of a record; copy it again")
            yield data
