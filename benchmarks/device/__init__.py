"""The benchmarks on one device, by its own clock: the same code for a GPU and, as a test, a CPU."""
