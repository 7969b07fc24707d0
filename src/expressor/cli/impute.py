"""``expressor impute DIR DATA -o OUT``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from expressor.cli.terminal import console, parse
from expressor.core.errors import DataError


def impute(
    folder: Annotated[Path, tyro.conf.Positional],
    data: Annotated[str, tyro.conf.Positional],
    /,
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    coverage: float = 0.9,
    intervals: bool = False,
    genes_in: str | None = None,
    ids: Path | None = None,
    report: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Restore what was not measured of bulk profiles: gaps (NaN, empty cells) and genes without a column.

    Values that were measured are written as they came. Genes may be named by symbols, Ensembl or Entrez ids; how each was found
    is reported.

    Parameters
    ----------
    folder
        Folder of a saved model that restores.
    data
        Path to a CSV, TSV, h5ad or zarr, or the name of a data set.
    out
        The file to write, by its ending: h5ad (with intervals and what was measured as layers), csv or tsv (also .gz).
    coverage
        Of the intervals.
    intervals
        Also write the bounds of a csv or tsv, beside it, as OUT_lower and OUT_upper.
    genes_in
        For tables whose names do not tell: "columns" or "rows".
    ids
        Table of gene identifiers (tab-separated: symbol, ensembl, entrez, aliases); human genes by default.
    report
        Folder for a report of how well the model restores these samples.
    overwrite
        Replace existing files.
    """
    from expressor.data.cohorts import match_to
    from expressor.data.units import unit_of
    from expressor.estimator import Imputes, load
    from expressor.genes.matching import GeneTable
    from expressor.report.cohort import restore, write_cohort_run

    targets = _targets(out, intervals)
    for one in targets.values():
        if one.exists() and not overwrite:
            raise DataError(f"{one} exists", fix="Give another -o, or --overwrite; nothing was changed.")
    model = load(folder)
    if not isinstance(model, Imputes):
        raise DataError(f"{type(model).__name__} does not restore expression", expected="a model with the role Imputes")
    table = None if ids is None else GeneTable.read(ids)
    adata = _read(data, genes_in)
    unit = unit_of(adata)
    matched, found = match_to(adata, model.genes_in_, table=table)
    matched.uns["unit"] = unit
    console.print(found.report(), markup=False, soft_wrap=True)
    restored = restore(model, matched, coverage=coverage if out.suffix == ".h5ad" or intervals else None)
    _write(restored, targets)
    gaps = int((restored.layers["measured"] != restored.layers["measured"]).sum())
    console.print(
        f"restored {gaps:,} of {restored.X.size:,} values, in {unit}: {', '.join(str(one) for one in targets.values())}",
        markup=False, soft_wrap=True,
    )  # fmt: skip
    if report is not None:
        console.print(
            f"wrote {write_cohort_run(model, adata, report, coverage=coverage, ids=table)}/report.html", markup=False
        )


def _targets(out: Path, intervals: bool) -> dict[str, Path]:
    """The files to write, by what they hold."""
    from expressor.data.tabular import is_table

    if out.suffix == ".h5ad":
        return {"X": out}
    if not is_table(out):
        raise DataError(
            f"unknown ending of {out}", expected=".h5ad, .csv or .tsv (also .csv.gz, .tsv.gz)", got=out.suffix
        )
    found = {"X": out}
    if intervals:
        stem, ending = out.name.split(".", 1)
        found |= {name: out.with_name(f"{stem}_{name}.{ending}") for name in ("lower", "upper")}
    return found


def _read(data: str, genes_in: str | None) -> Any:
    from expressor.cli.source import read_source
    from expressor.data import fields
    from expressor.data.tabular import is_table, read_table

    if genes_in is not None and not is_table(Path(data)):
        raise DataError("--genes-in is for text tables", got=data)
    return fields.read(read_table(data, genes_in=genes_in)) if genes_in is not None else read_source(data)


def _write(restored: Any, targets: dict[str, Path]) -> None:
    from expressor.data.writing import write_h5ad, write_table

    for name, path in targets.items():
        if path.suffix == ".h5ad":
            write_h5ad(restored, path)
        elif name == "X" or name in restored.layers:
            write_table(restored.to_df(None if name == "X" else name), path)
        else:
            raise DataError("this model gives no intervals", fix="Leave --intervals out.")


def main(words: Sequence[str]) -> None:
    """Run the verb."""
    parse(impute, words, prog="expressor impute")
