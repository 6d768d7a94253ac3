"""mkdocs: adds the pages that are made of the code and of records/; see cls_site."""

import sys
from pathlib import Path

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
                entries += SITE.nav[name]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated pages and the figures of the records."""
    for name, text in SITE.pages.items():
        files.append(File.generated(config, name, content=text))
    for name, path in SITE.files.items():
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files
