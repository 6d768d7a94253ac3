"""Workdirs and results that cannot be used: in the way, somebody else's, damaged, dangerous."""

import json
import os
from collections.abc import Callable
from pathlib import Path

from tests.bad_input.flags import SMALL
from tests.support.ask import Case

COMPARE = (*SMALL, "--methods", "sgd", "--workdir")
DEEP = "[" * 100_000
RUN = {"method": "sgd", "seeds": [0], "num_tasks": 1, "seconds": 1.0, "steps_per_second": 1.0}
RUN |= {"details": {}, "capacity": {}, "scores": {"answer": {"class_il": {}}}}


def file(name: str, text: str = "x") -> Callable[[Path], None]:
    """A file of this text, with its folders."""

    def made(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)

    return made


def link(name: str, target: str) -> Callable[[Path], None]:
    """A link, with its folders."""

    def made(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(target)

    return made


def results(**changes: object) -> Callable[[Path], None]:
    """w/results.json of a run, with some fields changed."""
    return file("w/results.json", json.dumps(RUN | changes))


WORKDIR = {
    "is a file": ("w", file("w"), ("workdir", "w")),
    "lies in a file": ("w/x", file("w"), ("workdir", "w")),
    "holds a thesis": ("w", file("w/thesis.tex"), ("workdir", "w")),
    "holds a hidden file": ("w", file("w/.git/HEAD"), ("workdir", "w")),
    "holds a folder": ("w", file("w/a/b"), ("workdir", "w")),
    "is the folder of everything": (".", file("thesis.tex"), ("workdir",)),
    "has a config of somebody else's": ("w", file("w/config.json", '{"a": 1}'), ("config.json",)),
    "has a config that is a list": ("w", file("w/config.json", "[]"), ("config.json",)),
    "has a config that is no JSON": ("w", file("w/config.json", "{"), ("config.json",)),
    "has a config that is empty": ("w", file("w/config.json", ""), ("config.json",)),
    "has a config 100,000 deep": ("w", file("w/config.json", DEEP), ("config.json",)),
    "has a config that is a folder": ("w", file("w/config.json/x"), ("config.json",)),
    "is a link to itself": ("w", link("w", "w"), ("workdir", "w")),
    "is a link to nowhere": ("w", link("w", "nowhere/x"), ("workdir", "w")),
    "has a name of 300 bytes": ("n" * 300, lambda folder: None, ("workdir",)),
    "has a name of 400 bytes in 100 signs": ("😀" * 100, lambda folder: None, ("workdir",)),
    "is a pipe": ("w", lambda folder: os.mkfifo(folder / "w"), ("workdir", "w")),
    "is a device": ("/dev/null", lambda folder: None, ("workdir", "/dev/null")),
    "is empty": ("", lambda folder: None, ("workdir",)),
}
READERS = {
    "is not there": (lambda folder: None, ("w",)),
    "is a file": (file("w"), ("w",)),
    "is empty": (lambda folder: (folder / "w").mkdir(), ("w",)),
    "is a link to itself": (link("w", "w"), ("w",)),
}
RESULTS = {
    "no JSON": file("w/results.json", "{"),
    "a list": file("w/results.json", "[]"),
    "a number": file("w/results.json", "7"),
    "100,000 deep": file("w/results.json", DEEP),
    "bytes": lambda f: [(f / "w").mkdir(), (f / "w/results.json").write_bytes(b"\xff\xfe\x00")],
    "without seeds": results(seeds=[]),
    "seeds of text": results(seeds=["a"]),
    "seeds of null": results(seeds=None),
    "tasks of a trillion": results(num_tasks=10**12),
    "tasks of -1": results(num_tasks=-1),
    "tasks of text": results(num_tasks="many"),
    "tasks of 1.5": results(num_tasks=1.5),
    "no scores": results(scores={}),
    "scores of a list": results(scores=[1]),
    "capacity of text": results(capacity={"bytes": "many"}),
    "capacity of a list": results(capacity=[1]),
    "details of null": results(details=None),
    "a method that climbs": results(method="../victim"),
    "a view that climbs": results(scores={"../../victim": {"class_il": {}}}),
    "a method of null": results(method=None),
    "seconds of text": results(seconds="long"),
    "matrices missing": results(),
    "a matrix of words": lambda f: [
        results()(f),
        (f / "w/accuracy.csv").write_text("hello\n"),
    ],
    "a matrix above 1": lambda f: [
        results()(f),
        (f / "w/accuracy.csv").write_text(
            "network,scenario,order,seed,after_task,task_1\n"
            + "".join(
                f"answer,{s},,0,before,0\nanswer,{s},,0,1,7.5\n" for s in ("class_il", "task_il")
            )
        ),
    ],
}
RECIPE = {
    "no JSON": "{",
    "empty": "",
    "a list": "[]",
    "null": "null",
    "100,000 deep": DEEP,
    "nothing in it": "{}",
    "an unknown row": '{"row": "nobody"}',
    "a row of a list": '{"row": ["er"]}',
    "a later version": '{"version": 999999, "row": "er"}',
}

CASES = (
    [
        Case(f"workdir {name}", "compare.py", (*COMPARE, where), expected, made)
        for name, (where, made, expected) in WORKDIR.items()
    ]
    + [
        Case(
            f"restart: workdir {name}", "compare.py", (*COMPARE, where, "--restart"), expected, made
        )
        for name, (where, made, expected) in WORKDIR.items()
        if "holds" in name or "config of" in name or "link" in name or "is a file" in name
    ]
    + [
        Case(f"{script}: folder {name}", script, ("w",), expected, made)
        for script in ("evaluate.py", "cls-jax report")
        for name, (made, expected) in READERS.items()
    ]
    + [
        Case(f"report: results of {name}", "cls-jax report", ("w",), ("w",), made)
        for name, made in RESULTS.items()
    ]
    + [
        Case(
            f"evaluate: recipe with {name}",
            "evaluate.py",
            ("w",),
            ("w",),
            file("w/checkpoints/er/recipe.json", text),
        )
        for name, text in RECIPE.items()
    ]
    + [
        Case(
            "evaluate: a recipe that is a folder",
            "evaluate.py",
            ("w",),
            ("w",),
            file("w/checkpoints/er/recipe.json/x"),
        ),
        Case(
            "evaluate: checkpoints is a file", "evaluate.py", ("w",), ("w",), file("w/checkpoints")
        ),
        Case("report: a workdir twice", "cls-jax report", ("w", "w"), ("twice",), results()),
        Case(
            "report: out is empty",
            "cls-jax report",
            ("w", "--out", ""),
            ("out",),
            results(),
        ),
        Case(
            "report: out is a file",
            "cls-jax report",
            ("w", "--out", "o"),
            ("o",),
            file("o"),
        ),
        Case(
            "profile is a file",
            "compare.py",
            (*SMALL, "--methods", "sgd", "--profile", "p"),
            ("profile", "p"),
            file("p"),
        ),
        Case(
            "benchmark: json is a folder",
            "benchmark/run.py",
            ("--json", "j"),
            ("json", "j"),
            lambda folder: (folder / "j").mkdir(),
        ),
        Case(
            "trace_profile: a file",
            "benchmark/trace_profile.py",
            ("w",),
            ("w",),
            file("w", "words"),
        ),
    ]
)
