"""A frozen dataclass as a command line.

Help and typing errors never load JAX: parsing needs none, and a script imports at its top only what
its flags need; what its ``main`` computes with is imported there.
"""

import argparse
import dataclasses
import difflib
import inspect
import math
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NoReturn, TypeVar, get_type_hints

import tyro

from cls_jax.core.errors import Diverged, InputError, SaveFailed, Stopped
from cls_jax.core.own import import_file, imports_in
from cls_jax.nets.config import NetConfig, check_known
from cls_jax.streams.config import StreamConfig
from cls_jax.training.runtime.heap import keep_freed_memory

Config = TypeVar("Config")
Value = TypeVar("Value")
Check = Callable[[Any, Collection[str]], None]
"""(config, names of the flags that were typed, e.g. "er.memory_size") -> None, or InputError."""

Repeated = tyro.conf.UseAppendAction[tuple[Value, ...]]
"""The type of a field whose flag may be given several times, once for each of its values."""

Positional = tyro.conf.Positional
"""In an annotation, ``Positional[kind]``: a field that is given without a flag."""

arg = tyro.conf.arg
"""In an annotation, ``Annotated[kind, arg(...)]``: the settings of a flag. The functions below do
the same to kinds that are known at run time only."""

FLAT = arg(name="")
"""The setting of a nested dataclass whose flags have no prefix."""

MAY_REPEAT = {"preset", "sweep", "space", "import"}
"""Flags that may stand on a line more than once; of presets the last one counts."""

LARGEST_FLOAT = 3.4028235e38
SMALLEST_FLOAT = 1.1754944e-38
"""Between these, and at 0, a float32 holds a number."""

ALIASES = {"--task-free": "--no-task-aware"}
"""Flags under the name the papers use; offered where the config has the field."""


def flat(kind: Any) -> Any:
    """The type of a nested dataclass whose flags have no prefix; the help has its docstring.

    Told here, it need not be looked for in the source, which took most of the time of parsing.
    """
    return Annotated[kind, tyro.conf.arg(name="", help=inspect.getdoc(kind) or "")]


def explained(kind: Any, help: str) -> Any:
    """The type of a field whose help is this text."""
    return Annotated[kind, tyro.conf.arg(help=help)]


def hiding(kind: type, *names: str) -> type:
    """``kind`` with some fields that keep their values: no flag sets them, no help shows them."""
    hints = get_type_hints(kind, include_extras=True)
    defaults = {field.name: field.default for field in dataclasses.fields(kind)}
    hidden = [(name, tyro.conf.Suppress[hints[name]], defaults[name]) for name in names]
    return dataclasses.make_dataclass(
        kind.__name__, hidden, bases=(kind,), frozen=True, namespace={"__doc__": kind.__doc__}
    )


def import_own(argv: Sequence[str] | None = None) -> None:
    """Imports every file of ``--import``, before flags are made of what it brings.

    ``run_main`` does; a script whose flags depend on it calls it first.
    """
    for path in imports_in(sys.argv[1:] if argv is None else argv):
        try:
            import_file(path)
        except InputError as error:
            stop(f"error: {error}", 2)


