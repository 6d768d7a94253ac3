"""Methods made for a test: of an algorithm, or an existing one with parts exchanged."""

import dataclasses

from cls_jax.methods.base import Algorithm, Method, make_method


def method_of(name: str, **parts) -> Method:
    """A method without hyper-parameters, of these parts of an Algorithm."""
    algorithm = Algorithm(**parts)
    return make_method(name, lambda hyper: algorithm)


def exchanged(method: Method, **parts) -> Method:
    """The method with these parts of its Algorithm in place of its own."""
    if "phases" in parts:
        parts["step"] = None
    elif "step" in parts:
        parts["phases"] = ()

    def at(hyper):
        algorithm = method.at(hyper)
        if "phases" not in parts and "step" not in parts:
            return dataclasses.replace(algorithm, step=None, **parts)
        return dataclasses.replace(algorithm, **parts)

    return make_method(method.name, at, method.hyper, method.factory, method.fixed)
