"""How the compiler is told what kind of program it has."""

import jax
import jax.numpy as jnp

from cls_jax.nets.convolution import convolve
from cls_jax.training.parallel import BY_EIGEN
from cls_jax.training.plan import Plan, resolve
from cls_jax.training.programs import make_programs
from tests.conftest import small_method


def test_only_what_convolves_is_compiled_for_eigen(stream):
    found = {}
    for name in ("sgd", "dualnet"):
        method = small_method(name)
        programs = make_programs(method, stream, resolve(Plan(), method, stream, 1))
        found[name] = programs.parallelism.convolutional
    assert found == {"sgd": False, "dualnet": True}


def test_eigen_convolves_under_these_options():
    def weight_gradient(kernel, x):
        return jax.grad(lambda kernel: jnp.sum(convolve(x, kernel, 1) ** 2))(kernel)

    kernel, x = jnp.ones((3, 3, 32, 32)), jnp.ones((32, 16, 16, 32))
    options = {**BY_EIGEN, "xla_backend_optimization_level": 3}  # as users compile it
    jitted = jax.jit(weight_gradient, compiler_options=options)
    program = jitted.lower(kernel, x).compile().as_text()
    assert " convolution(" in program
    assert "__ynn_fusion" not in program
