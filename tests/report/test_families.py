"""The picture of gene families shows the edges that it is given."""

import pandas as pd
from matplotlib.colors import to_hex

from expressor.report import figures
from expressor.report.colours import INKS

EDGES = pd.DataFrame(
    {"source": ["INS", "INS", "GCG", "SST"], "target": ["Ins1", "Ins2", "Gcg", "Sst"], "confidence": [0.5, 1.0, 1.0, 1.0],
     "importance": [2.0, 1.0, 0.5, 3.0], "change": [0.2, -0.1, 0.0, 0.1]}
)  # fmt: skip


def lines_of(ax):
    return [one for one in ax.lines if len(one.get_xdata()) == 2]


def test_widths_colours_and_dots():
    ax = figures.gene_families(EDGES, ["INS", "GCG"], species=("human", "mouse"))
    texts = {one.get_text() for one in ax.texts}
    assert texts == {"INS", "GCG", "Ins1", "Ins2", "Gcg", "human", "mouse"}
    ins2, ins1, gcg = lines_of(ax)  # by confidence
    assert [one.get_linewidth() for one in (ins1, ins2, gcg)] == [4.0, 2.2, 4.0]
    assert to_hex(ins1.get_color()) == INKS["accent"]
    assert to_hex(ins2.get_color()) == INKS["eosin"]
    filled = [one.get_markerfacecolor() == INKS["ink"] for one in ax.lines if one.get_marker() == "o"]
    assert filled == [True, False, False]  # an only ortholog is not the best of several


def test_unstable_edges_are_dashed():
    ax = figures.gene_families(EDGES.assign(same_sign=[1.0, 0.6, 1.0, 1.0]), ["INS"])
    assert [one.is_dashed() for one in lines_of(ax)] == [True, False]


def test_nothing_to_show():
    assert "No family" in figures.gene_families(EDGES, []).texts[0].get_text()
