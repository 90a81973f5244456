"""`python -m landscape` and the command `landscape`."""

from __future__ import annotations

from landscape.cli.app import main

if __name__ == "__main__":
    main()
