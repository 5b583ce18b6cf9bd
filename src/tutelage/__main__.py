"""`python -m tutelage`: what launchers of several processes start."""

from tutelage.cli.app import main

if __name__ == "__main__":
    main()
