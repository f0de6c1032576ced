#!/usr/bin/env python3
"""Builds the site of the documentation into site/ with mdBook, and checks its links with lychee.

    make site
    make links

The pages are staged into a temporary folder in the places that they have in the repository, so that the same relative
links hold there, in the repository's own view and on the site. README.md becomes the front page. docs/SUMMARY.md is the
table of contents: a page in docs/ that it does not name fails the build, as does an entry without a page.
"""

from __future__ import annotations

import argparse
import posixpath
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from artefacts import LYCHEE_FOLDER, MDBOOK_FOLDER, faceid_home
from doc_pages import CHECKOUT, read_parts, without_remarks

CONTENTS = "docs/SUMMARY.md"
FRONT = "README.md"
ASSETS = ("docs/images/*", "benches/*.svg", "LICENSE", "openapi.yaml")
LINK = re.compile(r"(?P<before>\]\(|^\[[^\]]+\]:\s+)(?P<target>[^)\s#]+\.md)(?=[)\s#])", re.MULTILINE)
# The highlighter of mdBook reads comments in JSON, but does not know the name for it.
HIGHLIGHTED_AS = {"jsonc": "json"}


class SiteError(Exception):
    """The site cannot be built; the message says why."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check-links", action="store_true", help="check every link of the built site and of the repository's own view")
    options = parser.parse_args()
    try:
        pages = listed_pages()
        build(pages)
        return check_links(pages) if options.check_links else 0
    except SiteError as error:
        print(f"site: {error}", file=sys.stderr)
        return 1


def listed_pages() -> list[str]:
    """The pages of the table of contents, as paths of the repository; everything must be there and nothing left out."""
    contents = (CHECKOUT / CONTENTS).read_text(encoding="utf-8")
    pages = [in_repository(link["target"]) for link in LINK.finditer(contents)]
    missing = [page for page in pages if not (CHECKOUT / page).is_file()]
    twice = sorted({page for page in pages if pages.count(page) > 1})
    written = {str(page.relative_to(CHECKOUT)) for folder in ("docs", "benches") for page in (CHECKOUT / folder).glob("*.md")}
    problems = [f"{CONTENTS} names {page}, which is not there" for page in missing]
    problems += [f"{CONTENTS} names {page} twice" for page in twice]
    problems += [f"{page} is not in {CONTENTS}" for page in sorted(written - set(pages) - {CONTENTS})]
    if problems:
        raise SiteError("\n  ".join(problems))
    return pages


def in_repository(target: str, page: str = CONTENTS) -> str:
    """Where a relative link of a page leads."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), target))


def build(pages: list[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="faceid-site-") as folder:
        stage(Path(folder), pages)
        command = [tool(MDBOOK_FOLDER, "mdbook"), "build", "--dest-dir", CHECKOUT / "site", folder]
        made = subprocess.run([str(part) for part in command], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if made.returncode != 0 or re.search(r"\b(WARN|ERROR)\b", made.stderr):
            raise SiteError(f"mdbook is not content:\n{made.stdout}{made.stderr}")
    print(f"site: {len(pages)} pages in {CHECKOUT / 'site'}")


def stage(folder: Path, pages: list[str]) -> None:
    source = folder / "pages"
    for page in [CONTENTS, *pages]:
        text = site_text((CHECKOUT / page).read_text(encoding="utf-8"), page)
        destination = source / ("SUMMARY.md" if page == CONTENTS else on_site(page))
        destination.parent.mkdir(parents=True, exist_ok=True)
        destination.write_text(text, encoding="utf-8")
    for pattern in ASSETS:
        for asset in CHECKOUT.glob(pattern):
            destination = source / asset.relative_to(CHECKOUT)
            destination.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(asset, destination)
    shutil.copyfile(CHECKOUT / "book.toml", folder / "book.toml")
    shutil.copyfile(CHECKOUT / "docs/site.css", folder / "site.css")


def on_site(page: str) -> str:
    """mdBook makes an index.html of a README.md, but leads links to it astray. The contents stand beside every page."""
    return "index.md" if page in (FRONT, CONTENTS) else page


def site_text(text: str, page: str) -> str:
    written = []
    for part in read_parts(text):
        if part.language is None:
            written.append(LINK.sub(lambda link: link["before"] + site_link(link["target"], page), without_remarks(part.text)))
            continue
        language = HIGHLIGHTED_AS.get(part.language, part.language)
        opening = part.opening.replace(part.language, language, 1) if part.language else part.opening
        fence = re.match(r"\s*[`~]+", opening)[0]
        indent = fence[: len(fence) - len(fence.lstrip())]
        written.append("\n".join([opening, *(indent + line for line in part.lines), fence]))
    return "\n".join(written)


def site_link(target: str, page: str) -> str:
    """The link as the staged page needs it: from the root in the table of contents, else from where the page is."""
    if "://" in target:
        return target
    leads_to = on_site(in_repository(target, page))
    return posixpath.relpath(leads_to, "." if page == CONTENTS else posixpath.dirname(page) or ".")


def check_links(pages: list[str]) -> int:
    """The site's links, and the repository's own: headings get their anchors by slightly different rules."""
    site = CHECKOUT / "site"
    built = [str(file) for file in sorted(site.rglob("*.html")) if file.name not in ("404.html", "toc.html")]
    code = 0
    for name, files in (("the site", built), ("the repository", sorted({*pages, CONTENTS}))):
        print(f"links of {name}:", flush=True)
        command = [str(tool(LYCHEE_FOLDER, "lychee")), "--config", "lychee.toml", *files]
        code |= subprocess.run(command, cwd=CHECKOUT, stdin=subprocess.DEVNULL).returncode
    return code


def tool(folder, name: str) -> Path:
    if not folder.ready(faceid_home()):
        raise SiteError(f"{name} is missing: python3 scripts/setup.py --only {name}")
    return faceid_home() / folder.name / name


if __name__ == "__main__":
    sys.exit(main())
