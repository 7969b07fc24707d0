"""Make the table of human gene identifiers that the package ships: ``python scripts/make_gene_table.py`` (needs pyarrow).

Out of the folder named by ``EXPRESSOR_DATA``: symbols, Ensembl and Entrez ids and aliases of
``text/gene_text_with_summary.parquet``;
pairs of Ensembl id and symbol of ``bulk/tcga_counts7.h5ad``; pairs of Entrez id and symbol of ``bulk/tcga_coadread.h5ad``.
Where sources disagree, the first wins. One line a gene; an identifier stands in one line only.
"""

import gzip
import io
import os
from pathlib import Path

import anndata as ad
import pandas as pd

TARGET = Path(__file__).resolve().parent.parent / "src/expressor/genes/tables/human.tsv.gz"
COLUMNS = ("symbol", "ensembl", "entrez", "aliases")


def main() -> None:
    """Read the sources, join them, write the table."""
    root = Path(os.environ["EXPRESSOR_DATA"])
    text = pd.read_parquet(root / "text/gene_text_with_summary.parquet").query("species == 'human'")
    text = text.assign(rank=(text["biotype"] != "protein-coding"), entrez=text["entrez_id"].astype(int))
    rows: list[dict[str, str]] = []
    seen: dict[str, dict[str, dict[str, str]]] = {"symbol": {}, "ensembl": {}, "entrez": {}}

    def add(symbol: str, ensembl: str = "", entrez: str = "", aliases: str = "") -> None:
        own = {"symbol": symbol, "ensembl": ensembl, "entrez": entrez}
        row = seen["symbol"].get(symbol)
        known = next((seen[key][own[key]] for key in ("ensembl", "entrez") if own[key] in seen[key]), None)
        if row is None and known is not None:
            # The gene has another symbol already: this one is an alias, often an older name.
            if symbol not in known["aliases"].split("|"):
                known["aliases"] = "|".join(filter(None, [known["aliases"], symbol]))
            return
        if row is None:
            row = dict.fromkeys(COLUMNS, "")
            rows.append(row)
        for key, value in own.items():
            # A symbol that has its identifier, or an identifier that has its symbol, keeps it.
            if value and not row[key] and value not in seen[key]:
                row[key] = value
                seen[key][value] = row
        row["aliases"] = row["aliases"] or aliases

    for one in text.sort_values(["rank", "entrez"]).itertuples():
        first = str(one.ensembl_id).split("|")[0] if isinstance(one.ensembl_id, str) else ""
        names = (
            [x for x in str(one.aliases).split("|") if x and x != one.symbol] if isinstance(one.aliases, str) else []
        )
        add(one.symbol, first, str(one.entrez), "|".join(names))
    counts = ad.read_h5ad(root / "bulk/tcga_counts7.h5ad", backed="r").var
    for ensembl, symbol in zip(counts.index, counts["symbol"].astype(str)):
        if symbol:
            add(symbol, ensembl=ensembl)
    rsem = ad.read_h5ad(root / "bulk/tcga_coadread.h5ad", backed="r").var
    for entrez, symbol in zip(rsem.index, rsem["symbol"].astype(str)):
        if symbol and entrez.isdigit():
            add(symbol, entrez=entrez)
    rows.sort(key=lambda row: row["symbol"])
    lines = ["\t".join(COLUMNS), *("\t".join(row[key] for key in COLUMNS) for row in rows)]
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as stream:
        stream.write(("\n".join(lines) + "\n").encode())
    TARGET.write_bytes(buffer.getvalue())
    print(f"{TARGET}: {len(rows)} genes, {len(buffer.getvalue()) // 1024} KiB")


if __name__ == "__main__":
    main()
