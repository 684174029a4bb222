"""The search for the voxels that a network must be asked about."""
