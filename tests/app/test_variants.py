"""SPB's variants: each changes arguments that SPB has, where no flag was given before."""

from types import SimpleNamespace

import pytest

from cls_jax.app.method_flags import flags_of
from cls_jax.app.published.spb_variants import VARIANTS
from cls_jax.app.variants import SPB_AND_UCIR, spb_and_ucir
from cls_jax.core.errors import InputError
from cls_jax.methods import signature


def arguments_of(labels, **flags):
    """Label -> arguments of the variants of these flags, which SPB and UCIR share alone."""
    config = SimpleNamespace(variants=tuple(labels), method=flags_of("spb")(**flags))
    config.ucir = flags_of("ucir")(replay_size=9)
    return {label: one.arguments for label, one in spb_and_ucir(config).items()}


def usual(name="spb"):
    """What a method is without flags."""
    return {key: one.default for key, one in signature(name).arguments.items()}


def test_variants_change_what_the_flags_left_alone():
    found = arguments_of(["spb_m", "no_raw", "ucir_no_exemplars"], rotations=2)
    assert list(found) == ["spb_m", "no_raw", "ucir_no_exemplars"]
    assert found["spb_m"] == {**usual(), "rotations": 2}
    assert found["no_raw"] == {**usual(), "rotations": 2, "weighting": "equal"}
    without = {**usual("ucir"), "replay_size": 9, "exemplars_per_class": 0}
    assert found["ucir_no_exemplars"] == without
    assert arguments_of(["spb_m"])["spb_m"]["rotations"] == 4
    assert arguments_of(["spb"]) == {"spb": usual()}
    assert tuple(arguments_of(["all"])) == SPB_AND_UCIR
    assert all(set(change) <= set(usual()) for change in VARIANTS.values())


@pytest.mark.parametrize("labels", [[], ["spb", "spb"], ["spbm"]])
def test_labels_that_are_none_or_stand_twice_are_refused(labels):
    with pytest.raises(InputError, match="name each once, from finetune"):
        arguments_of(labels)


@pytest.mark.parametrize("name", ["spb_i", "spb_m"])
def test_the_table_of_methods_has_the_same_variants(name):
    assert usual(name) == {**usual(), **VARIANTS[name]}
