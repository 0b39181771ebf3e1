"""``python -m maskc``: the command line."""

from maskc.cli import main

if __name__ == "__main__":
    main()
