"""Docstrings as mkdocstrings wants them; a griffe extension that mkdocs.yml names."""

from typing import Any

import griffe

from cls_site.text import as_markdown


class Docstrings(griffe.Extension):
    """Rewrites the docstring of everything that is read."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called for each module, class, function and attribute."""
        del kwargs
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value)
