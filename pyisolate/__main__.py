"""`python -m pyisolate`: the same as the command `pyisolate`."""

from .cli.main import main

if __name__ == "__main__":
    main()
