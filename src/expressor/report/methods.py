"""The methods paragraph and the references of a run, as the fitted model described itself."""

import re
from dataclasses import dataclass

from expressor.report.run import Run

_HEADING = re.compile(r"^\s*#*\s*(references|equations)\s*:?\s*", re.IGNORECASE)
_NUMBERED = re.compile(r"^\s*(?:\[?\d+[.\])]|[-*\u2022])\s+")
_DOI = re.compile(r"\b(10\.\d{4,9}/[^\s;,)\]]+)")
_ARXIV = re.compile(r"arXiv[:\s]\s*(\d{4}\.\d{4,5}(?:v\d+)?)", re.IGNORECASE)


@dataclass(frozen=True)
class Reference:
    """One reference: its text, and an address where the text names a DOI or an arXiv number."""

    text: str
    address: str = ""


def methods_text(run: Run) -> list[str]:
    """Return the paragraphs of ``methods.txt`` before its references; empty where there is no such file."""
    return parts_of(run.methods)[0]


def references(run: Run) -> list[Reference]:
    """Return the references that ``methods.txt`` lists under the heading "References"."""
    return [reference(text) for text in parts_of(run.methods)[1]]


def reference(text: str) -> Reference:
    """Return a reference with its address, where ``text`` names a DOI or an arXiv number."""
    return Reference(text, _address(text))


def parts_of(text: str) -> tuple[list[str], list[str]]:
    """Return the paragraphs of what a model says of itself (``text``), and the references that it lists."""
    paragraphs: list[str] = []
    listed: list[str] = []
    inside = False
    for block in re.split(r"\n\s*\n", text.strip()):
        lines = [line.rstrip() for line in block.splitlines() if line.strip()]
        if not lines:
            continue
        heading = _HEADING.match(lines[0])
        if heading and heading.group(1).lower() == "references":
            inside = True
            lines = [lines[0][heading.end() :], *lines[1:]]
        if inside:
            listed += [_NUMBERED.sub("", line).strip() for line in lines if line.strip()]
        else:
            paragraphs.append(" ".join(line.strip() for line in lines))
    return paragraphs, listed


def _address(text: str) -> str:
    doi, arxiv = _DOI.search(text), _ARXIV.search(text)
    if doi:
        return f"https://doi.org/{doi.group(1).rstrip('.')}"
    return f"https://arxiv.org/abs/{arxiv.group(1)}" if arxiv else ""
