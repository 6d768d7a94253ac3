"""SPB's parts and controls: which arguments of ``spb`` make each of them.

Source: Wu, Gong and Li 2021 (ICCV), section 4 and its ablation; the spb card.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from cls_jax.core.errors import InputError
from cls_jax.methods import signature

VARIANTS: dict[str, dict[str, Any]] = {
    "finetune": {"weighting": "none"},
    "no_raw": {"weighting": "equal"},
    "no_raw_new": {"weighting": "equal", "ce_scope": "new"},
    "sqrt": {"weighting": "sqrt"},
    "frozen_extractor": {"freeze_after_base": True},
    "spb": {},
    "spb_new": {"ce_scope": "new"},
    "spb_old_fixed": {"freeze_old_weights": True},
    "spb_i": {"learner": "rotation"},
    "spb_i_contrastive": {"learner": "contrastive"},
    "spb_m": {"rotations": 4},
    "spb_m_logits": {"rotations": 4, "answer": "logits"},
    "joint": {"joint": True},
}
"""Label -> arguments of ``spb`` that make it that method or control."""


def spb_variants(
    arguments: Mapping[str, Any], labels: Sequence[str], others: Sequence[str] = ()
) -> dict[str, dict[str, Any]]:
    """Label -> arguments of ``spb``: VARIANTS's where the given ones do not themselves depart.

    Args:
      arguments: of ``spb``, some or all of them; they hold for every label.
      labels: of VARIANTS, or of ``others``, which are left out.
      others: labels of other methods.

    Raises:
      InputError: for no label, an unknown one, or one twice.
    """
    known = (*VARIANTS, *others)
    if not labels or len({*labels} & {*known}) < len(labels):
        raise InputError(f"variants is {labels}; name each once, from {', '.join(known)}")
    usual = {name: one.default for name, one in signature("spb").arguments.items()}
    chosen = {name for name, value in arguments.items() if value != usual[name]}
    return {
        label: {**arguments, **{k: v for k, v in VARIANTS[label].items() if k not in chosen}}
        for label in labels
        if label in VARIANTS
    }
