"""Ridge regression of every gene on features: a system as an outside package brings it, with nothing edited elsewhere."""

from .estimator import GeneRidge

__all__ = ["GeneRidge"]
