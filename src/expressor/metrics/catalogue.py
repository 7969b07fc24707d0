"""All metrics of the package by name: of spots and sections, restoration, labels, clusters, integration and survival."""

from expressor.core.errors import DataError, nearest_names
from expressor.metrics import classification, clustering, integration, maps, restoration, survival
from expressor.metrics.records import METRICS, Metric

ALL: dict[str, Metric] = (
    METRICS
    | maps.RECORDS
    | restoration.RECORDS
    | classification.RECORDS
    | clustering.RECORDS
    | integration.RECORDS
    | survival.RECORDS
)


def record(name: str) -> Metric:
    """Return the record of the metric ``name``; DataError with the nearest names if there is none."""
    if name not in ALL:
        raise DataError(f"no metric is called {name!r}", nearest=nearest_names(name, ALL))
    return ALL[name]
