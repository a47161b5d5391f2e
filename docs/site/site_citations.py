"""The page of citations, from CITATION.cff."""

from typing import Any

import yaml
from site_repository import read


def page() -> str:
    """Return how to cite the software and the papers of its algorithms, as Markdown with BibTeX."""
    software = yaml.safe_load(read("CITATION.cff"))
    parts = [
        "# Citations",
        software["message"],
        "This page is made of [CITATION.cff](../CITATION.cff), which reference managers read.",
        "## The software",
        _entry("software", "sparsecore", software),
        "## Papers",
    ]
    for reference in software["references"]:
        parts.append(f"### {reference['title']}")
        parts.append(_in_words(reference))
        kind = "inproceedings" if reference["type"] == "conference-paper" else "article"
        parts.append(_entry(kind, _key(reference), reference))
    return "\n\n".join(parts) + "\n"


def _authors(reference: dict[str, Any]) -> list[str]:
    return [one.get("name") or f"{one['given-names']} {one['family-names']}" for one in reference["authors"]]


def _key(reference: dict[str, Any]) -> str:
    first = reference["authors"][0]
    family = first.get("family-names", first.get("name", "")).lower().replace(" ", "")
    word = next(word for word in reference["title"].lower().split() if len(word) > 3)
    return f"{family}{reference.get('year', '')}{word}"


def _in_words(reference: dict[str, Any]) -> str:
    names = _authors(reference)
    people = ", ".join(names) if len(names) < 4 else f"{names[0]} and others"
    venue = reference.get("journal") or reference.get("conference", {}).get("name") or ""
    notes = [one["description"] for one in reference.get("identifiers", []) if "description" in one]
    said = f"{people} ({reference['year']})" + (f", {venue}" if venue else "")
    link = f" <{reference['url']}>" if "url" in reference else ""
    return f"{said}.{' ' + '. '.join(notes) + '.' if notes else ''}{link}"


def _entry(kind: str, key: str, reference: dict[str, Any]) -> str:
    names = [f"{{{one}}}" if one.startswith("The ") else one for one in _authors(reference)]
    fields = {
        "title": reference["title"],
        "author": " and ".join(names),
        "year": reference.get("year"),
        "version": reference.get("version"),
        "booktitle" if kind == "inproceedings" else "journal": reference.get("journal")
        or reference.get("conference", {}).get("name"),
        "url": reference.get("url"),
        "license": reference.get("license"),
    }
    lines = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items() if value)
    return f"```bibtex\n@{kind}{{{key},\n{lines}\n}}\n```"
