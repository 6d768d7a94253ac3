"""Numbers and words on the command line that cannot work."""

from tests.support.ask import Case

SMALL = ("--net", "mlp", "--image-size", "8", "--hidden", "8")
START = {
    "dualnet_cifar.py": (),
    "clser_mnist.py": (),
    "clser_cifar.py": ("--data", "digits"),
    "spb_cifar.py": (),
    "supsup_mnist.py": (),
    "hopsupsup_mnist.py": (),
    "den_mnist.py": (),
    "apd_cifar.py": (),
    "dytox_cifar.py": (),
    "similarity_mnist.py": (),
    "compare.py": (*SMALL, "--methods", "sgd", "er"),
    "reproduce.py": ("s_mnist", "--methods", "er", "--data", "digits"),
}
"""Training script -> flags with which it would start at once."""

RUN = {
    "no seeds": (("--seeds",), ("seeds",)),
    "a seed twice": (("--seeds", "1", "1"), ("seeds", "1")),
    "a seed below 0": (("--seeds", "-1"), ("seeds", "-1")),
    "a seed of 67 bits": (("--seeds", "99999999999999999999"), ("seeds", "99999999999999999999")),
    "a seed in words": (("--seeds", "one"), ("seeds", "one")),
    "chunk 0": (("--chunk", "0"), ("chunk", "0")),
    "chunk below 0": (("--chunk", "-3"), ("chunk", "-3")),
    "a huge chunk": (("--chunk", "100000000000000000000"), ("chunk", "100000000000000000000")),
    "no device": (("--devices", "0"), ("devices", "0")),
    "99 devices": (("--devices", "99"), ("devices", "99")),
    "a mode": (("--mode", "quick"), ("mode", "quick")),
    "saving often": (("--save-every", "often"), ("save_every", "often")),
    "saving every 0 steps": (("--save-every", "0steps"), ("save_every", "0steps")),
    "keeping none": (("--keep", "0"), ("keep", "0")),
    "a restart of nothing": (("--restart",), ("restart", "--workdir")),
    "a figure format": (("--figure-format", "gif"), ("--figure-format", "gif")),
    "no figure format": (("--figure-format",), ("figure_format", "png")),
    "a figure format twice": (("--figure-format", "png", "png"), ("figure_format", "png png")),
    "figures nowhere": (("--figure-format", "svg"), ("figure_format", "svg", "--workdir")),
    "a log nowhere": (("--log", "csv"), ("log", "csv", "--workdir")),
    "a log": (("--log", "paper", "--workdir", "w"), ("log", "paper")),
    "a log twice": (("--log", "csv", "csv", "--workdir", "w"), ("log", "csv csv")),
    "an empty workdir": (("--workdir", ""), ("workdir",)),
    "an empty profile": (("--profile", ""), ("profile",)),
    "processes without a coordinator": (("--num-processes", "2"), ("coordinator",)),
    "a process id alone": (("--process-id", "1"), ("coordinator",)),
    "a coordinator without a port": (
        ("--coordinator", "here", "--num-processes", "2", "--process-id", "1"),
        ("coordinator", "here"),
    ),
    "a flag that is none": (("--no-such-flag", "1"), ("--no-such-flag",)),
}
"""What every training script must refuse: flags, and what the sentence names."""

STREAM = {
    "epochs 0": (("--epochs", "0"), ("epochs", "0")),
    "epochs below 0": (("--epochs", "-1"), ("epochs", "-1")),
    "a billion epochs": (("--epochs", "1000000000"), ("epochs",)),
    "batches of 0": (("--batch-size", "0"), ("batch_size", "0")),
    "batches of -1": (("--batch-size", "-1"), ("batch_size", "-1")),
    "batches of a trillion": (("--batch-size", "1000000000000"), ("batch_size", "1000000000000")),
    "no pixel": (("--image-size", "0"), ("size", "0")),
    "pixels below 0": (("--image-size", "-8"), ("size", "-8")),
    "4096 pixels": (("--image-size", "4096"), ("size", "4096")),
    "a billion pixels": (("--image-size", "1000000000"), ("size", "1000000000")),
    "no data": (("--data", ""), ("data", "''")),
    "data of a misspelled kind": (("--data", "fodler:x"), ("fodler:x",)),
    "data without a path": (("--data", "npz:"), ("npz:", "PATH")),
    "data that nobody has": (("--data", "cifar11"), ("cifar11",)),
}
"""What every script with flags for the stream must refuse."""

