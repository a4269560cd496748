"""nekkar beside its peers and the raw cost of the cache: ``python -m tests.benchmarks``, or first with ``--quick``."""
