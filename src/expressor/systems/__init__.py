"""The systems: one folder a paper. None imports another; what two of them need lives in a room below."""
