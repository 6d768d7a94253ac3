"""What the site makes of the code and of records/: pages as text, without mkdocs and without JAX.

``pages`` is all that ``docs/hooks.py`` hands to mkdocs and that tests/project/test_site.py reads.
"""

from pathlib import Path
from typing import Any, NamedTuple

from cls_site import method_pages, reference, result_pages

ROOT = Path(__file__).resolve().parents[2]


class Site(NamedTuple):
    """What is generated.

    Attributes:
      pages: address within docs/ -> Markdown.
      files: address within docs/ -> the file of the repository that is shown there.
      nav: section -> its generated pages for the navigation, in groups.
    """

    pages: dict[str, str]
    files: dict[str, Path]
    nav: dict[str, list[Any]]


def site(root: Path = ROOT) -> Site:
    """Every generated page and figure of the repository at ``root``."""
    records = result_pages.read(root / "records")
    parts = (method_pages.pages(root, records), result_pages.pages(records), reference.pages())
    pages = {name: text for part in parts for name, text in part.items()}
    pages["changelog.md"] = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    files = {f"results/{one.name}/{name}": path for one in records for name, path in one.figures}
    nav = {
        "Methods": method_pages.navigation(),
        "Results": result_pages.navigation(records),
        "Reference": [name for name in parts[2] if not name.endswith("index.md")],
    }
    return Site(pages, files, nav)
