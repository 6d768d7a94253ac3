"""The reference: an entry for every public name, which mkdocstrings reads from the code."""

import cls_jax
from cls_jax.methods import _MODULES, METHODS

INDEX = "# Reference\n\nEvery name of `cls_jax.__all__`, read from the code."
_PAGES = {
    "data": (
        "Data and streams",
        ("load_data", "dataset", "Dataset", "Split", "class_il", "permuted"),
    ),
    "training": ("Training", ("problem", "Problem", "train", "Plan", "Result")),
    "online": (
        "Open streams",
        ("open_stream", "online", "OnlineLearner", "prior_divergence", "boundary_p_value"),
    ),
    "saved": ("Saved runs", ("load", "SavedRun", "evaluate", "export", "save_weights")),
    "methods": ("Writing a method", ("method", "METHODS", "Method", "Algorithm", "Phase", "Needs")),
    "types": ("Types and errors", ("Batch", "Task", "Variables", "Trainable", "InputError")),
    "submodules": ("Submodules", tuple(cls_jax._MODULES)),
    "factories": ("Factories of the methods", tuple(METHODS)),
}
_INTROS = {
    "methods": '`METHODS` maps a name to its factory: `METHODS["er"]`. Your own join it.',
    "submodules": "Each is known under its own name: `cls_jax.losses.cross_entropy`.",
    "factories": "What stands behind `->` is what the body of a factory returns; called, a factory "
    "gives a `cls_jax.Method`. A [page for each method](../methods/index.md) has its sources, "
    "departures and results.",
}
MORE = {
    "data": ("streams.stream.Stream",),
    "training": (
        "streams.config.InputConfig",
        *("training.events.Result", "training.events.Logger"),
        *(f"training.events.{name}" for name in ("Started", "Progress", "Evaluated", "Ended")),
    ),
    "methods": tuple(f"core.types.{n}Fn" for n in ("Init", "Step", "Boundary", "Predict")),
}
"""Page -> what public names are made of, and has no public name itself."""
_ALSO = {
    "data": ("rotated", "dihedral", "mnist360", "gcil", "blurry", "only_tasks", "hold_out"),
    "training": ("net", "Net", "net_from_linen", "net_from_nnx", "optimizer", "import_file"),
}
"""Page -> its title, and the public names on it."""


def names() -> dict[str, list[str]]:
    """Page -> the public names whose entries it has; every name of ``__all__`` is on one page."""
    listed = {page: [*of, *_ALSO.get(page, ())] for page, (_, of) in _PAGES.items()}
    known = {name for of in listed.values() for name in of}
    listed["types"] += [name for name in cls_jax.__all__ if name not in known]  # of later versions
    return listed


def path_of(name: str) -> str:
    """The dotted path of a public name in the code."""
    if name in _MODULES:
        return f"cls_jax.methods.{_MODULES[name]}.{name}"
    if name in cls_jax._MODULES:
        return f"cls_jax.{cls_jax._MODULES[name]}"
    return f"cls_jax.{'.'.join(cls_jax._WHERE[name])}"


def pages() -> dict[str, str]:
    """Address -> page, the index first."""
    listed = names()
    titles = {page: title for page, (title, _) in _PAGES.items()}
    lines = [f"* [{titles[page]}]({page}.md): {_listed(listed[page])}." for page in _PAGES]
    made = {"reference/index.md": "\n\n".join((INDEX, "\n".join(lines))) + "\n"}
    for page, title in titles.items():
        entries = "\n\n".join(_entry(name) for name in listed[page])
        more = "\n\n".join(f"::: cls_jax.{path}" for path in MORE.get(page, ()))
        parts = (f"# {title}", _INTROS.get(page, ""), entries, more)
        made[f"reference/{page}.md"] = "\n\n".join(filter(None, parts)) + "\n"
    return made


def _listed(found: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in found)


def _entry(name: str) -> str:
    """The lines from which mkdocstrings makes an entry."""
    module = name in cls_jax._MODULES
    lines = [
        f"::: {path_of(name)}",
        "    options:",
        f'      heading: "cls_jax.{name}"',
        f'      toc_label: "{name}"',
    ]
    if module:
        lines.append("      members_order: source")
    if name in METHODS:
        lines.append("      show_source: false")
    return "\n".join(lines)
