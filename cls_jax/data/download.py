"""Bringing data in: ask whether a host answers, download, check, build aside and move in place."""

import contextlib
import hashlib
import http.client
import io
import os
import socket
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from cls_jax.core.errors import InputError

_PROBE_SECONDS = 5.0
_DOWNLOAD_ATTEMPTS = 2


class Archive(NamedTuple):
    """A file as its authors publish it; ``digest`` is ``algorithm:hexdigits``."""

    file: str
    url: str
    digest: str


def check(archive: Archive, content: bytes, where: str, remedy: str) -> None:
    """Raises InputError where ``content``, found at ``where``, has not the archive's digest."""
    algorithm, _, digest = archive.digest.partition(":")
    got = hashlib.new(algorithm, content, usedforsecurity=False).hexdigest()
    if got != digest:
        raise InputError(
            f"{where} ({len(content)} bytes) is not the official {archive.file}: its {algorithm} "
            f"is {got}, not {digest}; {remedy}"
        )


def unreachable_host(url: str, seconds: float = _PROBE_SECONDS) -> str | None:
    """The host (or the proxy before it) that does not answer for ``url`` in time, else None.

    A thread bounds the time, since the look-up of a name knows no timeout of its own.
    """
    parts = urllib.parse.urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(parts.hostname or ""):
        parts = urllib.parse.urlsplit(proxy if "//" in proxy else f"//{proxy}")
    answered = threading.Event()

    def probe() -> None:
        with contextlib.suppress(OSError):
            port = parts.port or (80 if parts.scheme == "http" else 443)
            socket.create_connection((parts.hostname, port), timeout=seconds).close()
            answered.set()

    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(seconds)
    return None if answered.is_set() else parts.hostname


def download(url: str, by_hand: str) -> bytes:
    """The content behind ``url``; it stays in memory, so a failure leaves nothing behind."""
    print(f"downloading {url}", file=sys.stderr)
    for attempt in range(_DOWNLOAD_ATTEMPTS):
        try:
            with urllib.request.urlopen(url, timeout=20) as response:
                return response.read()
        except (OSError, http.client.HTTPException) as error:
            failure = error
            time.sleep(attempt)
    raise InputError(f"{url} cannot be downloaded ({failure}); try again, or {by_hand}")


@contextlib.contextmanager
def staging(root: Path) -> Iterator[Path]:
    """A hidden folder in ``root``, gone afterwards; so is ``root`` if it is still empty then.

    While it stands it is also the default of ``tempfile``: tfds leaves temporary folders behind.
    """
    made = [path for path in (root, *root.parents) if not path.exists()]
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".cls_jax-", dir=root) as folder:
            usual, tempfile.tempdir = tempfile.tempdir, folder
            try:
                yield Path(folder)
            finally:
                tempfile.tempdir = usual
    except OSError as error:
        raise InputError(
            f"data_dir={str(root)!r} cannot be written ({error}); give data_dir or "
            "TFDS_DATA_DIR a writable directory with room"
        ) from error
    finally:
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()


def build(builder: Any, stage: Path, root: Path, **options: Any) -> Path:
    """Prepares ``builder``, whose data_dir is ``stage``, and moves its version folder to ``root``.

    Whoever reads ``root`` sees the whole data set or none; of two processes the first one wins.
    """
    import tensorflow_datasets as tfds

    config = tfds.download.DownloadConfig(try_download_gcs=False, **options)
    with contextlib.redirect_stdout(io.StringIO()):  # tfds tells stdout a folder that will move
        builder.download_and_prepare(download_dir=stage / "downloads", download_config=config)
    built = Path(builder.data_dir)
    target = root / built.relative_to(stage)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.replace(built, target)
    except OSError:
        if not (target / "dataset_info.json").is_file():
            raise
    return target
