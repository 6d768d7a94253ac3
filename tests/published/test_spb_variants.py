"""The variants of SPB: each is made by arguments that ``spb`` has, and flags go before them."""

import pytest

from cls_jax.core.errors import InputError
from cls_jax.methods import signature
from cls_jax.published.spb_variants import VARIANTS, spb_variants


def test_variants_change_what_the_flags_left_alone():
    usual = {name: one.default for name, one in signature("spb").arguments.items()}
    found = spb_variants({**usual, "rotations": 2}, ["spb_m", "no_raw"])
    assert found["spb_m"]["rotations"] == 2
    assert found["no_raw"]["weighting"] == "equal"
    assert spb_variants(usual, ["spb_m"])["spb_m"] == {**usual, "rotations": 4}
    assert spb_variants(usual, ["spb"]) == {"spb": usual}
    assert spb_variants({"rotations": 2}, ["spb_m"]) == {"spb_m": {"rotations": 2}}
    assert spb_variants({}, ["spb_m", "ucir"], others=["ucir"]) == {"spb_m": {"rotations": 4}}
    for labels in ([], ["spb", "spb"], ["spbm"]):
        with pytest.raises(InputError, match="name each once, from finetune"):
            spb_variants({}, labels)
    assert all(set(change) <= set(usual) for change in VARIANTS.values())


@pytest.mark.parametrize("name", ["spb_i", "spb_m"])
def test_the_table_of_methods_has_the_same_variants(name):
    usual = {key: one.default for key, one in signature("spb").arguments.items()}
    found = {key: one.default for key, one in signature(name).arguments.items()}
    assert found == {**usual, **VARIANTS[name]}
