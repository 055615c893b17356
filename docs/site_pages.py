"""Hooks for MkDocs: put pages from outside docs/ into the site, and adapt their links.

The pages are written for a reader of the repository, so README.md links to docs/training.md. In the site README.md is
index.md and links to training.md. A link to any other file outside docs/ stays as it is, and MkDocs reports it.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "benchmarks/README.md": "benchmarks.md",
    "benchmarks/accuracy.md": "accuracy.md",
    "benchmarks/gpu.md": "gpu.md",
    "histocli/models/weights/histonet-pcam.md": "histonet-pcam.md",
}
_LINK = re.compile(r"\]\((?P<path>[^)\s#:]+)(?P<anchor>#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages from outside docs/."""
    for source, page in PAGES.items():
        content = adapt_links((ROOT / source).read_text(encoding="utf-8"), source)
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Adapt the links of a page in docs/."""
    is_from_outside = page.file.src_uri in PAGES.values()
    return markdown if is_from_outside else adapt_links(markdown, f"docs/{page.file.src_uri}")


def adapt_links(markdown: str, source: str) -> str:
    """Return the text with each link to a file of the repository as a link to its page in the site.

    `source` is the path of the text's file from the root of the repository.
    """

    def replace(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link["path"]))
        target = PAGES.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else link["path"])
        return f"]({target}{link['anchor'] or ''})"

    return _LINK.sub(replace, markdown)
