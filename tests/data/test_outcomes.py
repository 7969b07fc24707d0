"""Outcomes and labels are read with every check, and the message says what to do."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from expressor.core.errors import DataError
from expressor.data import has_outcome, read_labels, read_outcomes
from expressor.datasets import example


def samples(**columns):
    n = len(next(iter(columns.values())))
    return AnnData(np.zeros((n, 2), dtype=np.float32), obs=pd.DataFrame(columns, index=[f"s{i}" for i in range(n)]))


def test_example_is_read():
    adata = example("bulk")
    found = read_outcomes(adata, strata="cohort")
    assert found.time.dtype == np.float64
    assert found.event.dtype == bool
    np.testing.assert_array_equal(found.time, adata.obs["time"])
    np.testing.assert_array_equal(found.event, adata.obs["event"])
    assert list(found.strata) == list(adata.obs["cohort"])
    part = found.take(np.array([3, 1]))
    assert len(part) == 2
    assert part.time[0] == found.time[3]


@pytest.mark.parametrize(
    "coding",
    [
        [True, False, True, False],
        [1, 0, 1, 0],
        [1.0, 0.0, 1.0, 0.0],
        ["Dead", "alive", "dead", "Alive"],
        ["1:DECEASED", "0:LIVING", "1:DECEASED", "0:LIVING"],
        [2, 1, 2, 1],
    ],
)
def test_codings_of_the_event(coding):
    adata = samples(time=[5.0, 6, 7, 8], event=coding)
    assert read_outcomes(adata).event.tolist() == [True, False, True, False]
    adata.obs["event"] = adata.obs["event"].astype("category")
    assert read_outcomes(adata).event.tolist() == [True, False, True, False]


def test_one_and_two_are_said(caplog):
    read_outcomes(samples(time=[5.0, 6], event=[1, 2]))
    assert "coded 1 and 2; 2 is taken for the event" in caplog.text


@pytest.mark.parametrize(
    ("time", "event", "message"),
    [
        ([5, np.nan], [1, 0], r"obs\['time'\] has 1 missing times, such as that of 's1'; .*has_outcome"),
        ([5, -1], [1, 0], "1 negative times, such as that of 's1'; expected days, more than 0"),
        ([0, 0], [1, 0], "2 times of 0, which tell nothing"),
        ([5, np.inf], [1, 0], "1 infinite times"),
        (["5", "long"], [1, 0], "times that are no numbers"),
        ([5, 6], [1, np.nan], "misses the event of 1 samples, such as 's1'"),
        ([5, 6], [0, 0], "there is no event among 2 samples"),
        ([5, 6], [0, 3], "coding of obs\\['event'\\] is not known; .*got 0, 3"),
        ([5, 6], ["yes", "perhaps"], "got perhaps, yes"),
    ],
)
def test_bad_outcomes_are_refused(time, event, message):
    with pytest.raises(DataError, match=message):
        read_outcomes(samples(time=time, event=event))


def test_absent_columns_are_named_with_what_is_near():
    adata = samples(times=[5.0], event=[1])
    with pytest.raises(DataError, match="no column 'time' for the time; nearest: 'times'. Name the column with time="):
        read_outcomes(adata)
    with pytest.raises(DataError, match="no column 'cohort' for the strata"):
        read_outcomes(samples(time=[5.0], event=[1]), strata="cohort")
    with pytest.raises(DataError, match="1 of 2 samples have no stratum"):
        read_outcomes(samples(time=[5.0, 6], event=[1, 1], cohort=["a", None]), strata="cohort")


def test_no_event_may_be_allowed():
    assert not read_outcomes(samples(time=[5.0], event=[0]), require_event=False).event.any()


def test_who_has_an_outcome():
    adata = samples(time=[5.0, 0, np.nan, -1, 7], event=[1, 1, 1, 1, np.nan])
    assert has_outcome(adata).tolist() == [True, False, False, False, False]


def test_labels():
    adata = example("bulk")
    assert read_labels(adata).tolist() == adata.obs["cancer_type"].astype(str).tolist()
    with pytest.raises(DataError, match="1 of 2 samples have no label"):
        read_labels(samples(cancer_type=["a", None]))
    with pytest.raises(DataError, match="all samples have one label .*got 'a'"):
        read_labels(samples(cancer_type=["a", "a"]))
    with pytest.raises(DataError, match="label 'b' .* is too rare; expected at least 2 samples a label, got 1"):
        read_labels(samples(cancer_type=["a", "a", "b"]), at_least=2)
    with pytest.raises(DataError, match="no column 'type' for the label"):
        read_labels(adata, "type")
