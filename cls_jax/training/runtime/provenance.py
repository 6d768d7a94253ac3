"""What made a result: the command line, the commit, the versions, the device."""

import functools
import hashlib
import platform
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from cls_jax.core.own import FILES
from cls_jax.core.version import PACKAGE, __version__


def software() -> dict[str, str]:
    """What computes: versions of the packages that fix the numbers, digests of our code and of
    every file of the user's that was imported."""
    digest = hashlib.blake2b(digest_size=8)
    package = PACKAGE
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + path.read_bytes())
    packages = ("jax", "jaxlib", "flax", "optax", "numpy")
    own = {"cls_jax": digest.hexdigest(), **FILES}
    return {name: metadata.version(name) for name in packages} | own


def provenance() -> dict[str, Any]:
    """What made a result: command line, commit, versions, device."""
    import jax

    device, mine = jax.devices()[0], {"cls_jax": __version__}
    return {
        "command": command(),
        "commit": commit(),
        "versions": {**software(), **mine, "python": platform.python_version()},
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            "count": jax.device_count(),
        },
    }


def command() -> str:
    """The command line of this process, or of %run in a notebook, ready for a shell."""
    script = Path(sys.argv[0])
    if script.name == "cls-jax" or script == PACKAGE / "__main__.py":  # wherever pip put them
        return shlex.join(["cls-jax", *sys.argv[1:]])
    in_notebook = any("kernel_launcher" in part for part in sys.orig_argv)  # Jupyter's, Colab's
    return shlex.join(["python", *(sys.argv if in_notebook else sys.orig_argv[1:])])


@functools.cache
def commit() -> str | None:
    """The git commit of the package, "-dirty" if tracked files differ; None outside a checkout.

    Asked once a process, so that a commit made during a long run does not enter its record.
    """
    package = PACKAGE

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(package), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # installed into someone's checkout: no
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):
        return None
