"""The weights of the network that answers, as a file of flax's msgpack or of safetensors."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.serialization import msgpack_serialize, to_state_dict
from flax.traverse_util import flatten_dict

from cls_jax.app.answers import answer_of, known_problem, shapes_of
from cls_jax.core.errors import InputError
from cls_jax.core.files import write_file
from cls_jax.core.paths import check_file, writing
from cls_jax.core.types import PyTree, Variables
from cls_jax.methods.base import Method
from cls_jax.training.capacity import leaves_read

SUFFIXES = (".msgpack", ".safetensors")


def save_weights(path: str | Path, method: Method, state: PyTree, *, view: str = "answer") -> None:
    """Writes the weights of the network that answers: {"params": ..., "batch_stats": ...}.

    ``flax.serialization.msgpack_restore`` reads a .msgpack into nested dicts of NumPy arrays. In a
    .safetensors a tensor is named after its path: "params.fc1.kernel".

    Args:
      path: of the file, .msgpack or .safetensors; what is there is written over.
      method: whose state it is, made by a factory.
      state: of one run, e.g. ``result.states[0][0]``.
      view: "answer", or another of the method's networks, as tables name them.

    Raises:
      InputError: for another suffix, a path that cannot be written, a state or view that does not
        fit the method, an answer that is not one network's, or where safetensors is missing.
    """
    file = check_file(path, "path")
    if file.suffix not in SUFFIXES:
        raise InputError(f"path is {str(path)!r}; give a name that ends in {' or '.join(SUFFIXES)}")
    named = _collections(answering_network(method, state, view))
    if file.suffix == ".msgpack":
        content = msgpack_serialize(named)
    else:
        content = _safetensors(named)
    with writing(file, "path"):
        write_file(file, content)


def answering_network(method: Method, state: PyTree, view: str = "answer") -> Variables:
    """The one network that the answer is made with.

    Args:
      method: made by a factory.
      state: of one run.
      view: as of ``save_weights``.

    Raises:
      InputError: the answer reads more than one network of the state.
    """
    predict = answer_of(method, state, view)
    read = leaves_read(predict, state, shapes_of(known_problem(method)))
    flags = jax.tree.unflatten(jax.tree.structure(state), read)
    nodes, flagged = (jax.tree.leaves(tree, is_leaf=_is_network) for tree in (state, flags))
    used = [node for node, of in zip(nodes, flagged, strict=True) if any(jax.tree.leaves(of))]
    if len(used) == 1 and _is_network(used[0]):
        return used[0]
    raise InputError(
        f"{method.name} does not answer by the weights of one network alone, so there is no file "
        "of them; export() takes all along that it answers by"
    )


def _is_network(node: Any) -> bool:
    return isinstance(node, Variables)


def _collections(net: Variables) -> dict[str, Any]:
    """As flax's ``module.apply`` takes them: nested dicts of NumPy arrays."""
    named = {"params": net.params} | ({"batch_stats": net.stats} if net.stats else {})
    return jax.tree.map(np.asarray, to_state_dict(named))


def _safetensors(named: dict[str, Any]) -> bytes:
    """One tensor a leaf, named after its path."""
    try:
        from safetensors.numpy import save  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(
            "a .safetensors file needs safetensors, which is not installed; pip install "
            "safetensors, or give a name that ends in .msgpack"
        ) from error
    flat = flatten_dict(named, sep=".")
    return save({name: np.ascontiguousarray(leaf) for name, leaf in flat.items()})
