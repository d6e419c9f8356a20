"""How Sphinx builds the site: `make docs`."""

import hashlib
import os
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "src")]

import chinese  # noqa: E402
import command_line  # noqa: E402

import plainfit  # noqa: E402

command_line.write()
# The site shows the notebooks with their outputs: docs/notebooks holds copies to execute.
(HERE / "notebooks").mkdir(exist_ok=True)
for notebook in (HERE.parent / "notebooks").glob("*.ipynb"):
    shutil.copy(notebook, HERE / "notebooks")

project = "plainfit"
author = "The plainfit authors"
copyright = "The plainfit authors, Apache-2.0"
release = version = plainfit.__version__

# A notebook is executed once for each state of the library: both languages have the same cells.
sources = sorted((HERE.parent / "src").rglob("*.py"))
state = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
nb_execution_mode = os.environ.get("NOTEBOOKS", "cache")  # `make test` has another test of them
nb_execution_cache_path = str(HERE / "_build" / "notebooks" / state)
nb_execution_raise_on_error = True
nb_execution_timeout = 300  # seconds a cell
nb_merge_streams = True

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
locale_dirs, gettext_compact = ["locale"], False  # translations: `make docs-zh`
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
smartquotes_action = "q"  # leave -- as it is
html_theme = "furo"
html_title = f"plainfit {version}"

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True


def setup(app):
    app.add_search_language(chinese.SearchPairs)
