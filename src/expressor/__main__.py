"""``python -m expressor`` is the command ``expressor``."""

from expressor.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
