"""``python -m modalign``: the same as the command ``modalign``."""

from modalign.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
