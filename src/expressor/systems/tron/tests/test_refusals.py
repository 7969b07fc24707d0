"""Bad input is refused before anything is learnt, with the counts."""

import dataclasses

import anndata as ad
import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

import expressor as ex
from expressor.core.errors import DataError, GeneError
from expressor.datasets.species import simulate_species
from expressor.estimator.expression_models import expression_model
from expressor.genes import human_mouse
from expressor.systems.tron import TRON

PAIR = simulate_species()
OPTIONS = {"source": "simulated", "orthologs": "simulated", "species": ("alpha", "beta")}


def named(names: list[str]) -> ad.AnnData:
    data = ad.AnnData(np.ones((4, len(names)), dtype=np.float32))
    data.var_names, data.obs_names = names, list("abcd")
    data.obs["cell_type"] = ["T1", "T2", "T1", "T2"]
    return data


def net(genes: list[str]) -> object:
    return expression_model(nn.Linear(len(genes), 2), genes=genes, outputs=["T1", "T2"])


HUMAN, MOUSE = ["INS", "GCG", "SST", "PPY", "TP53"], ["Ins2", "Gcg", "Sst", "Ppy", "Trp53"]


def test_swapped_direction() -> None:
    with pytest.raises(
        DataError, match="the direction is swapped: .*expected human genes first, got .* of 5 known as human"
    ) as caught:
        TRON(source=net(MOUSE)).fit(named(HUMAN))
    assert "5 as mouse" in " ".join(str(caught.value).split())


def test_wrong_species() -> None:
    with pytest.raises(DataError, match="wrong species: the genes given as mouse are human"):
        TRON(source=net(HUMAN)).fit(named(HUMAN))
    with pytest.raises(
        DataError, match="the genes given as human are unknown to the table.*got 0 of 2 known as human and 0 as mouse"
    ):
        TRON(source=net(["FAKE1", "FAKE2"])).fit(named(MOUSE))
    with pytest.raises(DataError, match="does not join human and rat"):
        TRON(source=net(HUMAN), species=("human", "rat")).fit(named(MOUSE))


def test_no_ortholog_in_common() -> None:
    with pytest.raises(DataError, match="no ortholog of human and mouse is in both") as caught:
        TRON(source=net(HUMAN[:2])).fit(named(MOUSE[2:]))
    assert "pairs among 2 and 3 genes" in str(caught.value)


def test_duplicated_genes() -> None:
    with pytest.raises(GeneError, match="stand more than once, such as 'INS'"):
        net(["INS", "INS", "GCG"])
    doubled = named(MOUSE)
    doubled.var_names = ["Gcg", *MOUSE[1:]]
    with pytest.raises((DataError, GeneError), match="Gcg"):
        TRON(source=net(HUMAN)).fit(doubled)
    versions = named(["ENSMUSG00000000215.1", "ENSMUSG00000000215.2", "ENSMUSG00000000394.5"])
    with pytest.raises(GeneError, match="are one gene in two versions"):
        TRON(source=net(HUMAN)).fit(versions)


def test_a_source_whose_genes_are_unknown() -> None:
    fitted = LogisticRegression().fit(np.random.default_rng(0).normal(size=(9, 3)), [0, 1, 0] * 3)
    with pytest.raises(
        GeneError,
        match="genes of the source are unknown: the LogisticRegression .*expected the names of its 3 features",
    ):
        TRON(**OPTIONS | {"source": fitted}).fit(PAIR.target)
    with pytest.raises(GeneError, match="a network does not name its inputs .*of 8 weights"):
        TRON(**OPTIONS | {"source": nn.Linear(3, 2)}).fit(PAIR.target)
    with pytest.raises(GeneError, match="genes= does not fit the LogisticRegression; expected 3 names, got 2"):
        expression_model(fitted, genes=["A", "B"])
    with pytest.raises(DataError, match="Linear does not take 4 genes"):
        expression_model(nn.Linear(3, 2), genes=list("abcd"), outputs=["x", "y"])
    with pytest.raises(DataError, match="another number of outputs .*expected 3: x, y, z, got 2"):
        expression_model(nn.Linear(3, 2), genes=list("abc"), outputs=["x", "y", "z"])


def test_sources_that_are_none() -> None:
    with pytest.raises(DataError, match="needs a source"):
        TRON(**OPTIONS | {"source": None}).fit(PAIR.target)
    with pytest.raises(DataError, match="there is no saved model 'nowhere'"):
        TRON(**OPTIONS | {"source": "nowhere"}).fit(PAIR.target)
    with pytest.raises(ex.NotFittedError):
        TRON(**OPTIONS | {"source": ex.BOLIMES()}).fit(PAIR.target)
    with pytest.raises(DataError, match="does not predict from expression"):
        TRON(**OPTIONS | {"source": ex.SoftImpute().fit(ex.datasets.example("bulk"))}).fit(PAIR.target)
    with pytest.raises(DataError, match="a set is no model on expression"):
        TRON(**OPTIONS | {"source": set()}).fit(PAIR.target)


def test_labels_that_the_source_does_not_know() -> None:
    strange = PAIR.target.copy()
    strange.obs["cell_type"] = strange.obs["cell_type"].astype(str).replace("T1", "T-one")
    with pytest.raises(DataError, match="15 of 60 labelled observations are of 1 classes .*such as 'T-one'"):
        TRON(**OPTIONS).fit(strange)
    with pytest.raises(DataError, match="obs has no column 'kind'"):
        TRON(**OPTIONS, label="kind").fit(strange)
    strange.obs["cell_type"] = np.nan
    with pytest.raises(DataError, match="none of 60 observations has a label"):
        TRON(**OPTIONS).fit(strange)
    assert TRON(**OPTIONS, mode="zero-shot").fit(strange).n_labelled_ == 0


def test_matching_needs_the_sources_means() -> None:
    with pytest.raises(DataError, match=r"match='mean' needs the mean of each gene where the source was fitted"):
        TRON(source=net(HUMAN), match="mean").fit(named(MOUSE))


def test_tables_and_parameters() -> None:
    with pytest.raises(DataError, match="no table of orthologs 'mousse'"):
        TRON(source=net(HUMAN), orthologs="mousse").fit(named(MOUSE))
    with pytest.raises(DataError, match="mode"):
        TRON(source=net(HUMAN)).set_params(mode="full").fit(named(MOUSE))
    swapped = dataclasses.replace(human_mouse().flip())
    assert (
        TRON(source=net(HUMAN), orthologs=swapped, mode="zero-shot").fit(named(MOUSE)).edges_["source"].tolist()[0]
        == "INS"
    )


class Odd(nn.Module):
    """More than a chain of plain layers."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x).square()


def test_what_cannot_be_saved_without_pickle_says_so(tmp_path) -> None:
    model = TRON(source=expression_model(Odd(), genes=HUMAN, outputs=["T1", "T2"]), mode="zero-shot").fit(named(MOUSE))
    assert model.predict(named(MOUSE)).shape == (4, 1)
    with pytest.raises(DataError, match="the source, a Odd, cannot be saved without running code"):
        model.save(tmp_path / "m")
    assert not (tmp_path / "m").exists()
