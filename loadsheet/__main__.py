"""`python -m loadsheet`, the same as the `loadsheet` command."""

from loadsheet.cli.main import main

if __name__ == "__main__":
    main()
