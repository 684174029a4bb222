"""The Padé activation, and its kernels."""
