"""Diagrams of the pages, drawn as the site is built: the reader's browser fetches and runs nothing for them.

A fence ``mermaid`` becomes an SVG within the page. What can't be drawn ends the build.
"""

from __future__ import annotations

from typing import Any
from zlib import crc32

import mermaidx
from pymdownx.superfences import SuperFencesException


def on_config(config: Any) -> Any:
    """Have the fence of each diagram drawn by ``drawn``."""
    fence = {"name": "mermaid", "class": "diagram", "format": drawn}
    config.mdx_configs["pymdownx.superfences"] = {"custom_fences": [fence]}
    return config


def drawn(source: str, *_: Any, **__: Any) -> str:
    """Return a diagram as an SVG, with ids of its own: a page may have several."""
    try:
        svg = mermaidx.render(source, theme="neutral").svg()
    except RuntimeError as cause:
        raise SuperFencesException(f"a diagram can't be drawn: {cause}") from cause
    return f'<div class="diagram">{svg.replace("my-svg", f"diagram-{crc32(source.encode()):x}")}</div>'
