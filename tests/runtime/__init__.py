"""Drivers, event loops, clocks."""
