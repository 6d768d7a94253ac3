#!/usr/bin/env python
"""Accuracy matrices of earlier formats, rewritten in the one that ``report/matrices.py`` reads.

python records/convert_matrices.py [FOLDER ...]: all records, or workdirs of one's own. Every number
of a new file is compared with the old one, as decimal text, before the old file is replaced; files
that have the new format are left as they are, so it may be run again.
"""

import csv
import io
import json
import re
import sys
from decimal import Decimal
from pathlib import Path

import numpy as np

from cls_jax.core.files import safe_name, write_file
from cls_jax.report.matrices import Label, matrices_csv, order_text, read_matrices, scenario_key

ONE = re.compile(r"_(class_il|task_il|domain_il|accuracy)_seed(\d+)\.csv$")
"""A file of one matrix tells its score and seed in its name, and its network before them."""


def converted(path: Path, networks: list[str]) -> dict[Label, list[list[str]]] | None:
    """Label -> the numbers of each row as they stand in a file of an earlier format; else None.

    Args:
      path: of the file.
      networks: names of those that were scored, where the file's name tells which.
    """
    header, *lines = csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline=""))
    found: dict[Label, list[list[str]]] = {}
    if header[0] == "after_task":
        scenario, seed = ONE.search(path.name).groups()
        front = ONE.sub("", path.name)
        network = max((n for n in networks if front.endswith(f"_{safe_name(n)}")), key=len)
        found[Label(network, scenario, int(seed))] = [row[1:] for row in lines]
    elif header[:4] == ["network", "score", "seed", "after_task"]:
        for network, score, seed, _, *row in lines:
            label = Label(network, scenario_key(score), int(seed))
            found.setdefault(label, []).append(row)
    elif header[:3] == ["order", "seed", "after_task"]:
        for order, seed, _, *row in lines:
            learned = order_text(tuple(map(int, order.split("-"))))
            label = Label("answer", "task_il", int(seed), learned)
            found.setdefault(label, []).append(row)
    else:
        return None
    return found


def number(text: str) -> Decimal | None:
    """The number that a cell holds, exactly; None where nothing was measured."""
    return Decimal(text) if text else None


def numbers_of(text: str) -> list[Decimal | None]:
    """Every accuracy of a file in the new format, in its order."""
    _, *lines = csv.reader(io.StringIO(text, newline=""))
    return [number(cell) for line in lines for cell in line[5:]]


def convert(path: Path, networks: list[str]) -> bool:
    """Rewrites a file; whether it had an earlier format.

    Raises:
      ValueError: a number would not be the same.
    """
    found = converted(path, networks)
    if found is None:
        return False
    old = [number(cell) for rows in found.values() for row in rows for cell in row]
    text = matrices_csv(
        {label: np.array([[float(x or "nan") for x in r] for r in a]) for label, a in found.items()}
    )
    if numbers_of(text) != old:
        raise ValueError(f"{path}: the new file does not have the same numbers")
    write_file(path, text)
    if [*read_matrices(path)] != [*found]:
        raise ValueError(f"{path}: the new file does not have the same matrices")
    return True


def networks_in(folder: Path) -> list[str]:
    """Names of the networks of the runs whose results.json or comparison.json is in a folder."""
    records = []
    for path in (folder / "results.json", folder / "comparison.json"):
        if path.exists():
            told = json.loads(path.read_text(encoding="utf-8"))
            records += told if isinstance(told, list) else [told]
    return [*dict.fromkeys(network for record in records for network in record["scores"])]


def main(folders: list[str]) -> None:
    """Converts every accuracy_*.csv below the folders, and says how many."""
    paths = [p for f in folders for p in sorted(Path(f).rglob("accuracy_*.csv"))]
    done = sum(convert(path, networks_in(path.parent)) for path in paths)
    print(f"{done} of {len(paths)} files converted, every number the same")


if __name__ == "__main__":
    main(sys.argv[1:] or [str(Path(__file__).parent)])
