#!/usr/bin/env python
"""Accuracy matrices of one file each, joined into the one file a method that ``results.py`` reads.

python records/join_matrices.py [FOLDER ...]: all records, or workdirs of one's own. What was joined
is read back and compared with what was there, bit for bit, before the old files are removed; a
folder that has the new files is left as it is, so it may be run again.
"""

import json
import sys
from pathlib import Path

import numpy as np

from cls_jax.core.files import safe_names, write_file
from cls_jax.report.matrices import Label, matrices_csv, read_matrices


def joined(folder: Path) -> int:
    """Joins the matrices of the results in a folder; how many files went.

    Raises:
      ValueError: the new file would not hold the same matrices.
    """
    many = folder / "comparison.json"
    one = not many.exists()
    told = json.loads((folder / "results.json" if one else many).read_text(encoding="utf-8"))
    records = [told] if one else told
    names = safe_names([record["method"] for record in records])
    removed = 0
    for record, name in zip(records, names, strict=True):
        prefix = "accuracy" if one else f"accuracy_{name}"
        views = dict(zip(record["scores"], safe_names(list(record["scores"])), strict=True))
        places = {
            Label(view, scenario, seed): folder / f"{prefix}_{safe}_{scenario}_seed{seed}.csv"
            for view, safe in views.items()
            for scenario in record["scores"][view]
            for seed in record["seeds"]
        }
        if not next(iter(places.values())).exists():
            continue
        old = {of: read_matrices(path)[of] for of, path in places.items()}
        whole = folder / f"{prefix}.csv"
        write_file(whole, matrices_csv(old))
        new = read_matrices(whole)
        if [*new] != [*old] or not all(np.array_equal(new[of], old[of], True) for of in old):
            raise ValueError(f"{whole} does not have the matrices of the files that it joins")
        for path in places.values():
            path.unlink()
        removed += len(places)
    return removed


def main(folders: list[str]) -> None:
    """Joins the matrices of every result below the folders, and says how many files went."""
    found = [
        path.parent
        for folder in folders
        for name in ("results.json", "comparison.json")
        for path in sorted(Path(folder).rglob(name))
    ]
    print(f"{sum(map(joined, dict.fromkeys(found)))} files joined, every number the same")


if __name__ == "__main__":
    main(sys.argv[1:] or [str(Path(__file__).parent)])
