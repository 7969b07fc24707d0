"""Formulas as MathML, made by docutils: they show in any current browser with no script and no network.

A formula that docutils does not understand is a warning, and so ends the build.
"""

import html
import re
import xml.etree.ElementTree as ET
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)

# Sizes of brackets and fractions, which MathML chooses by itself.
_SIZES = re.compile(r"\\(?:[bB]ig{1,2}[lrm]?)(?![a-zA-Z])")
# \frac12 is one half; docutils reads 12 as one number.
_SHORT = re.compile(r"\\[td]?frac\s*(\d)\s*(\d)")
# A comma between digits is taken for a decimal comma; here it separates members of a set.
_LIST = re.compile(r"(\d),\s*(\d)")
# Names that HTML knows and XML does not.
_ENTITY = re.compile(r"&(?!(?:lt|gt|amp|quot);)\w+;")
_ACCENTS = tuple("ˆˉ¯˜˙¨→˘ˇ")
_NAMESPACE = "http://www.w3.org/1998/Math/MathML"


def to_mathml(latex: str, *, block: bool) -> str:
    """Return the formula as a ``<math>`` element.

    Raises
    ------
    docutils.utils.math.MathError
        The formula holds a command that docutils does not know.
    """
    plain = _SHORT.sub(r"\\frac{\1}{\2}", _SIZES.sub("", latex))
    plain = _LIST.sub(r"\1,\\,\2", plain.replace(r"\tfrac", r"\frac").replace(r"\dfrac", r"\frac"))
    return _mended(_ENTITY.sub(lambda match: html.unescape(match[0]), tex2mathml(plain.strip(), as_block=block)))


def _mended(formula: str) -> str:
    """Return the formula with what docutils does otherwise put right.

    Braces and norms stay at the height of a line where the LaTeX did not ask for them to stretch; the index of an accented symbol
    stands beside it, not below; a line over several symbols is as long as they are.
    """
    root = ET.fromstring(formula)
    for parent in list(root.iter()):
        children = list(parent)
        for place, child in enumerate(children):
            stretches = parent.tag.endswith("mrow") and place in (0, len(children) - 1)
            if child.tag.endswith("}mo") and child.text in ("{", "}", "‖") and not stretches:
                child.set("stretchy", "false")
        if parent.tag.endswith("munderover") and children[2].text in _ACCENTS:
            base, index, accent = children
            parent[:] = []
            parent.tag = f"{{{_NAMESPACE}}}msub"
            over = ET.SubElement(parent, f"{{{_NAMESPACE}}}mover", {"accent": "true"})
            over.extend((base, accent))
            parent.append(index)
        if parent.tag.endswith("}mover") and children[1].text == "_":
            # A line over several symbols: fonts without mathematics cannot stretch it, a border can.
            parent.tag = f"{{{_NAMESPACE}}}mrow"
            parent.attrib = {"class": "overline"}
            parent.remove(children[1])
    ET.register_namespace("", _NAMESPACE)
    return ET.tostring(root, encoding="unicode")


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
