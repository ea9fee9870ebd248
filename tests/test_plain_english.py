"""Pages are in plain English: short sentences, the field's words, one number a cell.

Readers are engineers of two fields, and many are not native speakers. The rules are those of
CONTRIBUTING.md; this file is how a page that breaks one is found.
"""

import re
from pathlib import Path

import pytest
from pages import PAGES, name_of

MOST_WORDS = 25  # of a sentence
FORBIDDEN = (
    *(r"whoever", r"somebody", r"nobody", r"anybody", r"anew", r"whatever", r"whichever"),
    *(r"grey curve", r"share of light", r"bucket", r"muddled", r"remed(?:y|ies)", r"block layout"),
    *(r"begins? anew", r"tells? (?:its|the) truth", r"is no (?!longer|more|less)", r"of no effect"),
    *(r"goes? on(?! (?:the|a)\b)", r"went on", r"go(?:es)? through (?:it|them)", r"as of any"),
)
_NUMBER = re.compile(
    r"(?<![\w.])[-+±]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?"  # 1,024 and 1.2e-3
    r"(?: ?[x×] ?\d[\d,]*)*(?:-\d\d-\d\d)?(?!\w*\d)"  # 1920 x 1152 and a date are one
)


def parts_of(text: str) -> tuple[list[str], list[str]]:
    """Return the paragraphs (headings and list items too) and the table cells of a page."""
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"^( *)(`{3,})(?!\{).*?^\1\2$", "\n", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^ *(?:`{3,}|:{3,}).*$", "\n", text, flags=re.MULTILINE)  # of directives
    text = re.sub(r"^ *:[\w-]+:.*$", "", text, flags=re.MULTILINE)  # options of directives
    text = re.sub(r"\n\n((?: {4,}.*\n)+)", "\n\n", text)  # indented code
    text = re.sub(r"\{[\w:+-]+\}`([^`<]*?)(?:<[^`]*>)?`", r"\1", text)  # roles
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", text)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"`[^`]+`", "Code", text)
    text = re.sub(r"\$[^$]+\$", "Formula", text)
    paragraphs, cells = [], []
    for piece in re.split(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.|#+) )", text):
        lines = piece.strip().splitlines()
        if lines and all(line.lstrip().startswith("|") for line in lines):
            rows = (re.split(r"(?<!\\)\|", line.strip().strip("|")) for line in lines)
            cells += [cell.strip() for row in rows for cell in row]
        elif lines:
            paragraphs.append(
                re.sub(r"^\s*(?:[-*]|\d+\.|#+|>) ", "", " ".join(map(str.strip, lines)))
            )
    return paragraphs, cells


def sentences_of(paragraph: str) -> list[str]:
    """Return the sentences of a paragraph."""
    protected = re.sub(r"\b(e\.g|i\.e|Fig|Eq|Trans|vs|No|approx|[A-Z])\.", r"\1", paragraph)
    ends = r"(?<=[.!?])[\"')*_]*\s+(?=[\"'(*_]*(?:[A-Z0-9]|lightloom))"
    return [part for part in re.split(ends, protected) if part]


def words_of(sentence: str) -> int:
    """Return the number of words; signs alone are none."""
    return len([word for word in sentence.split() if re.search(r"\w", word)])


def faults_of(page: Path) -> list[str]:
    """Return what is not plain in a page, a line each."""
    paragraphs, cells = parts_of(page.read_text(encoding="utf-8"))
    found = []
    for text in [*paragraphs, *cells]:
        for sentence in sentences_of(text):
            if (count := words_of(sentence)) > MOST_WORDS:
                found.append(f"{count} words: {sentence}")
        found += [
            f"“{match[0]}”: {text}"
            for pattern in FORBIDDEN
            for match in re.finditer(rf"\b{pattern}", text, re.IGNORECASE)
        ]
    for cell in cells:
        is_figure = not re.search(r"[^\W\d_]{4,}", cell)
        if is_figure and len(_NUMBER.findall(cell)) > 1:
            found.append(f"more than one number in a cell: {cell}")
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_is_plain(page: Path) -> None:
    found = faults_of(page)
    assert not found, "\n".join(["", *found])


def test_reference_headings_are_no_questions() -> None:
    for page in PAGES:
        if "reference" in page.parts:
            headings = re.findall(r"^#+ .*\?$", page.read_text(encoding="utf-8"), re.MULTILINE)
            assert not headings, name_of(page)


def test_the_rules_find_what_they_are_for(tmp_path: Path) -> None:
    # a check that cannot fail keeps nothing plain
    page = tmp_path / "page.md"
    page.write_text(f"""# A page

Two words. A{" word" * MOST_WORDS}. `code` and lightloom. lightloom begins a sentence.

- Nobody reads this.

| width | light |
|---|---|
| 1920 x 1152 | 1.2 (1.1 to 1.3) |
""")
    found = faults_of(page)
    assert [fault.split(":")[0] for fault in found] == [
        f"{MOST_WORDS + 1} words",
        "“Nobody”",
        "more than one number in a cell",
    ]