CLASS_IL = {
    "no task": (("--tasks", "0"), ("tasks", "0")),
    "tasks below 0": (("--tasks", "-1"), ("tasks", "-1")),
    "more tasks than classes": (("--tasks", "1000000000"), ("tasks", "1000000000")),
    "a scenario": (("--scenario", "both"), ("scenario", "both")),
    "blur of another scenario": (("--blur", "0.2"), ("blur", "0.2")),
    "padding below 0": (("--crop-padding", "-1"), ("crop_padding", "-1")),
    "padding of a billion": (("--crop-padding", "1000000000"), ("crop_padding", "1000000000")),
    "a task alone that is none": (("--only-tasks", "7"), ("only_tasks", "7", "0 to 4")),
    "too few classes": (("--max-classes", "4"), ("max_classes", "4", "at least 10")),
    "a billion classes": (("--max-classes", "1000000000"), ("max_classes", "1000000000")),
    "room for too few tasks": (("--max-tasks", "1"), ("max_tasks", "1", "5 tasks")),
    "a label below 0": (("--first-class", "-1"), ("first_class", "-1")),
}

CONTINUE = {
    "a run to go on from that is none": (("--continue", "none"), ("continue", "none")),
    "nothing to go on from": (("--continue", ""), ("continue",)),
}

HYPER = {
    "a rate that is no number": (("--learning-rate", "nan"), ("learning_rate", "nan")),
    "an infinite rate": (("--learning-rate", "inf"), ("learning_rate", "inf")),
    "a rate below 0": (("--learning-rate", "-1"), ("learning_rate", "-1")),
    "a rate infinite in float32": (("--learning-rate", "1e39"), ("learning_rate", "1e")),
    "a rate in words": (("--learning-rate", "fast"), ("learning-rate", "fast")),
    "a swept field that is none": (("--sweep", "warmth", "1", "2"), ("sweep", "warmth")),
    "a sweep without values": (("--sweep", "learning_rate"), ("sweep", "learning_rate")),
    "a sweep in words": (("--sweep", "learning_rate", "low"), ("sweep", "low")),
    "one value twice": (("--sweep", "learning_rate", "1", "1"), ("sweep", "1")),
    "one value in two writings": (
        ("--sweep", "learning_rate", "0.1", "1e-1"),
        ("sweep", "0.1", "1e-1"),
    ),
    "a swept value below 0": (("--sweep", "learning_rate", "0.1", "-1"), ("learning_rate", "-1")),
}

MEMORY = {
    "memory 0": (("--memory-size", "0"), ("memory_size", "0")),
    "memory below 0": (("--memory-size", "-5"), ("memory_size", "-5")),
    "memory of a trillion": (("--memory-size", "1000000000000"), ("memory_size", "1000000000000")),
}
REPLAY = {
    "replay 0": (("--replay-size", "0"), ("replay_size", "0")),
    "replay below 0": (("--replay-size", "-1"), ("replay_size", "-1")),
    "more replay than memory": (("--replay-size", "100000"), ("replay_size", "100000")),
}
WIDTH = {
    "width 0": (("--width", "0"), ("width", "0")),
    "width below 0": (("--width", "-4"), ("width", "-4")),
    "width a billion": (("--width", "1000000000"), ("width", "1000000000")),
}
HIDDEN = {
    "no hidden unit": (("--hidden", "0"), ("hidden", "0")),
    "hidden below 0": (("--hidden", "-4"), ("hidden", "-4")),
    "a billion hidden units": (("--hidden", "1000000000"), ("hidden", "1000000000")),
}
ALL = set(START)
EVERY = [
    (RUN, ALL),
    (STREAM, ALL - {"reproduce.py"}),
    (CLASS_IL, {"compare.py", "dualnet_cifar.py", "clser_mnist.py", "clser_cifar.py"}),
    (CONTINUE, {"dualnet_cifar.py", "clser_mnist.py"}),
    (
        HYPER,
        ALL
        - {"compare.py", "reproduce.py", "spb_cifar.py", "apd_cifar.py", "den_mnist.py"}
        - {"similarity_mnist.py"},
    ),
    (MEMORY, {"compare.py", "dualnet_cifar.py", "clser_mnist.py", "clser_cifar.py"}),
    (REPLAY, {"dualnet_cifar.py", "clser_mnist.py", "clser_cifar.py"}),
    (WIDTH, {"dualnet_cifar.py", "dytox_cifar.py", "spb_cifar.py"}),
    (HIDDEN, {"compare.py", "clser_mnist.py", "den_mnist.py", "hopsupsup_mnist.py"}),
]
"""Tables, and the scripts that have such flags."""

