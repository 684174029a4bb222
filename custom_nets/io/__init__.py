"""Files: NIfTI, DICOM, meshes, weights; written whole or not at all."""
