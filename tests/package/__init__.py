"""The package as a whole: layers, public names, docs."""
