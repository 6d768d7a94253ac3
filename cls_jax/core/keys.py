"""What each key of a run is folded with, so that no two draws share their bits; needs no JAX.

The numbers are part of every result: a run with other ones is another run. Each class has the
purposes of one key; in it equal numbers are one member with several names, of scenarios that never
meet.
"""

from enum import IntEnum


class RunKey(IntEnum):
    """Purposes of ``jax.random.key(seed)``."""

    SCHEDULE = 0
    """The key of what a seed sees; see ScheduleKey."""
    INIT = 1
    """The method's first state."""
    STEPS = 2
    """The step, folded with its number again."""
    BOUNDARIES = 3
    """The boundary, folded with its number again."""


class ScheduleKey(IntEnum):
    """Purposes of a schedule's key."""

    CLASS_ORDER = 0
    """class_il, blurry: which classes a task has."""
    DOMAINS = 0
    """domain_il: each task's permutation or rotation."""
    PHASES = 0
    """gcil: the key of a phase, folded with its number again; see PhaseKey."""
    DRAW = 0
    """mnist360: which image stands where, folded with ``shuffle`` and the pass again."""
    SHUFFLE = 1
    """class_il, blurry, domain_il: the order of examples, folded with ``shuffle`` again;
    see ShuffleKey."""
    IMAGES = 1
    """gcil: which image of a class is used next."""
    MINOR = 2
    """blurry: which images go to other tasks than their class's."""
    PHASE_SHUFFLE = 2
    """gcil: the order of examples, folded with ``shuffle`` and the phase again."""
    TURNS = 3
    """blurry: which other tasks get a class's images, one after another."""
    POOL = 7
    """pooled: the order of examples once all tasks are one."""
    TASK_ORDER = 8
    """in_order: which task comes first."""
    LABEL_NOISE = 9
    """label_noise: whose label is drawn anew, and into what."""
    RARE = 10
    """imbalance: which examples of a rare class there are."""


class PhaseKey(IntEnum):
    """Purposes of the key of a phase of gcil."""

    NUMBER = 0
    """How many classes it has."""
    CLASSES = 1
    """Which they are."""
    DRAWS = 2
    """How many examples of each, folded with the attempt again."""


class ShuffleKey(IntEnum):
    """Purposes of class_il's key of the order of examples, beside that order itself."""

    LABELS = 2
    """Which steps have labels."""
