"""Simulation programs that take models of this package; import what you need, by name."""
