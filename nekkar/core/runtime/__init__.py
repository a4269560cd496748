"""How generators run, and by which clock: drivers, event loops, clocks."""
