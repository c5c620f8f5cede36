"""`python -m lasfast` is `lasfast`."""

from lasfast.cli import main

if __name__ == "__main__":
    main()
