"""The official archives of the four classics, fabricated small, and how they are brought."""

import gzip
import hashlib
import io
import pickle
import struct
import tarfile

import numpy as np

from cls_jax.data import builders as classics
from cls_jax.data import download as fetch

RNG = np.random.default_rng(0)
CIFAR_X = {
    s: RNG.integers(0, 256, (n, 32, 32, 3), np.uint8) for s, n in (("train", 40), ("test", 8))
}
CIFAR_Y = {s: RNG.permutation(np.arange(len(x)) % 10).astype(np.uint8) for s, x in CIFAR_X.items()}
COARSE_Y = {s: (y // 2).astype(np.uint8) for s, y in CIFAR_Y.items()}
CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck".split()  # noqa: SIM905
FINE, COARSE = [f"fine_{i}" for i in range(100)], [f"coarse_{i}" for i in range(20)]
MNIST_X = {s: RNG.integers(0, 256, (n, 28, 28), np.uint8) for s, n in (("train", 30), ("t10k", 20))}
MNIST_Y = {s: (np.arange(len(x)) % 10).astype(np.uint8) for s, x in MNIST_X.items()}


def targz(members):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(f"folder/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return content.getvalue()


def py2(value):
    """Opcodes as Python 2 and the NumPy of its day wrote them, which the archives hold."""
    if isinstance(value, bytes):
        return b"T" + struct.pack("<I", len(value)) + value
    if isinstance(value, list):
        return b"](" + b"".join(map(py2, value)) + b"e"
    if isinstance(value, dict):
        return b"}(" + b"".join(py2(k) + py2(v) for k, v in value.items()) + b"u"
    if isinstance(value, np.ndarray):
        integers = b"".join(b"J" + struct.pack("<i", n) for n in value.shape)
        return (
            b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
            b"(K\x01(" + integers + b"tcnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNN"
            b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89" + py2(value.tobytes()) + b"tb"
        )
    return b"J" + struct.pack("<i", value)


def py2_pickle(value):
    return b"\x80\x02" + py2(value) + b"."


def rows(split, *labels):
    pixels = CIFAR_X[split].transpose(0, 3, 1, 2).reshape(len(CIFAR_X[split]), -1)
    return np.concatenate([*(y[split][:, None] for y in labels), pixels], 1)


def cifar10_binary():
    parts = np.split(rows("train", CIFAR_Y), 5)
    members = {f"data_batch_{i + 1}.bin": part.tobytes() for i, part in enumerate(parts)}
    members |= {"test_batch.bin": rows("test", CIFAR_Y).tobytes(), "readme.html": b"train"}
    return targz(members | {"batches.meta.txt": "\n".join([*CIFAR10, "", ""]).encode()})


def cifar10_python():
    def part(table):
        return py2_pickle(
            {b"data": np.ascontiguousarray(table[:, 1:]), b"labels": table[:, 0].tolist()}
        )

    parts = np.split(rows("train", CIFAR_Y), 5)
    members = {f"data_batch_{i + 1}": part(table) for i, table in enumerate(parts)}
    names = py2_pickle({b"label_names": [n.encode() for n in CIFAR10]})
    return targz(members | {"test_batch": part(rows("test", CIFAR_Y)), "batches.meta": names})


def cifar100_binary():
    members = {f"{s}.bin": rows(s, COARSE_Y, CIFAR_Y).tobytes() for s in CIFAR_X}
    for kind, names in (("fine", FINE), ("coarse", COARSE)):
        members[f"{kind}_label_names.txt"] = ("\n".join(names) + "\n").encode()
    return targz(members)


def cifar100_python():
    members = {
        split: pickle.dumps(
            {
                b"data": rows(split),
                b"fine_labels": CIFAR_Y[split].tolist(),
                b"coarse_labels": COARSE_Y[split].tolist(),
            },
            protocol=2,
        )
        for split in CIFAR_X
    }
    names = {b"fine_label_names": FINE, b"coarse_label_names": COARSE}
    names = {key: [n.encode() for n in value] for key, value in names.items()}
    return targz(members | {"meta": pickle.dumps(names, protocol=2)})


def mnist_files():
    files = {}
    for part in MNIST_X:
        x, y = MNIST_X[part], MNIST_Y[part]
        head = struct.pack(">HBB3I", 0, 8, 3, *x.shape)
        files[f"{part}-images-idx3-ubyte.gz"] = gzip.compress(head + x.tobytes())
        head = struct.pack(">HBBI", 0, 8, 1, len(y))
        files[f"{part}-labels-idx1-ubyte.gz"] = gzip.compress(head + y.tobytes())
    return files


def trust(monkeypatch, name, files, url="https://no-such-host.invalid"):
    """Makes ``files`` (name -> content) the official ones of ``name``, published at ``url``."""
    classic = classics.CLASSICS[name]

    def trusted(a):
        digest = (
            f"sha256:{hashlib.sha256(files[a.file]).hexdigest()}" if a.file in files else a.digest
        )
        return fetch.Archive(a.file, f"{url}/{a.file}", digest)

    variants = tuple(tuple(map(trusted, variant)) for variant in classic.variants)
    monkeypatch.setitem(classics.CLASSICS, name, classic._replace(variants=variants))


def bring(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
