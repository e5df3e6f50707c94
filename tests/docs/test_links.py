"""Links of the pages lead somewhere: to a page that is there, and to a heading that it has. Pictures say what they show."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
SITE = "https://stem-kombu.readthedocs.io/en/latest/"
PAGES = sorted([*DOCS.rglob("*.md"), *(ROOT / name for name in ("README.md", "SECURITY.md", "CONTRIBUTING.md"))])
#: Pages of docs/ that show a file of the root.
SHOWN = {"changelog": "CHANGELOG.md", "security": "SECURITY.md", "contributing": "CONTRIBUTING.md"}
_FENCE = re.compile(r"^(`{3,}|~{3,}|:{3,}).*?^\1\s*$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!\!)\[[^\]]*\]\(([^)\s]+)\)")


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "``", _FENCE.sub("", text))


def anchors(page: Path) -> set[str]:
    """The headings of a page as the site links them, and the places that it names itself."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    found: set[str] = set(re.findall(r"^\(([\w-]+)\)=$", text, re.MULTILINE))
    for heading in re.findall(r"^#{1,3} +(.+?)\s*$", text, re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").replace("*", "")
        slug = re.sub(r"[^\w\- ]", "", plain.strip().lower()).replace(" ", "-")
        found.add(slug if slug not in found else f"{slug}-1")
    return found


def problem(page: Path, target: str) -> str | None:
    """What is wrong with a link of a page; ``None`` where nothing is, or where it leaves the project."""
    path, _, anchor = target.partition("#")
    if target.startswith(SITE):
        name = path.removeprefix(SITE).removesuffix(".html")
        to = DOCS / f"{name or 'index'}.md" if not name.startswith("_images/") else None
        if to is None:
            return None if list(DOCS.rglob(Path(path).name)) else "there is no such picture"
    elif re.match(r"[a-z]+:", target):
        return None
    else:
        to = page if not path else (page.parent / path).resolve()
    if to.suffix == ".html" or not to.exists():
        return "there is no such file"
    if anchor and to.suffix == ".md":
        shown = ROOT / SHOWN[to.stem] if to.parent == DOCS and to.stem in SHOWN else to
        if anchor not in anchors(shown):
            return "that page has no such heading"
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_each_link_leads_somewhere(page: Path) -> None:
    targets = _LINK.findall(without_code(page.read_text(encoding="utf-8")))
    assert [(target, said) for target in targets if (said := problem(page, target)) is not None] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_each_picture_is_there_and_says_what_it_shows(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for alt, target in re.findall(r"!\[([^\]]*)\]\(([^)\s]+)\)", text):
        assert alt, target
        assert problem(page, target) is None, target
    for target, options in re.findall(r"^`{3}\{image\} (\S+)\n(.*?)^`{3}", text, re.MULTILINE | re.DOTALL):
        assert (page.parent / target).exists(), target
        assert re.search(r"^:alt: \S.{20,}", options, re.MULTILINE), target
        # A drawing stays crisp at any size; a picture of dots does not.
        assert target.endswith(".svg"), target


def test_each_page_is_in_a_list_of_contents() -> None:
    listed: set[str] = set()
    for index in (DOCS / "index.md", DOCS / "adr" / "index.md"):
        for block in re.findall(r"^`{3}\{toctree\}\n(.*?)^`{3}", index.read_text(), re.MULTILINE | re.DOTALL):
            names = [line.strip() for line in block.splitlines() if line.strip() and not line.startswith(":")]
            listed |= {path.stem for name in names for path in index.parent.glob(f"{name}.md")}
    pages = {page.stem for page in PAGES if page.is_relative_to(DOCS)} - {"index"}
    assert pages - listed == set()
