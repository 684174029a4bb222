"""The search for the voxels at which a network must be queried."""
