import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from expressor.core.errors import DataError, FormatError
from expressor.report import payload, read_run, write_figures, write_report
from expressor.report.html import json_for_script, render
from expressor.report.methods import methods_text, references
from expressor.report.tables import flatten


class Page(HTMLParser):
    """Elements, scripts and addresses of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts: list[tuple[dict, str]] = []
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.tags: list[str] = []
        self.rows: list[str] = []
        self.ids: list[str] = []
        self.words = ""
        self.inside = None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append(tag)
        self.handlers += [name for name in values if name.startswith("on")]
        self.ids += [values["id"]] if "id" in values else []
        if tag != "a":
            self.addresses += [values[name] for name in ("src", "href", "srcset", "data", "action") if name in values]
        if "data-gene" in values:
            self.rows.append(values["data-gene"])
        self.inside = tag
        if tag == "script":
            self.scripts.append((values, ""))

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        elif self.inside != "style":
            self.words += data


@pytest.fixture(scope="module")
def page(make_run):
    return Page(render(read_run(make_run(grid=True))))


def data_of(page: Page) -> dict:
    (text,) = (text for attributes, text in page.scripts if attributes.get("type") == "application/json")
    return json.loads(text)


def test_nothing_is_asked_of_the_network(page):
    assert all(one.startswith(("data:", "#")) for one in page.addresses)
    assert page.handlers == []
    assert "@import" not in page.words


def test_policy_names_the_one_script_by_its_hash(make_run):
    text = render(read_run(make_run(side=4)))
    (script,) = (script for attributes, script in Page(text).scripts if "type" not in attributes)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text).group(1)
    assert "default-src &#39;none&#39;" in policy
    assert f"sha256-{digest}" in policy.replace("&#39;", "'").replace("&#43;", "+")
    assert "unsafe-eval" not in policy
    assert "script-src &#39;unsafe-inline" not in policy


def test_ids_are_unique(page):
    assert len(page.ids) == len(set(page.ids))


def test_the_embedded_values_are_those_of_the_run(make_run):
    run = read_run(make_run(missing=True))
    data = data_of(Page(render(run)))
    order = [one["name"] for one in data["genes"]]
    assert order == run.gene_table.index.tolist()
    packed = payload.Packed(
        data["packing"]["bits"], tuple(data["packing"]["layers"]), {one["name"]: one["packed"] for one in data["genes"]}
    )
    for gene in order[:3] + order[-3:]:
        found = payload.unpack(packed, gene, count=data["spots"])
        for layer in ("predicted", "measured"):
            truth = run.values(layer, genes=[gene])[:, 0]
            assert np.allclose(found[layer], truth, atol=2e-4, equal_nan=True)
        width = run.values("upper", genes=[gene])[:, 0] - run.values("lower", genes=[gene])[:, 0]
        width[np.isnan(run.predicted(genes=[gene])[:, 0])] = np.nan
        assert np.allclose(found["below"] + found["above"], width, atol=2e-4, equal_nan=True)


def test_spots_stand_section_by_section_even_where_the_run_mixes_them(make_run):
    run = read_run(make_run())
    shuffled = run.predictions[np.random.default_rng(0).permutation(run.predictions.n_obs)].copy()
    mixed = type(run)(folder=run.folder, predictions=shuffled)
    data = data_of(Page(render(mixed)))
    packed = payload.Packed(
        data["packing"]["bits"], tuple(data["packing"]["layers"]), {one["name"]: one["packed"] for one in data["genes"]}
    )
    values = payload.unpack(packed, "GENE0", count=data["spots"])["measured"]
    for section in data["sections"]:
        for offset, name in enumerate(section["ids"][:5]):
            assert values[section["first"] + offset] == pytest.approx(
                shuffled[name, "GENE0"].layers["measured"].item(), abs=2e-4
            )


def test_headline_shows_both_scales_controls_and_claims_apart(make_run):
    text = Page(render(read_run(make_run()))).words
    for words in ("Normalised counts", "Raw counts", "Model", "Controls", "gene mean", "40 undefined"):
        assert words in text
    measured, claimed = text.split("Claimed elsewhere, not measured here")
    assert "0.551" in claimed
    assert "0.551" not in measured


def test_names_from_users_stay_words(make_run, hostile):
    folder = make_run(names=[*hostile, "GENE1"], sections=hostile[1:2], side=5)
    page = Page(render(read_run(folder)))
    assert set(page.rows) == {*hostile, "GENE1"}
    assert page.handlers == []
    assert "img" not in page.tags
    assert len(page.scripts) == 2
    assert {one["name"] for one in data_of(page)["genes"]} == {*hostile, "GENE1"}


def test_methods_names_and_units_are_escaped_too(make_run):
    folder = make_run(side=4)
    evil = "<img src=x onerror=alert(1)>"
    evaluation = (folder / "evaluation.csv").read_text()
    (folder / "evaluation.csv").write_text(evaluation.replace("encoder + ridge", evil))
    (folder / "methods.txt").write_text(f'{evil}\n\nReferences\n1. {evil} doi:10.1/"><script>x</script>')
    (folder / "environment.json").write_text(json.dumps({evil: evil}))
    page = Page(render(read_run(folder)))
    assert "img" not in page.tags
    assert page.handlers == []
    assert len(page.scripts) == 2


@pytest.mark.parametrize(
    "absent",
    [
        {"measured": False},
        {"intervals": False},
        {"pictures": False},
        {"gene_table": False},
        {"beside": False},
        {"missing": True},
        {"sections": ("one",)},
        {"sections": tuple(f"S{i}" for i in range(12)), "side": 4},
        {"measured": False, "intervals": False, "pictures": False, "gene_table": False, "beside": False},
    ],
    ids=lambda absent: "+".join(absent),
)
def test_every_part_may_be_absent(make_run, absent):
    page = Page(render(read_run(make_run(**absent))))
    data = data_of(page)
    assert len(data["genes"]) == 40
    assert "nan" not in page.words.lower().split()
    assert ("measured" in data["kinds"]) == ("error" in data["kinds"]) == absent.get("measured", True)
    assert ("width" in data["kinds"]) == absent.get("intervals", True)


def test_a_grid_without_a_section_and_a_single_spot(make_run):
    import anndata

    folder = make_run(grid=True)
    dense = anndata.read_h5ad(folder / "grid.h5ad")
    dense[dense.obs["section"] == "C3"].copy().write_h5ad(folder / "grid.h5ad")
    tissue = anndata.read_h5ad(folder / "predictions.h5ad")
    data = data_of(Page(render(read_run(folder))))
    assert [one["grid"] is None for one in data["sections"]] == [True, False, True]
    tissue[:1].copy().write_h5ad(folder / "predictions.h5ad")
    assert data_of(Page(render(read_run(folder))))["spots"] == 1


def test_large_runs_stay_small_and_say_what_is_left_out(make_run, monkeypatch):
    from expressor.report import page as page_module

    monkeypatch.setattr(page_module, "VALUE_BUDGET", 20_000)
    text = render(read_run(make_run()))
    page = Page(text)
    packed = [one for one in data_of(page)["genes"] if one["packed"]]
    assert 1 <= len(packed) < 40
    assert f"carries the values of the first {len(packed)} genes" in page.words
    assert sum(len(one["packed"]["data"]) for one in packed) <= 20_000


def test_report_is_written_whole_beside_its_run(make_run):
    folder = make_run(side=4)
    path = write_report(folder, figures=False)
    assert path == folder / "report.html"
    assert path.stat().st_size < 8e6
    first = path.read_bytes()
    write_report(folder, figures=False)
    assert path.read_bytes() == first, "the same run gives the same file"


def test_a_folder_that_cannot_be_written(make_run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        write_report(make_run(side=4), tmp_path / "file" / "report.html", figures=False)


def test_figures_are_written_for_what_the_run_holds(make_run, tmp_path):
    bare = make_run(measured=False, intervals=False, pictures=False, gene_table=False, beside=False, side=4)
    assert {one.name for one in write_figures(bare)} == {"overview.png", "overview.svg"}
    path = write_report(make_run(side=5), tmp_path / "report.html")
    assert {one.stem for one in (path.parent / "figures").iterdir()} == {
        "calibration", "coverage", "error", "genes", "k", "learning", "methods", "overview", "paired_differences",
        "predicted_against_measured",
    }  # fmt: skip


def test_json_cannot_leave_its_script():
    text = json_for_script({"</script><!--": "\u2028&"})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"</script><!--": "\u2028&"}
    with pytest.raises(FormatError, match="cannot be written as JSON"):
        json_for_script([float("nan")])


def test_methods_and_references_are_read_from_what_the_model_said(make_run):
    run = read_run(make_run(side=4))
    assert methods_text(run) == [
        "Expression was predicted with AGL. A second line.",
        "Equations: 1 (paper), 6 (paper).",
    ]
    found = references(run)
    assert [one.text[:9] for one in found] == ["Auxiliary", "Andersson"]
    assert [one.address for one in found] == [
        "https://arxiv.org/abs/2511.18336",
        "https://doi.org/10.1038/s41467-021-26271-2",
    ]


def test_nested_records_become_rows():
    assert flatten({"a": {"b": [1, 2]}, "c": None}) == [("a.b", "1, 2"), ("c", "None")]
