"""Make pages from templates. Whatever people or models wrote is escaped by the templates. Leaves out what is on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from backflip.store.people import Session

_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def show(
    request: Request, template: str, session: Session | None = None, *, status: int = 200, **values: Any
) -> HTMLResponse:
    """Return a page; `session` is whose menu it bears."""
    made = _ENVIRONMENT.get_template(template)
    return HTMLResponse(made.render(session=session, path=request.url.path, **values), status)
