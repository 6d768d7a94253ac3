#!/usr/bin/env python
"""DyTox, DyTox+ and DyTox++, and DyTox without each of its parts, on the same stream.

--preset quick: scikit-learn's digits, a tiny transformer; minutes on two CPU cores.
paper: CIFAR-100, 10 tasks x 10 classes, 500 passes, for a GPU (--tasks 20 or 50 as there). tiny100:
100 classes of 32x32 pictures, a quarter of the width, a tenth of the passes. Both need --data-dir.
"""

from cls_jax.app.ablation import start

ONE_TOKEN = {"task_tokens": False, "divergence_weight": 0.0}
REPLAY = {**ONE_TOKEN, "distillation": False, "finetune_epochs": 0}
CHANGES = {
    "dytox": {},
    "dytox+": {"mixup": True},
    "dytox++": {"mixup": True, "sam": True},
    "as in code": {"finetune_order": "as_in_code"},
    "no tokens": {"task_tokens": False},
    "no divergence": {"divergence_weight": 0.0},
    "no distillation": {"distillation": False},
    "no fine-tuning": {"finetune_epochs": 0},
    "one token": ONE_TOKEN,
    "replay": REPLAY,
    "fine-tune": {**REPLAY, "memory_size": 0},
    "joint": {**REPLAY, "memory_size": 0, "joint": True},
}

if __name__ == "__main__":
    start("dytox", CHANGES, usual=("fine-tune", "dytox", "dytox+"), description=__doc__)
