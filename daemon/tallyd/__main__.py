"""`tallyd`, and `python -m tallyd`."""

from tallyd.cli import main

if __name__ == "__main__":
    main()
