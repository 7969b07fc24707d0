"""One page a system, the list of systems, and the fidelity page; all from cards and equation tags."""

import importlib.resources
import json
import os
from collections import Counter
from pathlib import Path

from _ext.markdown import bullets, table
from expressor.core import registry
from expressor.core.card import Card
from expressor.core.equations import Equation, covering_tests, equations

BADGES = {"paper": "bdg-success", "code": "bdg-info", "inferred": "bdg-warning"}
FIDELITIES = """
{bdg-success}`paper`
: Read in the paper.

{bdg-info}`code`
: Read in the authors' code, where the paper is silent or differs.

{bdg-warning}`inferred`
: Ours. Neither source says it, or the quantity is our addition; the number starts with a letter.
"""


def pages(docs: Path) -> dict[str, str]:
    """Return path -> text of every page about systems."""
    cards = list(registry.systems().values())
    texts = {f"systems/{card.name}.md": _system_page(card, docs) for card in cards}
    return texts | {"systems/index.md": _index(cards), "fidelity.md": _fidelity_page(cards)}


def _folder(card: Card) -> Path:
    return Path(str(importlib.resources.files(card.package)))


def _paper(card: Card) -> str:
    if card.arxiv:
        return f"[arXiv:{card.arxiv}](https://arxiv.org/abs/{card.arxiv})"
    return f"[doi:{card.doi}](https://doi.org/{card.doi})" if card.doi else ""


def _index(cards: list[Card]) -> str:
    rows = [
        (f"[{card.estimator}]({card.name}.md)", card.summary, ", ".join(card.roles), card.inputs, _paper(card))
        for card in cards
    ]
    names = "\n".join(card.name for card in cards)
    return (
        "# Systems\n\nA system is one published method, kept in one folder. All are used in the same way; what they can be "
        "asked for is their role (see {doc}`../guides/using`).\n\n"
        + table(("system", "what it does", "roles", "input", "paper"), rows)
        + f"\n```{{toctree}}\n:hidden:\n\n{names}\n```\n"
    )


def _system_page(card: Card, docs: Path) -> str:
    story = os.path.relpath(_folder(card) / "paper.md", docs / "systems")
    parts = [
        f"```{{include}} {story}\n```\n",
        "## The card\n\n" + _card_table(card),
        _section("Where it differs from the paper", bullets(card.deviations)),
        _section("Where not to use it", bullets(card.limits)),
        "## Equations\n\n" + _equations(card),
        "## The estimator\n\n" + _estimator(card),
        _section("References", "".join(f"{i}. {text}\n" for i, text in enumerate(card.references, 1))),
    ]
    return "\n".join(part for part in parts if part)


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n{text}" if text else ""


def _card_table(card: Card) -> str:
    rows = [
        ("paper", f"{card.title}. {card.authors}, {card.year}. {_paper(card)}"),
        ("class", f"`expressor.{card.estimator}`"),
        ("roles", ", ".join(card.roles)),
        ("input", card.inputs),
        ("extras", ", ".join(f"`{one}`" for one in card.extras) or "none"),
        ("genes missing in new data", {"unused": "not used", "refuse": "refused", "impute": "imputed"}.get(
            card.missing_genes, card.missing_genes)),
    ]  # fmt: skip
    if card.licence:
        rows.append(("licence of the authors' code", card.licence))
    for name, values in card.presets.items():
        shown = ", ".join(f"{key} = {json.dumps(value)}" for key, value in values.items())
        rows.append((f"preset `{name}`", f"`{shown}`" if shown else "the constructor's defaults"))
    return table(("", f"`{card.name}`"), rows)


def _equations(card: Card) -> str:
    covered = covering_tests(card.name, package=card.package)
    cards = [_equation(card, one, covered.get(one.number, ())) for one in _tagged(card)]
    note = (
        f"`expressor equations {card.name}` prints the same list. What the badge means is told on the "
        "[fidelity page](../fidelity.md).\n\n"
    )
    return note + "\n".join(cards)


def _tagged(card: Card) -> tuple[Equation, ...]:
    return equations(card.name, package=card.package)


def _equation(card: Card, one: Equation, tests: tuple[str, ...]) -> str:
    # A role needs the dotted name of the module; the tag knows file and qualified name.
    function = f"{{py:func}}`{one.function}() <{card.package}.equations.{one.function}>`"
    where = f"`{Path(one.file).name}:{one.line}`"
    named = ", ".join(f"`{test.partition('::')[2]}`" for test in tests)
    return f"""({_anchor(one)})=
:::::{{card}}
:class-card: equation

::::{{card-header}}
**{one.number}** {one.meaning} {{{BADGES[one.fidelity]}}}`{one.fidelity}`
::::

$$
{one.latex}
$$

::::{{card-footer}}
{function} in {where}. Source: {one.source}. Tests: {named or "none"}.
::::
:::::
"""


def _anchor(one: Equation) -> str:
    return f"equation-{one.system}-{one.number}".lower()


def _estimator(card: Card) -> str:
    return f"""```{{eval-rst}}
.. autoclass:: {card.package}.estimator.{card.estimator}
   :members:
   :inherited-members: BaseEstimator
```

The modules beside it are on the page [API: {card.name}](../api/systems-{card.name}.md).
"""


def _fidelity_page(cards: list[Card]) -> str:
    counts, rows = [], []
    for card in cards:
        tagged = _tagged(card)
        covered = covering_tests(card.name, package=card.package)
        count = Counter(one.fidelity for one in tagged)
        counts.append((f"[{card.estimator}](systems/{card.name}.md)", *(count[kind] for kind in BADGES), len(tagged)))
        rows += [
            (
                card.estimator, f"{{ref}}`{one.number} <{_anchor(one)}>`", one.meaning, f"`{one.function}`",
                f"{{{BADGES[one.fidelity]}}}`{one.fidelity}`", len(covered.get(one.number, ())),
            )
            for one in tagged
        ]  # fmt: skip
    return (
        "# Fidelity\n\nEvery equation of every system, how well its source is known, and how many tests cover it. The table "
        "is made from the tags in each system's `equations.py`; the conformance suite fails on a function without a tag and on a "
        f"tag without a test.\n{FIDELITIES}\n"
        + table(("system", *BADGES, "all"), counts)
        + "\n"
        + table(("system", "equation", "meaning", "function", "fidelity", "tests"), rows)
    )
