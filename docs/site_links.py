"""MkDocs hooks that copy files linked from ``docs/`` into the site and adapt the links."""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(\]\(|src=\")(?!\w+:|#|/)([^)\"#\s]+)")
NOTES = re.compile(r"(\[\d\]) \[")
"""Two adjacent footnote marks, which are not a link."""
ALSO = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")


def on_files(files: Files, *, config: Any) -> None:
    """Add the README as the front page, and every repository file that a page links to."""
    waiting = [*ALSO, *(f"docs/{file.src_uri}" for file in files.documentation_pages())]
    for place in waiting:
        added = not place.startswith("docs/")
        if added and files.get_file_from_path(site_path(place)) is None:
            files.append(File.generated(config, site_path(place), abs_src_path=str(ROOT / place)))
        if place.endswith(".md"):
            waiting += [found for found in links(place) if found not in waiting]


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Rewrite links for the layout of the site."""
    here = repository_path(page.file.src_uri)

    def moved(link: re.Match[str]) -> str:
        target = resolved(here, link[2])
        if not (ROOT / target).is_file():
            return link[0]
        return link[1] + posixpath.relpath(site_path(target), posixpath.dirname(page.file.src_uri) or ".")

    return LINK.sub(moved, NOTES.sub(r"\1 \\[", markdown))


def links(place: str) -> list[str]:
    """Files of the repository that a page links to."""
    text = (ROOT / place).read_text(encoding="utf-8")
    return [target for link in LINK.finditer(text) if (ROOT / (target := resolved(place, link[2]))).is_file()]


def resolved(place: str, link: str) -> str:
    """Resolve a link in a file to a path from the repository's root."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(place), link))


def site_path(place: str) -> str:
    """Path in the site of a file in the repository."""
    return "index.md" if place == "README.md" else place.removeprefix("docs/")


def repository_path(uri: str) -> str:
    """Path in the repository of a file in the site."""
    if uri == "index.md":
        return "README.md"
    return f"docs/{uri}" if (ROOT / "docs" / uri).is_file() else uri
