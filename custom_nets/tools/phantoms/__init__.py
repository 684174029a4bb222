"""Synthetic cases: brains with tumours, abdomens with livers."""
