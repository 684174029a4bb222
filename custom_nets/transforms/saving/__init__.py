"""Result files of a case: maps, meshes, volumes, pictures."""
