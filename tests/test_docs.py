"""Every page of docs/ is one step from the README, and no link leads nowhere."""

import re
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("datasets/*.md")])


def links(page: Path) -> set[Path]:
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    return {(page.parent / target).resolve() for target in targets if "://" not in target}


def test_every_page_is_one_step_from_the_readme():
    assert not {page for page in PAGES if page.name != "README.md"} - links(ROOT / "README.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_link_leads_nowhere(page):
    assert not {str(target) for target in links(page) if not target.exists()}


def test_what_pages_import_is_there():
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    imports = {
        (module, name)
        for module, names in re.findall(r"from (dscsr_[\w.]+) import ([\w, ]+)", text)
        for name in names.split(", ")
    }
    assert imports
    assert not [each for each in imports if not hasattr(import_module(each[0]), each[1])]
