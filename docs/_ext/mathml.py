"""Formulas as MathML, made by docutils: they show in any current browser with no script and no network.

A formula that docutils does not understand is a warning, and so ends the build.
"""

import re
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)

# Sizes of brackets and fractions, which MathML chooses by itself.
_SIZES = re.compile(r"\\(?:[bB]ig{1,2}[lrm]?)(?![a-zA-Z])")


def to_mathml(latex: str, *, block: bool) -> str:
    """Return the formula as a ``<math>`` element.

    Raises
    ------
    docutils.utils.math.MathError
        The formula holds a command that docutils does not know.
    """
    plain = _SIZES.sub("", latex).replace(r"\tfrac", r"\frac").replace(r"\dfrac", r"\frac")
    return tex2mathml(plain.strip(), as_block=block)


def _write(translator: Any, node: nodes.Element, *, block: bool) -> None:
    latex = node.astext()
    try:
        formula = to_mathml(latex, block=block)
    except MathError as error:
        logger.warning("a formula cannot be shown (%s): %s", error, latex, location=node)
        formula = f"<code>{translator.encode(latex)}</code>"
    if not block:
        translator.body.append(formula)
        raise nodes.SkipNode
    number = f'<span class="eqno">({node["number"]})</span>' if node.get("number") else ""
    translator.body.append(f'<div class="math">{formula}{number}</div>\n')
    raise nodes.SkipNode


def _inline(translator: Any, node: nodes.math) -> None:
    _write(translator, node, block=False)


def _block(translator: Any, node: nodes.math_block) -> None:
    _write(translator, node, block=True)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer under the name ``mathml``."""
    app.add_html_math_renderer("mathml", inline_renderers=(_inline, None), block_renderers=(_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
