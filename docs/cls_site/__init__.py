"""What the site makes of the code and of records/: pages as text, without mkdocs and without JAX.

``pages`` is all that ``docs/hooks.py`` hands to mkdocs and that tests/project/test_site.py reads.
"""

from pathlib import Path
from typing import NamedTuple

from cls_site import method_pages, reference, result_pages

ROOT = Path(__file__).resolve().parents[2]


class Site(NamedTuple):
    """What is generated.

    Attributes:
      pages: address within docs/ -> Markdown.
      files: address within docs/ -> the file of the repository that is shown there.
      nav: section -> addresses of its generated pages, in their order.
    """

    pages: dict[str, str]
    files: dict[str, Path]
    nav: dict[str, list[str]]


def site(root: Path = ROOT) -> Site:
    """Every generated page and figure of the repository at ``root``."""
    records = result_pages.read(root / "records")
    parts = {
        "Methods": method_pages.pages(root, records),
        "Results": result_pages.pages(records),
        "Reference": reference.pages(),
    }
    pages = {name: text for part in parts.values() for name, text in part.items()}
    pages["changelog.md"] = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    files = {f"results/{one.name}/{name}": path for one in records for name, path in one.figures}
    return Site(pages, files, {section: list(part) for section, part in parts.items()})
