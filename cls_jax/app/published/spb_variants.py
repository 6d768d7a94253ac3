"""SPB, its two companions and its controls: what each changes among SPB's arguments.

Source: Wu, Gong and Li 2021 (ICCV), tables of ablations; the controls are ours.
"""

from collections.abc import Mapping
from typing import Any

VARIANTS: Mapping[str, Mapping[str, Any]] = {
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
"""Label -> arguments."""
