"""`python -m tutelage`: the entry point for launchers of several processes."""

from tutelage.cli.app import main

if __name__ == "__main__":
    main()
