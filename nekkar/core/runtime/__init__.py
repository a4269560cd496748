"""How generators run, and how time is told: drivers, event loops, clocks."""
