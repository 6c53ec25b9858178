"""``python -m nowcast`` is the command ``nowcast``."""

from nowcast.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
