"""`python -m histocli` is `histo`."""

from histocli.cli import main

if __name__ == "__main__":
    main()
