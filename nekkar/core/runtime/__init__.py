"""How generators are run, and what time it is: drivers, event loops, clocks."""
