"""`python -m twincar_edge.benchmarks.experiments` runs an experiment."""

from twincar_edge.benchmarks.experiments import main

if __name__ == "__main__":
    main()
