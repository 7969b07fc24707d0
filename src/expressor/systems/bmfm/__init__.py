"""BMFM-RNA: single cells as sets of genes and values; parts of its network and its objectives, for use from Python."""
