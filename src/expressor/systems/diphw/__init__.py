"""Random walks on the hypergraph of cells and genes, and what they tell of cells that belong together."""
