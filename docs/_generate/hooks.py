"""Hooks of the documentation site: pages made from the code, pages from outside `docs/`, and links between them.

MkDocs loads this module (`hooks` in mkdocs.yml). Nothing of it is part of the package.
"""

from __future__ import annotations

import logging
import posixpath
import re
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parent))

from messages import with_messages
from reference import commands_page, configuration_page, event_page, python_page

log = logging.getLogger("mkdocs.hooks.twincar_edge")  # a warning here fails a strict build

REPOSITORY = Path(__file__).parents[2]
BLOB = "https://github.com/twincar-edge/twincar-edge/blob/main/"

# Files outside `docs/` that are pages of the site.
OUTSIDE = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "RELEASING.md": "releasing.md",
    "SECURITY.md": "security.md",
    "deploy/README.md": "deploy.md",
    "twincar_edge/assets/lite0-cars196.md": "model-card.md",
}
GENERATED = {
    "reference/commands.md": commands_page,
    "reference/configuration.md": configuration_page,
    "reference/event.md": event_page,
    "reference/python.md": python_page,
}
LINK = re.compile(r"(?<=\]\()([^)\s]+)(?=\))")
FENCE = re.compile(r"^ *(```|~~~).*?^ *\1 *$", re.DOTALL | re.MULTILINE)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the security policy to the navigation where the checkout has one."""
    if (REPOSITORY / "SECURITY.md").exists() and config.nav is not None:
        config.nav.insert(-1, {"Security": OUTSIDE["SECURITY.md"]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are generated, those from outside `docs/`, and the pictures that pages show from there."""
    for uri, make in GENERATED.items():
        files.append(File.generated(config, uri, content=make(REPOSITORY)))
    for source, uri in OUTSIDE.items():
        if (REPOSITORY / source).exists():
            files.append(File.generated(config, uri, abs_src_path=str(REPOSITORY / source)))
    for picture in sorted((REPOSITORY / "benchmarks" / "results").glob("*.png")):
        uri = picture.relative_to(REPOSITORY).as_posix()
        files.append(File.generated(config, uri, abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links that leave `docs/` to the site's own page of that file, or to the repository."""
    uri = page.file.src_uri
    if uri == "troubleshooting.md":
        markdown = with_messages(markdown, REPOSITORY)
    source = next((name for name, own in OUTSIDE.items() if own == uri), f"docs/{uri}")
    return outside_code(markdown, lambda text: LINK.sub(lambda link: target(link[1], source, uri), text))


def outside_code(markdown: str, change: Callable[[str], str]) -> str:
    """Return the text with `change` applied to all that lies outside fenced code."""
    parts: list[str] = []
    end = 0
    for fence in FENCE.finditer(markdown):
        parts += [change(markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, change(markdown[end:])])


def target(link: str, source: str, uri: str) -> str:
    """Return where a link of the file `source` points on the site, whose page it is at `uri`."""
    if re.match(r"[a-z][a-z0-9+.-]*:", link):
        check_address(link, source)
        return link
    path, _, anchor = link.partition("#")
    if not path:
        return link
    wanted = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    behind = f"#{anchor}" if anchor else ""
    inside = OUTSIDE.get(wanted) or (wanted if re.fullmatch(r"benchmarks/results/[^/]+\.png", wanted) else None)
    if inside is None and wanted.startswith("docs/"):
        inside = wanted.removeprefix("docs/")
    if inside is not None:
        return posixpath.relpath(inside, posixpath.dirname(uri) or ".") + behind
    if not (REPOSITORY / wanted).exists():
        log.warning("%s links to %s, which does not exist", source, link)
    return BLOB + wanted + behind


def check_address(link: str, source: str) -> None:
    """Warn of an external link that cannot work. Nothing is requested: a build needs no network."""
    try:
        parts = urlsplit(link)
        valid = parts.scheme in ("http", "https", "mailto") and (
            parts.scheme == "mailto" or "." in (parts.hostname or "")
        )
    except ValueError:
        valid = False
    if not valid:
        log.warning("%s has the malformed link %s", source, link)
