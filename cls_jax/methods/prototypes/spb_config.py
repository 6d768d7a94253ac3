"""The choices of SPB, SPB-I and SPB-M, their rates, and what does not fit together.

Source: Wu, Gong and Li 2021 (ICCV); the defaults are told where the method is, in spb.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from cls_jax.core.choices import Weighting
from cls_jax.core.errors import InputError
from cls_jax.core.hyper import hyper
from cls_jax.methods.config_checks import check_milestones

if TYPE_CHECKING:
    from cls_jax.core.augment import Augment


@dataclass(frozen=True)
class SpbConfig:
    """Choices of SPB and of its controls.

    Attributes:
      weighting: reciprocal is the method; equal has no weights, sqrt is UCIR's weight, none is
        fine-tuning.
      ce_scope: the softmax of the cross-entropy runs over all classes seen, or the phase's own.
      learner: the self-supervised loss of SPB-I: rotation, contrastive, or none.
      rotations: classifiers of SPB-M, each on the image turned another way: 1, 2 or 4.
      answer: SPB-M adds up probabilities or logits.
      freeze_old_weights: classifier weights of past classes stay as they are.
      freeze_after_base: nothing is trained after the first phase and every class is its prototype:
        the control "frozen extractor".
      joint: all classes at once, the upper bound; epochs and decays are those of the first phase.
      base_decays, decays: epochs of the first and of later phases after which rates fall tenfold.
    """

    weighting: Weighting = "reciprocal"
    ce_scope: Literal["seen", "new"] = "seen"
    learner: Literal["none", "rotation", "contrastive"] = "none"
    rotations: int = 1
    answer: Literal["probabilities", "logits"] = "probabilities"
    freeze_old_weights: bool = False
    freeze_after_base: bool = False
    joint: bool = False
    base_decays: tuple[int, ...] = (80, 120)
    decays: tuple[int, ...] = (30,)


@dataclass(frozen=True)
class SpbIConfig(SpbConfig):
    """SPB-I: SPB with a self-supervised learner."""

    learner: Literal["none", "rotation", "contrastive"] = "rotation"


@dataclass(frozen=True)
class SpbMConfig(SpbConfig):
    """SPB-M: SPB with a classifier for each of four rotations."""

    rotations: int = 4


@hyper
class SpbHyper:
    """float32[] within a run.

    Attributes:
      base_learning_rate: of everything in the first phase, >= 0.
      learning_rate: of the extractor in later phases, >= 0.
      classifier_learning_rate: of weights, scale and learner in later phases, >= 0.
      momentum: of both optimizers, in [0, 1).
      weight_decay: L2, added to the gradient of all but the scales, >= 0.
      initial_scale: by which cosines are multiplied at first; 10 speeds up small runs.
      temperature: of the contrastive learner, > 0.
    """

    base_learning_rate: float = 0.1
    learning_rate: float = 1e-3
    classifier_learning_rate: float = 1e-2
    momentum: float = 0.9
    weight_decay: float = 5e-4
    initial_scale: float = 1.0
    temperature: float = 0.1


VARIANTS = {
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
"""Label -> what makes SPB that method or control."""


def variants(
    config: SpbConfig, names: Sequence[str], others: Sequence[str] = ()
) -> dict[str, SpbConfig]:
    """Label -> ``config`` changed as VARIANTS says, where it does not itself depart from SPB.

    Args:
      config: where everything else comes from.
      names: of VARIANTS, or of ``others``, which are left out.
      others: labels of other methods.

    Raises:
      InputError: for an unknown name, or one twice.
    """
    known = (*VARIANTS, *others)
    if not names or len({*names} & {*known}) < len(names):
        raise InputError(f"variants is {names}; name each once, from {', '.join(known)}")
    usual, mine = vars(SpbConfig()), vars(config)
    left = lambda name: {k: v for k, v in VARIANTS[name].items() if mine[k] == usual[k]}  # noqa: E731
    return {name: replace(config, **left(name)) for name in names if name in VARIANTS}


def check(config: SpbConfig, augment: "Augment") -> None:
    """Raises InputError for choices that cannot be, each alone or together."""
    for field in ("weighting", "ce_scope", "learner", "answer"):
        choices = SpbConfig.__annotations__[field].__args__
        if getattr(config, field) not in choices:
            told = ", ".join(map(repr, choices))
            raise InputError(f"{field} is {getattr(config, field)!r}; use one of {told}")
    if config.rotations not in (1, 2, 4):
        raise InputError(f"rotations is {config.rotations}; an image has 1, 2 or 4 of them")
    if config.rotations > 1 and config.learner != "none":
        raise InputError(
            f"rotations is {config.rotations} and learner {config.learner!r}: SPB-M and SPB-I "
            "exclude each other; use rotations 1 or learner 'none'"
        )
    if config.learner == "contrastive" and augment.view_b is None:
        raise InputError(
            "learner is 'contrastive' and there are no changed views of vectors; give images, or "
            "use learner 'none'"
        )
    for field in ("base_decays", "decays"):
        check_milestones(field, getattr(config, field))


def check_square(config: SpbConfig, shape: tuple[int, ...]) -> None:
    """Raises InputError if images of ``shape`` must be turned and cannot."""
    turned = config.rotations > 1 or config.learner == "rotation"
    if turned and (len(shape) != 3 or shape[0] != shape[1]):
        why = f"rotations {config.rotations}" if config.rotations > 1 else "learner 'rotation'"
        raise InputError(
            f"{why} turns square images, and the examples have shape {'x'.join(map(str, shape))}; "
            "give --image-size or another method"
        )
