"""`python -m twincar_edge` is the same command as `twincar-edge`."""

from twincar_edge.cli import main

if __name__ == "__main__":
    main()
