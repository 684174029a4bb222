"""Intensities: normalisation, windows, noise, bias fields, the foreground."""
