"""The pictures of the docs: each is drawn by a script or a command, shown by a page, and plain."""

import ast
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from pages import DOCS, PAGES, name_of

PICTURES = sorted((DOCS / "pictures").iterdir())
MOST_BYTES = 200_000
_IMAGE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")
_HTML_IMAGE = re.compile(r"<img\b[^>]*>")
_DIRECTIVE = re.compile(r"\{(?:image|figure)\}[^\n]*\n(?:(?!```|:::).*\n)*")


def test_every_picture_is_made_by_the_list() -> None:
    # a picture that nothing draws is right until the code changes
    tree = ast.parse((DOCS / "drawings" / "__main__.py").read_text(encoding="utf-8"))
    listed = [
        key.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)
        for key in node.value.keys
        if isinstance(key, ast.Constant)
    ]
    assert sorted(listed) == [path.name for path in PICTURES]


def test_every_picture_is_on_a_page() -> None:
    shown = set()
    for page in PAGES:
        for _, target in _IMAGE.findall(page.read_text(encoding="utf-8")):
            shown.add((page.parent / target).resolve())
    assert [path.name for path in PICTURES if path.resolve() not in shown] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_images_of_a_page_say_what_they_show(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for alternative, target in _IMAGE.findall(text):
        assert len(alternative.split()) >= 3, target
    for image in _HTML_IMAGE.findall(text):
        assert re.search(r'\balt="[^"]+"', image), image
    for directive in _DIRECTIVE.findall(text):
        assert re.search(r"^ *:alt: +\S", directive, re.MULTILINE), directive


def _words(picture: Path) -> list[str]:
    found = ElementTree.parse(picture).iter("{http://www.w3.org/2000/svg}text")
    return sorted("".join(element.itertext()) for element in found)


@pytest.mark.slow
def test_pictures_say_what_the_code_says_today(tmp_path: Path) -> None:
    names = ("number.svg", "layouts.svg", "recoveries.svg", "layer.svg", "rooms.svg", "check.svg")
    command = [sys.executable, str(DOCS / "drawings"), *names, "--to", str(tmp_path)]
    subprocess.run(command, check=True, timeout=120)
    for name in names:
        assert _words(tmp_path / name) == _words(DOCS / "pictures" / name), f"draw {name} again"


@pytest.mark.parametrize("picture", PICTURES, ids=lambda path: path.name)
def test_a_picture_is_small_and_loads_nothing(picture: Path) -> None:
    assert picture.stat().st_size <= MOST_BYTES
    if picture.suffix != ".svg":
        assert picture.read_bytes().startswith(b"\x89PNG")
        return
    text = picture.read_text(encoding="utf-8")
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    for element in root.iter():
        assert element.tag.rpartition("}")[2] not in {"script", "foreignObject"}
        for name, value in element.attrib.items():
            if name.rpartition("}")[2] in {"href", "src"}:
                assert value.startswith(("#", "data:image/png")), value
    assert "@import" not in text
    assert all(target.startswith("#") for target in re.findall(r"url\([\"']?([^)\"']+)", text))
