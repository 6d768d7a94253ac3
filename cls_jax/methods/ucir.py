"""UCIR (LUCIR): a cosine classifier rebalanced between many past examples' few and new ones.

A cosine classifier stands on an extractor, and a few exemplars of each class are kept. As a phase
begins, the weights of its classes are imprinted from their prototypes and the extractor is copied.
``L = L_ce + lambda * mean(1 - cos(f, f_old)) + L_mr`` over the phase's examples and all exemplars,
with ``lambda = lambda_base * sqrt(N_o / N_n)`` for N_n classes of this phase and N_o before it; L_mr
keeps an exemplar's own class a margin ahead of the new classes nearest to it. Past classes' weights
stand still. The first phase has ``L_ce`` alone.

| symbol | name | default | where from |
|---|---|---|---|
| | learning_rate, decays | 0.1, (80, 120) | the official code, CIFAR-100, every phase |
| | momentum, weight_decay | 0.9, 5e-4 | the same |
| eta | initial_scale | 1.0 | the same; learnable |
| lambda_base | embedding_weight | 5.0 | the same (10 on ImageNet) |
| K, m | hardest, margin, margin_weight | 2, 0.5, 1.0 | the same |
| | exemplars_per_class | 20 | the paper |
| | balanced_epochs | 0 | off on CIFAR-100; 20 in the official ImageNet script |
| | balanced_learning_rate, balanced_decays | 0.01, (10,) | that script |
| | replay_size | 64 | ours, see Departs |

Source: Hou et al. 2019 (CVPR), sections 3.1 to 3.3, equations 1 to 9; hshustc/
CVPR19_Incremental_Learning, class_incremental_cosine_cifar100.py and, for the phase "balanced",
cbf_class_incremental_cosine_imagenet.py: the extractor and the scale stand still there, and the
weights of all classes learn from the exemplars alone, the new ones' included.
Departs: the official code shuffles the exemplars among the phase's examples, here they stand beside
its batches (see ``exemplars.union``), and an epoch of the phase "balanced" draws batches of
exemplars anew instead of dealing them out. Exemplars are herded as the paper of iCaRL has it; the
official loop may name one twice and goes on. No mirror images in the class means, which its CIFAR
code averages with images in reversed colours. A class that comes back is past: it is not imprinted,
its weight stands still, and it is herded anew.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from flax import struct

from cls_jax.augment import Augment
from cls_jax.herding import class_means, in_chunks, unit
from cls_jax.losses import cross_entropy, mask_logits
from cls_jax.memory import Memory
from cls_jax.methods.base import Method, Needs, Phase, kept, move, unchanged
from cls_jax.methods.cosine import (
    cosine_logits,
    embedding_loss,
    imprint,
    initial_weights,
    l2_sgd,
    margin_ranking,
    step_decay,
)
from cls_jax.methods.exemplars import choose, nearest_mean, no_exemplars, union
from cls_jax.nets.extractor import Extractor
from cls_jax.types import Array, Batch, InputError, Metrics, Task, Trainable, Variables