GRID = ("--sweep", "learning_rate", "0.1", "1")
LOG = ("--space", "learning_rate", "log", "0.1", "1")

ONE = [
    ("compare.py", "no method", ("--methods",), ("methods",)),
    ("compare.py", "a method twice", ("--methods", "sgd", "sgd"), ("methods", "sgd")),
    (
        "compare.py",
        "a net beside DyTox's own",
        ("--methods", "dytox", "--net", "vit"),
        ("net", "vit", "always has a transformer"),
    ),
    ("compare.py", "a method that is none", ("--methods", "gsd"), ("methods", "gsd")),
    ("compare.py", "a method's rate", ("--er.learning-rate", "-1"), ("learning_rate", "-1")),
    ("compare.py", "a method's flag", ("--er.learning-rat", "1"), ("--er.learning-rat",)),
    (
        "compare.py",
        "memory told twice",
        ("--memory-size", "40", "--er.memory-size", "20"),
        ("memory-size", "20"),
    ),
    (
        "compare.py",
        "a flag of a method that does not run",
        ("--agem.learning-rate", "0.5"),
        ("agem",),
    ),
    ("dualnet_cifar.py", "no such net", ("--net", "mlp"), ("--net",)),
    ("dualnet_cifar.py", "label fraction 0", ("--label-fraction", "0"), ("label_fraction", "0")),
    ("dualnet_cifar.py", "label fraction 2", ("--label-fraction", "2"), ("label_fraction", "2")),
    ("dualnet_cifar.py", "label fraction nan", ("--label-fraction", "nan"), ("label_fraction",)),
    ("dualnet_cifar.py", "label noise 2", ("--label-noise", "2"), ("label_noise", "2")),
    ("dualnet_cifar.py", "imbalance 0", ("--imbalance", "0"), ("imbalance", "0")),
    ("dualnet_cifar.py", "a step of 2", ("--lookahead-step-size", "2"), ("lookahead_step_size",)),
    ("dualnet_cifar.py", "a preset", ("--preset", "fast"), ("preset", "fast")),
    ("dualnet_cifar.py", "views padded -1", ("--view-padding", "-1"), ("view_padding", "-1")),
    ("dualnet_cifar.py", "memory of no task", ("--memory-size", "251"), ("memory", "251")),
    ("clser_mnist.py", "a decay of 1", ("--stable-decay", "1"), ("stable_decay", "1")),
    ("clser_mnist.py", "a rate of 2", ("--plastic-rate", "2"), ("plastic_rate", "2")),
    ("clser_mnist.py", "a weight below 0", ("--consistency-weight", "-1"), ("consistency_weight",)),
    ("clser_mnist.py", "blur 1", ("--scenario", "blurry", "--blur", "1"), ("blur", "1")),
    ("clser_mnist.py", "blur nan", ("--scenario", "blurry", "--blur", "nan"), ("blur", "nan")),
    (
        "clser_mnist.py",
        "samples of a phase",
        ("--scenario", "gcil", "--samples-per-phase", "0"),
        ("samples_per_phase", "0"),
    ),
    ("clser_mnist.py", "a task order", ("--task-order", "0", "1"), ("task_order",)),
    ("clser_mnist.py", "a dtype", ("--dtype", "float16"), ("dtype", "float16")),
    ("clser_mnist.py", "base classes", ("--base-classes", "0"), ("base_classes", "0")),
    ("clser_mnist.py", "base epochs", ("--base-epochs", "0"), ("base_epochs", "0")),
    ("clser_mnist.py", "tasks of one class each", ("--tasks", "3", "3"), ("tasks",)),
    ("spb_cifar.py", "no variant", ("--variants",), ("variants",)),
    ("spb_cifar.py", "a variant twice", ("--variants", "spb", "spb"), ("variants", "spb")),
    ("spb_cifar.py", "a variant", ("--variants", "spbm"), ("variants", "spbm")),
    ("spb_cifar.py", "three rotations", ("--rotations", "3"), ("rotations", "3")),
    ("spb_cifar.py", "four base classes", ("--base-classes", "4"), ("base_classes=4",)),
    ("apd_cifar.py", "no variant", ("--variants",), ("variants",)),
    ("apd_cifar.py", "a variant twice", ("--variants", "APD(1)", "APD(1)"), ("variants", "APD(1)")),
    ("apd_cifar.py", "a variant", ("--variants", "APD(3)"), ("variants", "APD(3)")),
    ("apd_cifar.py", "no order", ("--orders",), ("orders",)),
    ("apd_cifar.py", "one order", ("--orders", "0-1-2-3-4"), ("orders",)),
    ("apd_cifar.py", "an order twice", ("--orders", "0-1-2-3-4", "0-1-2-3-4"), ("order",)),
    ("apd_cifar.py", "an order in words", ("--orders", "0-1", "1-x"), ("1-x",)),
    ("apd_cifar.py", "clusters", ("--clusters", "6"), ("clusters", "6")),
    ("dytox_cifar.py", "no variant", ("--variants",), ("variants",)),
    ("dytox_cifar.py", "a variant twice", ("--variants", "joint", "joint"), ("variants", "joint")),
    ("der_expandable_cifar.py", "a variant", ("--variants", "derpp"), ("variants", "derpp")),
    ("der_expandable_cifar.py", "a small memory", ("--memory-size", "9"), ("memory_size", "9")),
    ("rpsnet_cifar.py", "no module left", ("--num-modules", "1"), ("num_modules", "1")),
    ("co2l_cifar.py", "a flag of another", ("--num-modules", "3"), ("--num-modules",)),
    ("similarity_mnist.py", "no groups to tell", ("--groups", "None"), ("told", "--groups")),
    ("similarity_mnist.py", "more groups than tasks", ("--groups", "10"), ("groups", "at most 9")),
    ("similarity_mnist.py", "a wide group", ("--group-spread", "2"), ("group_spread", "at most 1")),
    ("similarity_mnist.py", "a sweep", ("--sweep", "learning_rate", "0.1", "1"), ("sweep",)),
    (
        *("similarity_mnist.py", "random groups alone", ("--variants", "random", "er")),
        ("variants", "random", "similarity"),
    ),
    ("den_mnist.py", "a convolution", ("--net", "resnet18"), ("no flag --net",)),
    ("den_mnist.py", "room below 0", ("--room", "-1"), ("room", "-1")),
    ("den_mnist.py", "units of a billion", ("--added-units", "1000000000"), ("added_units",)),
    ("supsup_mnist.py", "an inference", ("--inferences", "binary:X:1:1"), ("inferences", "X")),
    ("supsup_mnist.py", "outputs", ("--num-outputs", "0"), ("num_outputs", "0")),
    ("reproduce.py", "a table", ("s_mist",), ("s_mist",)),
    ("reproduce.py", "a row", ("s_mnist", "--methods", "dualnet"), ("dualnet",)),
    ("reproduce.py", "a buffer", ("--memory-sizes", "300"), ("memory_size=300",)),
    (
        "reproduce.py",
        "a row of the ablations",
        ("s_mnist_ablations", "--methods", "zzz"),
        ("zzz",),
    ),
    (
        "reproduce.py",
        "a buffer of the ablations",
        ("s_mnist_ablations", "--memory-sizes", "7"),
        ("7",),
    ),
    ("reproduce.py", "a sweep", ("--sweep", "learning_rate", "1"), ("--sweep",)),
    ("reproduce.py", "epochs 0", ("--epochs", "0"), ("epochs", "0")),
    ("benchmark/run.py", "a method", ("--method", "gsd"), ("method", "gsd")),
    ("benchmark/run.py", "batches of 0", ("--batch-size", "0"), ("batch_size", "0")),
    ("benchmark/run.py", "no turn", ("--turns", "0"), ("turns", "0")),
    ("benchmark/run.py", "no seed", ("--seeds", "0"), ("seeds", "0")),
    (
        "benchmark/run.py",
        "replay 0",
        ("--method", "er", "--replay-size", "0"),
        ("replay_size", "0"),
    ),
    ("benchmark/run.py", "replay of sgd", ("--replay-size", "8"), ("replay_size", "8")),
    ("benchmark/run.py", "memory of sgd", ("--memory-size", "8"), ("memory_size", "8")),
    ("benchmark/run.py", "width 0", ("--width", "0"), ("width", "0")),
    ("benchmark/run.py", "steps 0", ("--steps", "0"), ("steps", "0")),
    ("benchmark/run.py", "json nowhere", ("--json", "no/where.json"), ("json", "no/where.json")),
    ("benchmark/run.py", "json empty", ("--json", ""), ("json",)),
    ("benchmark/growth.py", "an axis", ("--axes", "task"), ("axes", "task")),
    ("benchmark/growth.py", "json nowhere", ("--json", "no/where.json"), ("json", "no/where.json")),
    ("benchmark/table.py", "a preset", ("--preset", "huge"), ("preset", "huge")),
    ("benchmark/table.py", "a flag", ("--nothing",), ("--nothing",)),
    ("benchmark/trace_profile.py", "no trace", ("nowhere",), ("nowhere",)),
    ("evaluate.py", "no folder", ("nowhere",), ("nowhere",)),
    ("evaluate.py", "an empty name", ("",), ("workdir",)),
    ("evaluate.py", "a figure format", ("w", "--figure-format", "gif"), ("gif",)),
    ("evaluate.py", "no figure format", ("w", "--figure-format"), ("figure_format",)),
    (
        "evaluate.py",
        "a figure format of no figure",
        ("w", "--no-figures", "--figure-format", "svg"),
        ("figure_format", "svg", "--figures"),
    ),
    ("cls-jax export", "no folder", ("nowhere",), ("nowhere",)),
    ("cls-jax export", "out nowhere", ("w", "--out", "no/m.jax"), ("out", "no/m.jax")),
    ("cls-jax export", "an empty out", ("w", "--out", ""), ("out",)),
    *[
        ("cls-jax tune", name, ("sgd", *words), expected)
        for name, words, expected in (
            ("nothing to choose from", (), ("--sweep", "--space")),
            (
                "a grid and a space",
                (*GRID, "--space", "learning_rate", "log", "1", "2"),
                ("both", "--space"),
            ),
            ("a trial", (*LOG, "--trials", "0"), ("trials", "0")),
            ("trials of a grid", (*GRID, "--trials", "3"), ("trials", "3", "--space")),
            ("a storage of a grid", (*GRID, "--storage", "sqlite:///x"), ("storage", "--space")),
            ("an argument", ("--space", "warmth", "log", "1", "2"), ("space", "warmth")),
            ("a scale", ("--space", "learning_rate", "cube", "1", "2"), ("cube", "log LOW HIGH")),
            ("one end", ("--space", "learning_rate", "log", "1"), ("log 1", "log LOW HIGH")),
            ("a name alone", ("--space", "learning_rate"), ("learning_rate", "log LOW HIGH")),
            ("ends in words", ("--space", "learning_rate", "log", "a", "b"), ("'a'", "numbers")),
            ("an infinite end", ("--space", "learning_rate", "log", "1", "inf"), ("inf", "finite")),
            ("ends turned", ("--space", "learning_rate", "uniform", "2", "1"), ("2 to 1", "lower")),
            ("a log from 0", ("--space", "learning_rate", "log", "0", "1"), ("0 to 1", "above 0")),
            ("no choice", ("--space", "learning_rate", "choice"), ("space", "at least one")),
            ("one argument twice", (*LOG, *LOG), ("space names", "once")),
            ("nothing held out", (*GRID, "--validation-fraction", "0"), ("validation_fraction",)),
            ("all held out", (*GRID, "--validation-fraction", "1"), ("validation_fraction", "1")),
            ("too much held out", (*GRID, "--validation-fraction", "0.999"), ("0.999", "class")),
            ("held out below 0", (*GRID, "--validation-fraction", "-1"), ("-1", "above 0")),
            ("held out nan", (*GRID, "--validation-fraction", "nan"), ("validation_fraction",)),
            ("a split", (*GRID, "--validation-seed", "-1"), ("validation_seed", "-1")),
            ("no first task", (*GRID, "--choose-tasks", "0"), ("choose_tasks", "0", "1 to 4")),
            ("no task left", (*GRID, "--choose-tasks", "5"), ("choose_tasks", "5", "1 to 4")),
            ("a swept value below 0", ("--sweep", "learning_rate", "1", "-1"), ("-1",)),
            (
                "a score that there is not",
                (*GRID, "--scenario", "permuted", "--metric", "task_il"),
                ("metric", "task_il", "domain-IL"),
            ),
        )
    ],
    (
        "cls-jax tune",
        "a range of sizes",
        ("er", "--space", "memory_size", "log", "100", "200"),
        ("memory_size choice 100 200",),
    ),
    (
        "cls-jax run",
        "masks of no stages",
        ("clser_masked", "--net", "lenet"),
        ("lenet", "resnet18"),
    ),
    (
        "cls-jax run",
        "groups without masks",
        ("dualnet", "--told-groups", "0", "1", "0", "1", "0"),
        ("told_groups", "masks"),
    ),
    ("cls-jax run", "a task", ("sgd", "--only-tasks", "0", "5"), ("only_tasks", "0 to 4")),
    ("cls-jax run", "a task twice", ("sgd", "--only-tasks", "1", "1"), ("only_tasks", "once")),
    ("cls-jax run", "a split of nothing", ("sgd", "--validation-seed", "1"), ("validation_seed",)),
    ("cls-jax report", "a figure format", ("w", "--figure-format", "gif"), ("gif",)),
    (
        "cls-jax report",
        "a figure format twice",
        ("w", "--figure-format", "svg", "svg"),
        ("figure_format", "svg svg"),
    ),
    (
        "cls-jax report",
        "figures nowhere",
        ("w", "--figure-format", "pdf", "svg"),
        ("figure_format", "pdf svg", "--out"),
    ),
    ("cls-jax report", "no folder", ("nowhere",), ("nowhere",)),
    ("cls-jax report", "no workdir", (), ("workdir",)),
    ("cls-jax report", "a flag", ("nowhere", "--outt", "x"), ("--out",)),
]


def case(script: str, name: str, arguments: tuple[str, ...], expected: tuple[str, ...]) -> Case:
    """Named after its script; a training script starts as in ``START``."""
    start, given = START.get(script, ()), arguments
    if script == "reproduce.py" and arguments[:1] and "_" in arguments[0]:
        start = ()  # it names its own table
    for flag in (a for a in arguments if a.startswith("--") and a in start):  # once each
        at = start.index(flag)
        end = next((i for i in range(at + 1, len(start)) if start[i].startswith("--")), len(start))
        start = (*start[:at], *start[end:])
    given = (*start, *arguments)
    return Case(f"{script.removesuffix('.py')}: {name}", script, given, expected)


CASES = [
    case(script, name, arguments, expected)
    for table, scripts in EVERY
    for name, (arguments, expected) in table.items()
    for script in sorted(scripts)
] + [case(*one) for one in ONE]
