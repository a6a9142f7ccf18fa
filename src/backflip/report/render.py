"""Put words, figures and samples together into one HTML file that needs nothing else and asks nobody for anything.

Safety: whatever a model wrote reaches the page as JSON inside a data block, with every character escaped that could
end the block, and the script puts it on the screen as text only; whatever else came from a run folder is escaped by
the template. The content security policy allows exactly the one style sheet and the one script of the page, by hash,
and no request of any kind. Leaves out what is said (page.py, compare.py).
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from backflip.checkpoint import write_atomic
from backflip.report.evidence import Evidence, Sample
from backflip.report.marks import Figure, rounded
from backflip.report.tables import Table
from backflip.report.wording import wording

_SCRIPTS = ("dom.js", "scale.js", "lines.js", "dots.js", "explorer.js", "samples.js", "main.js")
MAX_SAMPLE_BYTES = 3_000_000
"""Model text embedded at most; a page must stay light enough for a phone."""


@dataclass(frozen=True)
class Video:
    """A short film that is part of the page."""

    title: str
    data: str
    """A `data:` address that holds all of it."""


@dataclass(frozen=True)
class Section:
    """One part of a page, in reading order: words, tables, figures."""

    id: str
    title: str
    intro: str = ""
    figures: tuple[Figure, ...] = ()
    linked: bool = False
    """Pointing into one figure marks the same place in the others."""
    tables: tuple[Table, ...] = ()
    commands: tuple[str, ...] = ()
    videos: tuple[Video, ...] = ()
    special: str = ""
    """`explorer` or `samples`: a part that the script builds."""


@dataclass(frozen=True)
class Page:
    """Everything that a page holds."""

    title: str
    kicker: str
    headline: str
    lead: tuple[str, ...]
    badge: tuple[str, str]
    """Status and the level whose colour it has."""
    warnings: tuple[str, ...]
    findings: tuple[Any, ...]
    sections: tuple[Section, ...]
    data: Mapping[str, Any] = field(default_factory=dict[str, Any])


def embed(value: object) -> str:
    """Write JSON that is safe inside an HTML script element: no character of it can end the element or a line."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    # A lone surrogate (half of a broken character in a sample) has no UTF-8 form: write it as an escape.
    return "".join(f"\\u{ord(c):04x}" if 0xD800 <= ord(c) <= 0xDFFF else c for c in text)


def render(page: Page) -> str:
    """Return the whole HTML document."""
    folder = files("backflip.report") / "templates"
    style = (folder / "page.css").read_text(encoding="utf-8")
    script = "\n".join((folder / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    script = f'(() => {{\n"use strict";\n{script}\n}})();'
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src data:; media-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((folder / "page.html").read_text(encoding="utf-8"))
    named = [figure.id for section in page.sections for figure in section.figures]
    assert len(named) == len(set(named)), f"two figures of one page share an id: {sorted(named)}"
    drawn = {figure.id: figure.as_json() for section in page.sections for figure in section.figures}
    return template.render(
        page=page,
        policy=policy,
        style=Markup(style),
        script=Markup(script),
        data=Markup(embed({"figures": drawn, **page.data})),
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def explorer_data(runs: Sequence[tuple[str, Evidence]]) -> dict[str, Any]:
    """Return every logged metric of every run as columns by phase, with its words."""
    names: set[str] = set()
    listed: list[dict[str, Any]] = []
    for label, evidence in runs:
        phases: dict[str, Any] = {}
        for phase, rows in evidence.metrics.items():
            columns = list(dict.fromkeys(key for row in rows for key in row))
            names.update(columns)
            phases[phase] = {name: [row.get(name) for row in rows] for name in columns}
        listed.append({"label": label, "phases": phases})
    words = {name: vars(wording(name)) for name in sorted(names)}
    return rounded({"runs": listed, "words": words})


def sample_data(samples: Sequence[Sample], total: int, names: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    """Return samples as compact rows: prompt, answers, proxy and gold scores in the order of `policies`.

    `names` maps an answer's key to what it is called and its colour role.
    """
    rows: list[Any] = []
    room = MAX_SAMPLE_BYTES
    for sample in samples:
        room -= len(sample.prompt) + sum(len(answer) for answer in sample.answers.values())
        if room < 0:
            break
        scores = [[source.get(name) for name in names] for source in (sample.proxy, sample.gold)]
        rows.append([sample.prompt, [sample.answers.get(name) for name in names], *scores])
    policies = [{"name": name, "label": label, "role": role} for name, (label, role) in names.items()]
    return rounded({"policies": policies, "rows": rows, "total": total})


def write_page(page: Page, out: Path) -> Path:
    """Render and write a page, whole or not at all; half a broken character outside samples becomes a question mark."""
    write_atomic(out, render(page).encode("utf-8", errors="replace"))
    return out
