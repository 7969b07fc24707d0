"""Make the shipped tables of orthologs and of mouse genes: ``python scripts/make_ortholog_table.py`` (needs pyarrow).

Out of the folder named by ``EXPRESSOR_DATA``: pairs of ``crossspecies/orthologs_human_mouse_ensembl.parquet``; Entrez ids and
aliases of mouse genes of ``text/gene_text_with_summary.parquet``. A confidence of Ensembl of 0 is written as 0.5, because a pair
without confidence is still a pair.
"""

import gzip
import io
import os
from pathlib import Path

import pandas as pd

TABLES = Path(__file__).resolve().parent.parent / "src/expressor/genes/tables"


def main() -> None:
    """Read the sources, write both tables."""
    root = Path(os.environ["EXPRESSOR_DATA"])
    pairs = pd.read_parquet(root / "crossspecies/orthologs_human_mouse_ensembl.parquet")
    pairs = pairs.assign(confidence=pairs["confidence"].map({0: "0.5", 1: "1"})).sort_values(
        ["human", "mouse", "human_id", "mouse_id"]
    )
    columns = ["human", "mouse", "human_id", "mouse_id", "confidence"]
    write(TABLES / "human_mouse.tsv.gz", columns, pairs[columns].to_numpy().tolist())
    mouse = pd.read_parquet(root / "text/gene_text_with_summary.parquet").query("species == 'mouse'")
    mouse = mouse.assign(entrez=mouse["entrez_id"].astype(int)).sort_values("entrez").drop_duplicates("symbol")
    # Ensembl ids are those of the pairs, one a symbol.
    ids = pairs.drop_duplicates("mouse").set_index("mouse")["mouse_id"]
    rows = [
        [one.symbol, ids.get(one.symbol, ""), str(one.entrez), one.aliases if isinstance(one.aliases, str) else ""]
        for one in mouse.itertuples()
    ]
    seen = {row[0] for row in rows}
    rows += [[symbol, one, "", ""] for symbol, one in ids.items() if symbol not in seen]
    write(TABLES / "mouse.tsv.gz", ["symbol", "ensembl", "entrez", "aliases"], sorted(rows))


def write(path: Path, columns: list[str], rows: list[list[str]]) -> None:
    """Write a gzipped tab-separated table whose bytes depend on its content alone."""
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as stream:
        stream.write("".join("\t".join(map(str, row)) + "\n" for row in [columns, *rows]).encode())
    path.write_bytes(buffer.getvalue())
    print(f"{path}: {len(rows)} rows, {len(buffer.getvalue()) // 1024} KiB")


if __name__ == "__main__":
    main()
