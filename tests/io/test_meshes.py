"""Writing the files of a case, and meshes in three formats."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from custom_nets.errors import InputError
from custom_nets.io.files import atomic_file
from custom_nets.io.meshes import MATERIALS, Material, write_materials, write_mesh
from custom_nets.transforms.saving.case_files import case_id

VERTICES = np.array([[0, 0, 0], [10, 0, 0], [0, 20, 0], [0, 0, -30.25]])
TRIANGLES = np.array([[0, 1, 2], [0, 3, 1], [0, 2, 3], [1, 3, 2]])


def read_obj(path):
    words = [line.split() for line in path.read_text().splitlines() if line[0] in "vf"]
    return [[float(x) for x in w[1:]] for w in words if w[0] == "v"], [
        [int(x) - 1 for x in w[1:]] for w in words if w[0] == "f"
    ]


def read_ply(path):
    head, body = path.read_bytes().split(b"end_header\n", 1)
    counts = [int(line.split()[-1]) for line in head.decode().splitlines() if line.startswith("element")]
    vertices = np.frombuffer(body, "<f4", 3 * counts[0]).reshape(-1, 3)
    faces = np.frombuffer(body, [("n", "u1"), ("corners", "<i4", 3)], counts[1], offset=vertices.nbytes)
    assert vertices.nbytes + faces.nbytes == len(body)
    return vertices, faces["corners"]


def read_stl(path):
    data = path.read_bytes()
    facet = [("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")]
    facets = np.frombuffer(data, facet, int(np.frombuffer(data, "<u4", 1, 80)[0]), offset=84)
    assert len(data) == 84 + facets.nbytes
    return facets


@pytest.mark.parametrize(("kind", "read"), [("obj", read_obj), ("ply", read_ply)])
def test_a_mesh_is_read_back_as_written(tmp_path, kind, read):
    file = tmp_path / "case" / f"m.{kind}"
    write_mesh(file, VERTICES, TRIANGLES, "a comment")
    vertices, triangles = read(file)
    np.testing.assert_array_equal(vertices, VERTICES)
    np.testing.assert_array_equal(triangles, TRIANGLES)


def test_ply_has_the_colour_of_the_region(tmp_path):
    write_mesh(tmp_path / "m.ply", VERTICES, TRIANGLES, material=Material("liver", (86, 180, 233)))
    head, body = (tmp_path / "m.ply").read_bytes().split(b"end_header\n", 1)
    assert [line.split()[-1] for line in head.decode().splitlines() if "property uchar" in line] == [
        "red",
        "green",
        "blue",
    ]
    corners = np.frombuffer(body, [("place", "<f4", 3), ("colour", "u1", 3)], len(VERTICES))
    np.testing.assert_array_equal(corners["place"], VERTICES)
    assert set(map(tuple, corners["colour"].tolist())) == {(86, 180, 233)}
    faces = np.frombuffer(body, [("n", "u1"), ("corners", "<i4", 3)], offset=corners.nbytes)
    np.testing.assert_array_equal(faces["corners"], TRIANGLES)


def test_obj_refers_to_a_material_of_one_word(tmp_path):
    material = Material("necrotic core", (255, 0, 51))
    write_mesh(tmp_path / "a b.obj", VERTICES, TRIANGLES, material=material)
    write_materials(tmp_path / MATERIALS, [material])
    assert "mtllib regions.mtl\nusemtl necrotic_core\n" in (tmp_path / "a b.obj").read_text()
    assert (tmp_path / MATERIALS).read_text() == "newmtl necrotic_core\nKd 1.0000 0.0000 0.2000\n"
    np.testing.assert_array_equal(read_obj(tmp_path / "a b.obj")[1], TRIANGLES)


def test_stl_holds_the_corners_of_each_triangle(tmp_path):
    write_mesh(tmp_path / "m.stl", VERTICES, TRIANGLES)
    np.testing.assert_array_equal(read_stl(tmp_path / "m.stl")["corners"], VERTICES[TRIANGLES])


def test_stl_normals_follow_the_winding(tmp_path):
    write_mesh(tmp_path / "m.stl", VERTICES, TRIANGLES)
    np.testing.assert_allclose(read_stl(tmp_path / "m.stl")["normal"][:3], [[0, 0, 1], [0, -1, 0], [-1, 0, 0]])


def test_a_flat_triangle_has_no_normal_and_no_nan(tmp_path):
    write_mesh(tmp_path / "m.stl", VERTICES[[0, 0, 1]], np.array([[0, 1, 2]]))
    np.testing.assert_array_equal(read_stl(tmp_path / "m.stl")["normal"], [[0, 0, 0]])


def test_a_binary_stl_does_not_begin_as_a_text_one(tmp_path):
    write_mesh(tmp_path / "m.stl", VERTICES, TRIANGLES, "solid " * 30)
    assert not (tmp_path / "m.stl").read_bytes().startswith(b"solid")


def test_an_unknown_format_is_refused_with_those_allowed(tmp_path):
    with pytest.raises(InputError, match="obj, ply, stl"):
        write_mesh(tmp_path / "m.vtk", VERTICES, TRIANGLES)


def test_an_interrupted_write_leaves_the_old_file_and_no_other(tmp_path):
    file = tmp_path / "old.txt"
    file.write_text("old")

    def interrupted():
        with atomic_file(file) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [f.name for f in tmp_path.iterdir()] == ["old.txt"]
    assert file.read_text() == "old"


def test_the_case_is_the_items_own():
    assert case_id({"case": "BraTS.v1"}, "image") == "BraTS.v1"


def test_without_a_case_the_file_read_names_it():
    image = MetaTensor(torch.zeros(1), meta={"filename_or_obj": "/data/a/case.7.nii.gz"})
    assert case_id({"image": image}, "image") == "case.7"


def test_a_case_is_a_text():
    with pytest.raises(InputError, match="cannot name a folder"):
        case_id({"case": 7}, "image")


def test_an_item_without_any_name_is_refused():
    with pytest.raises(InputError, match="names no case"):
        case_id({"image": torch.zeros(1)}, "image")
