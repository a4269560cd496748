"""What users hold: limits, their quota, errors, events, pickling."""
