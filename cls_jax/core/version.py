"""The version of the library; pyproject.toml has the same."""

from pathlib import Path

__version__ = "0.1.0"

PACKAGE = Path(__file__).resolve().parents[1]
"""The folder of the package."""
