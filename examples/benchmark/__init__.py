"""The parts of examples/bench.py: suites, runs that resume, tables, figures."""