def parse(
    config_class: type[Config],
    presets: Mapping[str, Config],
    *,
    default_preset: str,
    argv: Sequence[str] | None = None,
    description: str = "",
    prog: str | None = None,
) -> Config:
    """The config that a command line asks for.

    ``--preset NAME`` says where every other flag starts from, wherever it stands on the line; with
    a single preset there is nothing to choose, and no such flag. The
    string below a field of ``config_class`` is its help; a bool is ``--flag`` or ``--no-flag``, a
    nested dataclass ``--net.width``. Wrong input ends the process with code 2 and names the
    nearest flag; so does a flag that is given twice.

    Args:
      config_class: frozen dataclass of ints, floats, bools, strings, tuples, nested dataclasses.
      presets: name -> config; the order is that of the help.
      default_preset: used when no ``--preset`` is given.
      argv: the arguments; those of the process if None.
      description: the first lines of the help.
      prog: how the help calls the command; by the path of the script if None.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    aliases = _aliases(presets[default_preset])
    arguments = [aliases.get(argument, argument) for argument in arguments]
    for name, times in Counter(_typed(arguments)).items():
        if times > 1 and name not in MAY_REPEAT:
            flag = name.replace("_", "-")
            stop(f"error: --{flag} is given {times} times; give it once", 2)
    same = [f"{alias} is the same as {flag}." for alias, flag in aliases.items()]
    description = "\n".join([description.strip(), *same]).strip()
    if len(presets) == 1:
        return _parsed(config_class, presets[default_preset], arguments, description, prog)
    preset = _preset(arguments, presets, default_preset)
    preset_type = Annotated[
        Literal[tuple(presets)],
        # Two Literals of the same names are one to Python, whatever their order: this one is told.
        tyro.conf.arg(help="where all other flags start from", metavar=f"{{{','.join(presets)}}}"),
    ]
    both = dataclasses.make_dataclass(
        "Arguments",
        [("preset", preset_type), ("config", flat(config_class))],
    )
    return _parsed(both, both(preset, presets[preset]), arguments, description, prog).config


def _parsed(kind: type, default: Any, arguments: list[str], description: str, prog: str | None):
    """What tyro makes of the arguments; those it does not know are answered with near ones."""
    parsed, unknown = tyro.cli(
        kind,
        prog=prog,
        args=arguments,
        default=default,
        description=description,
        return_unknown_args=True,
    )
    if unknown:
        word = next((each for each in unknown if each.startswith("-")), unknown[0]).partition("=")[
            0
        ]
        near = difflib.get_close_matches(word, [f"--{name}" for name in _flags(default)], 3, 0.7)
        hint = f"did you mean {' or '.join(near)}?" if near else "--help tells what there is"
        what = "there is no flag" if word.startswith("-") else "nothing takes the value"
        stop(f"error: {what} {word}; {hint}", 2)
    return parsed


def run_main(
    main: Callable[[Config], Any],
    config_class: type[Config],
    presets: Mapping[str, Config],
    *,
    default_preset: str,
    argv: Sequence[str] | None = None,
    description: str = "",
    check: Check = lambda config, typed: None,
    prog: str | None = None,
) -> Any:
    """Parses, calls ``main(config)`` and returns what it gives; arguments as ``parse``.

    Before that every number is held against what a float32 or an array's axis can hold, and
    ``check(config, typed)`` may refuse flags that were typed and would do nothing.

    Exit codes: 2 for input that cannot work (one sentence on stderr), 1 for training that diverged
    or a disk that failed, 130 for Ctrl-C, 0 for a run that SIGTERM stopped and that is saved. Any
    other exception is a defect and keeps its traceback.
    """
    keep_freed_memory()
    import_own(argv)
    how = {"default_preset": default_preset, "argv": argv, "description": description}
    config = parse(config_class, presets, **how, prog=prog)
    try:
        _check_numbers(config)
        if isinstance(net := getattr(config, "net", None), NetConfig):
            check_known(net.net)
        typed = frozenset(_typed(sys.argv[1:] if argv is None else argv))
        check(config, typed)
        return main(_own_size(config, typed))
    except KeyboardInterrupt:
        stop("interrupted", 130)
    except Stopped as stopped:
        from cls_jax.training.runtime.provenance import command

        stop(f"{stopped}; the same command goes on:\n  {command()}", stopped.exit_code)
    except (InputError, Diverged, SaveFailed) as error:
        stop(f"error: {error}", error.exit_code)


def refuse_unoffered(argv: Sequence[str] | None, names: Collection[str], why: str) -> None:
    """Ends the process with code 2 and the reason if a flag was typed that is not offered here.

    Args:
      argv: the arguments; those of the process if None.
      names: of such flags.
      why: they are not.
    """
    for name in _typed(sys.argv[1:] if argv is None else argv):
        if name in names:
            stop(f"error: --{name.replace('_', '-')} is not offered: {why}; leave it out", 2)


def _own_size(config: Any, typed: Collection[str]) -> Any:
    """The config with its data's own size, where the data were typed and the size was not: that of
    a preset belongs to the preset's data. A run that goes on keeps the size that it had."""
    stream = getattr(config, "stream", None)
    chosen = "data" in typed and not {"image_size", "continue"} & {*typed}
    if not isinstance(stream, StreamConfig) or not chosen:
        return config
    return dataclasses.replace(config, stream=dataclasses.replace(stream, image_size=None))


def _typed(arguments: Sequence[str]) -> Iterator[str]:
    """The field of every flag of a command line: "er.memory_size" of --er.memory-size 20."""
    for argument in arguments:
        if argument.startswith("--") and argument != "--":
            flag = ALIASES.get(argument, argument).removeprefix("--").partition("=")[0]
            parent, dot, name = flag.replace("-", "_").rpartition(".")
            yield f"{parent.removeprefix('no_')}{dot}{name.removeprefix('no_')}"


def _check_numbers(config: Any, prefix: str = "") -> None:
    """Raises InputError for a number that no float32, or no axis of an array, can hold."""
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), prefix + field.name
        if dataclasses.is_dataclass(value):
            _check_numbers(value, prefix if _is_flat(field) else f"{name}.")
            continue
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, float) and not _is_float32(one):
                raise InputError(
                    f"{name} is {one}; give a finite number that float32 holds, at most "
                    f"{LARGEST_FLOAT:g} and, if it is not 0, at least {SMALLEST_FLOAT:g} in size"
                )
            if type(one) is int and field.name != "seeds" and abs(one) >= 2**31:
                raise InputError(f"{name} is {one}; give a number below 2**31")


def _is_float32(value: float) -> bool:
    return value == 0 or (math.isfinite(value) and SMALLEST_FLOAT <= abs(value) <= LARGEST_FLOAT)


def _flags(config: Any, prefix: str = "") -> Iterator[str]:
    """What may stand behind ``--``: the fields of a config and of the dataclasses in it."""
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), prefix + field.name.replace("_", "-")
        if dataclasses.is_dataclass(value):
            yield from _flags(value, prefix if _is_flat(field) else f"{name}.")
        elif tyro.conf.Suppress not in getattr(field.type, "__metadata__", ()):
            yield name
            if isinstance(value, bool):
                yield f"{prefix}no-{field.name.replace('_', '-')}"


def _is_flat(field: dataclasses.Field) -> bool:
    marks = getattr(field.type, "__metadata__", ())
    return any(getattr(mark, "name", None) == "" for mark in marks)


def _aliases(config: Any) -> dict[str, str]:
    known = {f"--{name}" for name in _flags(config)}
    return {alias: flag for alias, flag in ALIASES.items() if flag in known}


def _preset(arguments: Sequence[str], presets: Mapping[str, Any], default: str) -> str:
    """The preset that the arguments name; tyro itself reports a ``--preset`` without a value."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--preset", nargs="?", default=default)
    name = parser.parse_known_args(arguments)[0].preset
    if name is not None and name not in presets:
        stop(f"error: no preset {name!r}; --preset is one of {', '.join(presets)}", 2)
    return default if name is None else name


def stop(sentence: str, code: int) -> NoReturn:
    """Ends the process with ``code``, the sentence on stderr."""
    print(sentence, file=sys.stderr)
    raise SystemExit(code)
