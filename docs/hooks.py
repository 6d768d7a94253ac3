"""mkdocs: adds the pages that are made of the code and of records/; see cls_site."""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # mkdocs runs this file by its path
sys.path.insert(0, str(Path(__file__).resolve().parent))

from cls_site import math, site
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

SITE = site()


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Equations and the navigation of what is generated."""
    fences = config.mdx_configs.setdefault("pymdownx.superfences", {})
    fences["custom_fences"] = [{"name": "math", "class": "math", "format": math.fence}]
    for section in config.nav or []:
        for name, entries in section.items():
            if name in SITE.nav:
                entries += [page for page in SITE.nav[name] if not _listed(page, entries)]
    return config


def _listed(page: str, entries: list[Any]) -> bool:
    return any(page == one or (isinstance(one, dict) and page in one.values()) for one in entries)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated pages and the figures of the records."""
    for name, text in SITE.pages.items():
        files.append(File.generated(config, name, content=text))
    for name, path in SITE.files.items():
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files
