"""The command line, the demo, telemetry, plots, benchmarks."""
