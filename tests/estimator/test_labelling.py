import pandas as pd

from expressor.estimator.labelling import most_likely


def test_the_most_probable_class_and_the_first_among_equals() -> None:
    chance = pd.DataFrame([[0.2, 0.8], [0.5, 0.5]], index=["a", "b"], columns=["BRCA", "LUAD"])
    found = most_likely(chance, "cancer_type")
    assert list(found.columns) == ["cancer_type"]
    assert list(found.index) == ["a", "b"]
    assert list(found["cancer_type"]) == ["LUAD", "BRCA"]
