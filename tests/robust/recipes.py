"""The damaged corpus: what is wrong with each data set, and what each command says of it."""

import gzip
import json
import os
import shutil
import struct
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np

from tests.robust import corpus as c

BRAIN, LIVER, DICOM = "brain", "liver", "DICOM"
NEXT = "BraTS20_Training_010"


class Recipe(NamedTuple):
    """One data set.

    Args:
        name: of the recipe.
        data: its kind, `BRAIN`, `LIVER` or `DICOM`.
        what: is wrong with it; one case of two, unless it says otherwise.
        build: writes it into an empty folder.
        record: file of the data set's record in that folder, given as `--dataset`.
        split: split file in that folder, given to training and inference.
    """

    name: str
    data: str
    what: str
    build: c.Build
    record: str = ""
    split: str = ""


def brain(name: str, what: str, *edits: c.Edit, **kwargs) -> Recipe:
    return Recipe(name, BRAIN, what, c.brains(*edits, **kwargs))


def brain_set(name: str, what: str, *extra: c.Build) -> Recipe:
    return Recipe(name, BRAIN, what, c.brains_and(*extra))


def liver(name: str, what: str, *edits: c.Edit, **kwargs) -> Recipe:
    return Recipe(name, LIVER, what, c.livers(*edits, **kwargs))


def dicom(name: str, what: str, *edits: c.Edit, **changes) -> Recipe:
    return Recipe(name, DICOM, what, c.series(*edits, **changes))


def _flat(case: Path) -> None:
    for file in case.iterdir():
        file.rename(case.parent / file.name)
    case.rmdir()


def _two_in_one(case: Path) -> None:
    c.write_brain(case.parent, NEXT, 10, folder=case.name)


def _half_of_another(case: Path) -> None:
    c.write_brain(case.parent, NEXT, 10, folder=case.name, ends=("flair", "t1"), label=None)


def _stacked(root: Path, count: int, told: bool = False) -> None:
    voxels = np.stack([np.where(c.distance() < 0.85, 300 + 50 * k, 0) for k in range(count)], -1).astype(np.int16)
    for name in ("one", "two"):
        c.save(root / f"{name}.nii.gz", voxels, c.LPS)


def _brain_of_shape(*shape: int) -> c.Build:
    def build(root: Path) -> None:
        c.write_brain(root, c.GOOD[0])
        rng = np.random.default_rng(0)
        for end in c.ENDS:
            c.save(root / c.ODD / f"{c.ODD}_{end}.nii.gz", rng.integers(1, 900, shape).astype(np.int16))
        c.save(root / c.ODD / f"{c.ODD}_seg.nii.gz", np.ones(shape, np.uint8))

    return build


def _copied_over(source: str, target: str) -> c.Edit:
    return lambda case: shutil.copy(c.file_of(case, source), c.file_of(case, target)) and None


def _upper_half_zero(voxels: np.ndarray) -> np.ndarray:
    return np.where(np.arange(voxels.shape[2]) < voxels.shape[2] // 2, voxels, 0)


def _halved(end: str) -> c.Edit:
    return c.voxels(lambda a: a // 2, end, dtype=np.int16)


def _wrapped(end: str) -> c.Edit:
    return c.voxels(lambda a: np.where(a > 450, a - 1024, a), end, dtype=np.int16)


def _saved_again(root: Path) -> None:
    """Other types and headers, the same voxels."""
    _same_scan(root)
    for end in c.ENDS:
        c.voxels(lambda a: a, end)(root / NEXT)


def _same_scan(root: Path) -> None:
    for file in (root / c.GOOD[0]).iterdir():
        target = root / NEXT / file.name.replace(c.GOOD[0], NEXT)
        target.parent.mkdir(exist_ok=True)
        shutil.copy(file, target)


def _pipe(case: Path) -> None:
    file = c.file_of(case, "t2")
    file.unlink()
    os.mkfifo(file)


def _turned_storage(end: str) -> c.Edit:
    """Stores the same scan along other axes, as programs do that turn all to RAS."""

    def edit(case: Path) -> None:
        file = c.file_of(case, end)
        nib.save(nib.as_closest_canonical(nib.load(file)), file)

    return edit


def _suffixes(suffix: str) -> c.Edit:
    return lambda case: [file.rename(str(file).replace(".nii.gz", suffix)) for file in list(case.iterdir())] and None


def _floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def _json(text: str):
    def build(root: Path) -> None:
        for number in (1, 2, 3):
            volume, label = c.abdomen(number)
            c.save(root / "imagesTr" / f"liver_{number}.nii.gz", volume, c.CT_LPS)
            c.save(root / "labelsTr" / f"liver_{number}.nii.gz", label, c.CT_LPS)
        (root / "dataset.json").write_text(text)

    return build


_TOLD = {"labels": {"0": "background", "1": "liver", "2": "cancer"}, "modality": {"0": "CT"}}


def recorded(name: str, what: str, text: str) -> Recipe:
    def build(root: Path) -> None:
        c.livers()(root)
        (root / "record.yaml").write_text(text)

    return Recipe(name, LIVER, what, build, record="record.yaml")


def split(name: str, what: str, content: object) -> Recipe:
    def build(root: Path) -> None:
        c.livers()(root)
        c.write_liver(root, 5)
        text = content if isinstance(content, str) else json.dumps(content)
        (root / "split.json").write_text(text)

    return Recipe(name, LIVER, what, build, split="split.json")


_RECORD = """title: ours
channels: {CT: {kind: CT}}
layouts: [pairs]
pairs: [{image: 'volume-(?P<id>\\d+)', label: 'segmentation-(?P<id>\\d+)'}]
labels: {1: liver, 2: tumour}
regions: {liver: [1, 2], tumour: [2]}
"""


def _edit_all(*edits: c.Edit) -> c.Build:
    def build(root: Path) -> None:
        for number, name in enumerate((*c.GOOD, c.ODD)):
            case = c.write_brain(root, name, number)
            for edit in edits:
                edit(case)

    return build


def _nnunet(*, gap: bool = False, stray: bool = False) -> c.Build:
    def build(root: Path) -> None:
        for number in (1, 2, 3):
            case = c.write_brain(root / "tmp", "x", number)
            for channel, end in enumerate(c.ENDS):
                if not (gap and number == 3 and channel == 2):
                    target = root / "imagesTr" / f"brain_{number}_{channel:04}.nii.gz"
                    target.parent.mkdir(exist_ok=True)
                    shutil.copy(c.file_of(case, end), target)
            (root / "labelsTr").mkdir(exist_ok=True)
            shutil.copy(c.file_of(case, "seg"), root / "labelsTr" / f"brain_{number}.nii.gz")
        shutil.rmtree(root / "tmp")
        if stray:
            shutil.copy(root / "labelsTr/brain_1.nii.gz", root / "labelsTr/brain_7.nii.gz")
        names = {str(number): name for number, name in enumerate(("FLAIR", "T1w", "t1gd", "T2w"))}
        told = {"channel_names": names, "labels": {"background": 0, "necrosis": 1, "edema": 2, "enhancing": 4}}
        (root / "dataset.json").write_text(json.dumps({**told, "file_ending": ".nii.gz"}))

    return build


def _bomb(case: Path) -> None:
    """A few bytes that promise 256 GiB, which gzip's trailer, modulo 2**32, does not deny."""
    for end in c.ALL:
        file = c.file_of(case, end)
        raw = bytearray(gzip.decompress(file.read_bytes())[:352])
        raw[40:56] = c.dimensions(16384, 16384, 1024)
        file.write_bytes(gzip.compress(bytes(raw)))


def _one_slice(case: Path) -> None:
    c.voxels(lambda array: array[:, :, 6:7].copy(), *c.ALL, dtype=np.int16)(case)


def _background(array: np.ndarray) -> np.ndarray:
    return array + 50


def _scored(array: np.ndarray) -> np.ndarray:
    return (array - array.mean()) / array.std()


def _millimetres_as(code: int, factor: float):
    def edit(case: Path) -> None:
        def scale(matrix: np.ndarray) -> np.ndarray:
            matrix[:3] *= factor
            return matrix

        c.affine(scale, *c.ALL)(case)
        c.header(123, bytes([code]), *c.ALL)(case)

    return edit


def _turned(matrix: np.ndarray) -> np.ndarray:
    angle = np.deg2rad(12)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return turn @ matrix


def _scaled(factors) -> c.Edit:
    return c.affine(lambda matrix: matrix @ np.diag([*factors, 1.0]), *c.ALL)


def _singular(matrix: np.ndarray) -> np.ndarray:
    matrix[:, 1] = matrix[:, 0]
    return matrix


def _qform_elsewhere(case: Path) -> None:
    for end in c.ALL:
        c.header(268, struct.pack("<f", 60.0), end)(case)
        c.header(252, struct.pack("<2h", 1, 2), end)(case)


def _empty_files(case: Path) -> None:
    for file in case.iterdir():
        file.write_bytes(b"")


def _only_text(root: Path) -> None:
    (root / "notes.txt").write_text("no image")


def _only_rgb(root: Path) -> None:
    c.save(root / "case.nii.gz", c.colours(np.full(c.SHAPE, 7)), c.LPS)


def _folder_of(*names: str):
    def build(root: Path) -> None:
        for name in names:
            (root / name).mkdir(parents=True)

    return build


def _folder_with(name: str, file: str, content: bytes = b"no image"):
    def build(root: Path) -> None:
        (root / name).mkdir(parents=True)
        (root / name / file).write_bytes(content)

    return build


def _broken_link(case: Path) -> None:
    file = c.file_of(case, "t2")
    file.unlink()
    file.symlink_to(case / "gone.nii.gz")


def _linked_folder(root: Path) -> None:
    (root / "link").symlink_to(root / c.GOOD[0], target_is_directory=True)


def _loop(root: Path) -> None:
    (root / "loop").symlink_to(root, target_is_directory=True)


def _folder_named_as_file(case: Path) -> None:
    file = c.file_of(case, "t2")
    file.unlink()
    file.mkdir()


def _named(name: str, **kwargs) -> c.Build:
    return lambda root: c.write_brain(root, name, 9, **kwargs)


def _in_metres(root: Path) -> None:
    c.affine(lambda m: np.diag([0.001, 0.001, 0.001, 1]) @ m, c.VOLUME, c.MASK)(root)
    c.header(123, bytes([1]), c.VOLUME, c.MASK)(root)


def _identity(root: Path) -> None:
    c.affine(lambda _: np.eye(4), c.VOLUME, c.MASK)(root)


def _padded(number: int, tags) -> None:
    tags.add_new("PixelPaddingValue", "US", 63536)
    array = tags.pixel_array.copy()
    array[:3] = 63536
    tags.PixelData = array.tobytes()


def _rounded(number: int, tags) -> None:
    tags.ImagePositionPatient = [-40, -40, round(0.625 * number, 1)]


def _tilted(number: int, tags) -> None:
    tags.ImagePositionPatient = [-40, -40 + 0.8 * number, 5 * number]


def _two_phases(number: int, tags) -> None:
    tags.AcquisitionNumber = number % 2
    tags.ImagePositionPatient = [-40, -40, 5 * (number // 2)]


def _raw(number: int, tags) -> None:
    del tags.RescaleSlope
    del tags.RescaleIntercept


def _nameless(folder: Path) -> None:
    for number, file in enumerate(sorted(folder.iterdir())):
        file.rename(folder / f"{number}")


def _segmentation_beside(folder: Path) -> None:
    kind = {"Modality": "SEG", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4", "SeriesInstanceUID": "1.2.77"}
    c.slice_with(40, **kind)(folder)


_BRAINS = [
    brain("brain_good", "nothing"),
    # ---- files
    brain("crc", "the checksum of a FLAIR's gzip is wrong", c.stored(c.flipped(-6))),
    brain("bit_flip", "a bit in the middle of a FLAIR's gzip is flipped", c.stored(c.flipped(700))),
    brain("half_file", "a FLAIR is cut in the middle", c.stored(lambda data: data[: len(data) // 2])),
    brain("last_byte_lost", "a FLAIR lacks its last byte", c.stored(lambda data: data[:-1])),
    brain("bytes_behind", "a FLAIR has bytes behind its gzip", c.stored(lambda data: data + b"x" * 64)),
    brain("zeros_behind", "a FLAIR has zeros behind its gzip", c.stored(lambda data: data + bytes(64))),
    brain(
        "two_members",
        "a FLAIR is a gzip of two members",
        c.stored(lambda data: (raw := gzip.decompress(data)) and gzip.compress(raw[:900]) + gzip.compress(raw[900:])),
    ),
    brain("packed_twice", "a FLAIR is packed twice", c.stored(gzip.compress)),
    brain("not_packed", "a FLAIR named .nii.gz is not packed", c.stored(gzip.decompress)),
    brain("empty_file", "a FLAIR has 0 bytes", c.stored(lambda data: b"")),
    brain("all_files_empty", "all files of a case have 0 bytes", _empty_files),
    brain("text_file", "a FLAIR is a text", c.stored(lambda data: b"<html>404 not found</html>")),
    brain(
        "header_alone",
        "a FLAIR is a header without voxels",
        c.stored(lambda data: gzip.compress(gzip.decompress(data)[:352])),
    ),
    brain("bomb", "352 bytes a file promise 256 GiB", _bomb),
    brain("broken_link", "the T2 is a link to a file that is gone", _broken_link),
    brain("folder_for_file", "the T2 is a folder", _folder_named_as_file),
    brain(
        "pointer_file",
        "a FLAIR is a pointer of Git LFS",
        c.stored(lambda data: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
    ),
    # ---- headers
    brain("dim_negative", "a size in the header is negative", c.header(40, c.dimensions(16, -16, 12), "flair")),
    brain("dim_zero", "a size in the header is 0", c.header(40, c.dimensions(16, 0, 12), "flair")),
    brain(
        "dim_larger", "the header promises more voxels than there are", c.header(40, c.dimensions(16, 16, 13), "flair")
    ),
    brain(
        "dim_smaller",
        "the header promises fewer voxels than there are",
        c.header(40, c.dimensions(16, 16, 11), "flair"),
    ),
    brain("dim_2d", "a FLAIR is a plane", c.header(40, c.dimensions(16, 16), "flair")),
    brain(
        "dim_many_ones",
        "a FLAIR has the shape 16 x 16 x 12 x 1 x 1",
        c.header(40, c.dimensions(16, 16, 12, 1, 1), "flair"),
    ),
    brain("dtype_unknown", "the data type in a header is unknown", c.header(70, struct.pack("<h", 999), "flair")),
    brain("magic_wrong", "the magic word of a header is wrong", c.header(344, b"abc\0", "flair")),
    brain(
        "offset_wrong", "the offset of the voxels lies behind the file", c.header(108, struct.pack("<f", 1e6), "flair")
    ),
    brain(
        "slope_nan",
        "the slope of a FLAIR is NaN (read without, as nibabel does)",
        c.header(112, struct.pack("<2f", np.nan, 0), "flair"),
    ),
    brain(
        "slope_huge",
        "the slope of a FLAIR is infinite (likewise)",
        c.header(112, struct.pack("<2f", np.inf, 0), "flair"),
    ),
    brain("pixdim_zero", "voxel sizes 0, both codes 0", c.header(80, bytes(12), *c.ALL), c.codes(0, 0)),
    brain(
        "pixdim_nan",
        "voxel sizes NaN, both codes 0",
        c.header(80, struct.pack("<3f", *[np.nan] * 3), *c.ALL),
        c.codes(0, 0),
    ),
    brain("no_orientation", "both codes are 0", c.codes(0, 0)),
    brain("forms_differ", "qform and sform place the case 60 mm apart", _qform_elsewhere),
    brain("sform_nan", "the affine is NaN", c.header(280, struct.pack("<f", np.nan), *c.ALL)),
    brain("sform_singular", "two axes of the affine are one", c.affine(_singular, *c.ALL), c.codes(0, 2)),
    brain("affine_moved", "a T1 lies 5 mm beside the other files", c.moved(5, "t1")),
    brain("affine_rounded", "a T1 lies 0.0001 mm beside the other files", c.moved(1e-4, "t1")),
    brain("affine_turned", "a T1 is turned by 12 degrees", c.affine(_turned, "t1")),
    brain("label_moved", "the label lies 5 mm beside the images", c.moved(5, "seg")),
    brain("metre", "the unit is the metre", _millimetres_as(1, 0.001)),
    brain("micron", "the unit is the micron", _millimetres_as(3, 1000)),
    brain("metre_unsaid", "spacings in metres, the unit says millimetre", _scaled([0.001] * 3)),
    brain("spacing_8_m", "voxels of 8 m", _scaled([8000.0] * 3)),
    brain("time_unit", "the unit of time is the second", c.header(123, bytes([2 + 8]), *c.ALL)),
    brain("nifti2", "a FLAIR is NIfTI-2", c.other_voxels("flair", nib.Nifti2Image)),
    brain(
        "big_endian",
        "a FLAIR is big-endian",
        c.other_voxels("flair", lambda v, m: nib.Nifti1Image(v.astype(">i2"), m, nib.Nifti1Header(endianness=">"))),
    ),
    # ---- voxels
    brain("nan", "a voxel of the brain is NaN", c.put(np.nan)),
    brain("nan_corner", "a corner outside the brain is NaN", c.put(np.nan, (0, 0, 0))),
    brain("inf", "a voxel is infinite", c.put(np.inf)),
    brain("minus_inf", "a voxel is minus infinity", c.put(-np.inf)),
    brain("nan_everywhere", "a whole FLAIR is NaN", c.voxels(lambda a: np.full_like(a, np.nan))),
    brain("constant", "a whole FLAIR is 7", c.voxels(lambda a: np.full_like(a, 7))),
    brain("zeros", "a whole FLAIR is 0", c.voxels(np.zeros_like)),
    brain("all_zeros", "all four images are 0", c.voxels(np.zeros_like, *c.ENDS)),
    brain("hot_voxel", "a voxel is 1e30", c.put(1e30)),
    brain("background", "the background of a FLAIR is 50", c.voxels(_background)),
    brain("scored", "a FLAIR is scaled to mean 0 already", c.voxels(_scored)),
    brain("complex", "a FLAIR is complex", c.voxels(lambda a: a.astype(np.complex64) * (1 + 1j))),
    brain("rgb", "a FLAIR is a colour picture", c.voxels(c.colours)),
    brain("four_d", "a FLAIR has two volumes", c.voxels(lambda a: np.stack([a, a], -1))),
    brain("single_slice", "a case has one slice", _one_slice),
    brain("float64", "a FLAIR is stored as float64", c.voxels(lambda a: a, dtype=np.float64)),
    brain("other_shape", "a T1 lacks a slice", c.voxels(lambda a: a[:, :, :-1].copy(), "t1")),
    # ---- labels
    brain("label_3", "a label holds the number 3", c.put(3, (8, 8, 6), "seg", dtype=np.uint8)),
    brain("label_99", "a label holds the number 99", c.put(99, (8, 8, 6), "seg", dtype=np.uint8)),
    brain("label_negative", "a label holds -1", c.put(-1, (8, 8, 6), "seg", dtype=np.int16)),
    brain("label_half", "a label holds 3.5", c.put(3.5, (8, 8, 6), "seg")),
    brain("label_nan", "a label holds NaN", c.put(np.nan, (8, 8, 6), "seg")),
    brain("label_floats", "a label is stored as floats", c.voxels(lambda a: a, "seg")),
    brain("label_almost_whole", "a label holds 0.99999 for 1", c.put(0.99999, (8, 8, 6), "seg")),
    brain("label_empty", "a label is 0 throughout", c.voxels(np.zeros_like, "seg", dtype=np.uint8)),
    brain("label_crc", "the checksum of a label's gzip is wrong", c.stored(c.flipped(-6), "seg")),
    brain("label_text", "a label is a text", c.stored(lambda data: b"404", "seg")),
    brain("label_other_shape", "a label lacks a slice", c.voxels(lambda a: a[:, :, :-1].copy(), "seg", dtype=np.uint8)),
    brain(
        "label_4d", "a label has a channel a region", c.voxels(lambda a: np.stack([a, a], -1), "seg", dtype=np.uint8)
    ),
    brain("label_missing", "a case has no label", c.without("seg")),
    brain("label_twice", "a case has two labels", c.copied("seg", f"{c.ODD}_seg_seg.nii.gz")),
    brain("label_complex", "a label is complex", c.voxels(lambda a: a.astype(np.complex64), "seg")),
    # ---- names and layouts
    brain("missing_t2", "a case has no T2", c.without("t2")),
    brain("missing_all", "a case has a label alone", *[c.without(end) for end in c.ENDS]),
    brain("misspelt", "the T2 is named _t22", c.renamed("t2", f"{c.ODD}_t22.nii.gz")),
    brain("capitals", "the T2 is named _T2", c.renamed("t2", f"{c.ODD}_T2.nii.gz")),
    brain("hyphen", "the T2 is named -t2", c.renamed("t2", f"{c.ODD}-t2.nii.gz")),
    brain("twice", "a case has two files of the T2", c.copied("t2", f"copy_{c.ODD}_t2.nii.gz")),
    brain(
        "packed_and_not",
        "the T2 is there packed and unpacked",
        lambda case: (
            c.save(case / f"{c.ODD}_t2.nii", np.asarray(nib.load(c.file_of(case, "t2")).dataobj), c.LPS) and None
        ),
    ),
    brain("other_patient_inside", "the T1 is another patient's", c.from_other("t1")),
    brain("other_label_inside", "the label is another patient's", c.from_other("seg")),
    brain(
        "label_foreign_name",
        "the label has a name of its own, as one case of BraTS 2020",
        c.renamed("seg", "W39_1998.09.19_Segm.nii.gz"),
    ),
    brain("two_cases_in_a_folder", "a folder holds the files of two cases", _two_in_one),
    brain("half_a_case_more", "a folder holds a case and two files of another", _half_of_another),
    brain("flat", "the files of a case lie beside the folders of the others", _flat),
    brain("companions", "macOS left ._ files", lambda case: (case / f"._{c.ODD}_t2.nii.gz").write_bytes(b"x") and None),
    brain("mask_beside", "a brain mask lies beside the images", c.copied("seg", f"{c.ODD}_brainmask.nii.gz")),
    brain_set("empty_case", "the folder of a case is empty", _folder_of(c.ODD)),
    brain_set("case_of_texts", "the folder of a case holds a text", _folder_with(c.ODD, "notes.txt")),
    brain_set("case_of_archive", "the folder of a case holds an archive", _folder_with(c.ODD, "images.zip")),
    brain_set("case_of_other_format", "the folder of a case holds .nrrd", _folder_with(c.ODD, "flair.nrrd")),
    brain_set("linked_folder", "a case is there again by a link", _linked_folder),
    brain_set("loop", "a link leads back to the data set", _loop),
    brain_set(
        "copied_case",
        "a case is there again in a folder `copy`",
        lambda root: shutil.copytree(root / c.GOOD[0], root / "copy" / c.GOOD[0]) and None,
    ),
    brain_set("name_newline", "the name of a case holds a line break", _named("new\nline")),
    brain_set("name_colon", "the name of a case holds a colon and a space", _named("scan 12:30")),
    brain_set("name_dots", "the name of a case holds dots", _named("TCGA-02-0006_1996.08.23")),
    brain_set("name_unicode", "the name of a case holds letters beyond ASCII", _named("Müller_脳")),
    brain_set("name_long", "the name of a case has 240 bytes", _named("L" * 240)),
    brain_set("name_of_ends", "the name of a case is t1", _named("t1")),
    brain_set("name_quotes", "the name of a case holds quotes, $ and #", _named("a'b\"$c#d")),
    brain_set("livers_beside", "cases of LiTS lie beside those of BraTS", lambda root: c.livers()(root / "lits")),
    Recipe("nothing", BRAIN, "the folder is empty", lambda root: None),
    Recipe("only_text", BRAIN, "the folder holds a text alone", _only_text),
    Recipe("only_rgb", BRAIN, "the folder holds one colour picture alone", _only_rgb),
    Recipe(
        "only_bad",
        BRAIN,
        "the FLAIR of every case is cut in the middle",
        _edit_all(c.stored(lambda data: data[: len(data) // 2])),
    ),
    Recipe("no_labels", BRAIN, "no case has a label", _edit_all(c.without("seg"))),
    Recipe("stacked_three", BRAIN, "files of three channels, for a model of four", lambda root: _stacked(root, 3)),
    Recipe("stacked_four", BRAIN, "files of four channels of any name, without labels", lambda root: _stacked(root, 4)),
    Recipe("nnunet_labels", BRAIN, "nnU-Net's layout, and labels whose names tell no region of the model", _nnunet()),
    Recipe("nnunet_gap", BRAIN, "nnU-Net's layout, a channel of a case is missing", _nnunet(gap=True)),
    Recipe("nnunet_stray_label", BRAIN, "nnU-Net's layout, a label without its image", _nnunet(stray=True)),
]

_LIVERS = [
    liver("liver_good", "nothing"),
    liver("ct_nan", "a voxel is NaN", c.put(np.nan, (8, 8, 6), c.VOLUME)),
    liver("ct_constant", "every voxel is 40", c.voxels(lambda a: np.full_like(a, 40), c.VOLUME)),
    liver("ct_corner", "a corner is 1e37 HU", c.put(1e37, (0, 0, 0), c.VOLUME)),
    liver("ct_unsigned", "values from 0 to 4095", c.voxels(lambda a: (a + 1024).clip(0), c.VOLUME, dtype=np.int16)),
    liver("ct_unit_range", "values from 0 to 1", c.voxels(lambda a: (a - a.min()) / np.ptp(a), c.VOLUME)),
    liver(
        "ct_picture", "values from 0 to 255", c.voxels(lambda a: (a * 0.1 + 110).clip(0, 255), c.VOLUME, dtype=np.int16)
    ),
    liver("ct_rgb", "the scan is a colour picture", c.voxels(c.colours, c.VOLUME)),
    liver("ct_complex", "the scan is complex", c.voxels(lambda a: a.astype(np.complex64), c.VOLUME)),
    liver("ct_4d", "the scan has two phases", c.voxels(lambda a: np.stack([a, a], -1), c.VOLUME)),
    liver("ct_half_file", "the scan is cut in the middle", c.stored(lambda data: data[: len(data) // 2], c.VOLUME)),
    liver("ct_crc", "the checksum of the scan's gzip is wrong", c.stored(c.flipped(-6), c.VOLUME)),
    liver("ct_spacing_8_m", "voxels of 8 m", affine=np.diag([-8000.0, -8000, 8000, 1])),
    liver("ct_metre", "the unit is the metre", _in_metres),
    liver("ct_identity", "the affine is the identity", _identity),
    liver("ct_label_7", "the label holds the number 7", c.put(7, (8, 8, 6), c.MASK, dtype=np.uint8)),
    liver("ct_label_moved", "the label lies 20 mm beside the scan", c.moved(20, c.MASK)),
    liver("ct_label_missing", "a case has no label", label=False),
    liver("ct_scan_missing", "a label has no scan", c.without(c.VOLUME)),
    liver("ct_label_empty", "the label is 0 throughout", c.voxels(np.zeros_like, c.MASK, dtype=np.uint8)),
    liver("ct_no_air", "the scan has no air", c.voxels(lambda a: a.clip(-100), c.VOLUME, dtype=np.int16)),
    Recipe("json_good", LIVER, "nothing; the Decathlon's layout", _json(json.dumps(_TOLD))),
    Recipe("json_broken", LIVER, "dataset.json is cut", _json('{"labels": {"0"')),
    Recipe("json_list", LIVER, "dataset.json is a list", _json("[1, 2]")),
    Recipe("json_no_channels", LIVER, "dataset.json names no channels", _json('{"labels": {"0": "background"}}')),
    Recipe(
        "json_channels_number", LIVER, "dataset.json has a number for channels", _json('{"modality": 3, "labels": {}}')
    ),
    Recipe(
        "json_two_channels",
        LIVER,
        "dataset.json tells of two channels, the files have one",
        _json(json.dumps({**_TOLD, "modality": {"0": "CT", "1": "PET"}})),
    ),
    Recipe("json_empty", LIVER, "dataset.json has 0 bytes", _json("")),
]

_DICOM = [
    dicom("dicom_good", "nothing"),
    dicom("spacing_zero", "pixels of 0 mm", PixelSpacing=[0, 0]),
    dicom("no_spacing", "no pixel spacing", PixelSpacing=None),
    dicom("no_position", "a slice without position", c.slice_with(3, ImagePositionPatient=None)),
    dicom("slice_missing", "a slice is missing", lambda folder: (folder / "IM0005.dcm").unlink()),
    dicom("slice_twice", "a slice is there twice", c.slice_with(40, ImagePositionPatient=[-40, -40, 15])),
    dicom(
        "slice_turned", "a slice has another orientation", c.slice_with(3, ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    ),
    dicom("slice_other_size", "a slice has other pixels", c.slice_with(3, PixelSpacing=[4, 4])),
    dicom("slice_cut", "a slice is cut", c.slice_bytes(3, lambda data: data[: len(data) - 100])),
    dicom("slice_empty", "a slice has 0 bytes", c.slice_bytes(3, lambda data: b"")),
    dicom("slice_text", "a slice is a text", c.slice_bytes(3, lambda data: b"404 not found")),
    dicom(
        "one_slice",
        "a series of one slice",
        lambda folder: [file.unlink() for file in sorted(folder.iterdir())[1:]] and None,
    ),
    dicom(
        "two_series", "two series in one folder", lambda folder: c.write_series(folder, 20, SeriesInstanceUID="1.2.88")
    ),
    dicom(
        "two_patients",
        "two patients in one folder",
        lambda folder: c.write_series(folder, 20, SeriesInstanceUID="1.2.88", StudyInstanceUID="1.2.89", PatientID="B"),
    ),
    dicom("two_phases", "two acquisitions interleaved", c.every_slice(_two_phases)),
    dicom("rounded_positions", "slices of 0.625 mm, positions rounded to 0.1 mm", c.every_slice(_rounded)),
    dicom("tilted", "a tilted gantry", c.every_slice(_tilted)),
    dicom("padding", "PixelPaddingValue outside the field of view", c.every_slice(_padded)),
    dicom("no_rescale", "no rescale: values from 0", c.every_slice(_raw)),
    dicom("slope_nan_dicom", "the slope is no number", c.every_slice(lambda n, t: setattr(t, "RescaleSlope", "NaN"))),
    dicom("no_suffix", "files without suffix", _nameless),
    dicom("segmentation_beside", "a segmentation in the folder of the scan", _segmentation_beside),
    dicom("mr_series", "a series of MRI", Modality="MR"),
    dicom(
        "secondary_capture",
        "a series of screenshots in colour",
        SamplesPerPixel=3,
        PhotometricInterpretation="RGB",
        PlanarConfiguration=0,
    ),
]

_FILES = [
    recorded("record_good", "nothing; a record of one's own", _RECORD),
    recorded("record_no_yaml", "the record is no YAML", "title: [ours"),
    recorded("record_empty", "the record has 0 bytes", ""),
    recorded("record_list", "the record is a list", "- a\n- b\n"),
    recorded("record_unknown_key", "the record has a misspelt key", _RECORD + "licens: free\n"),
    recorded("record_no_channels", "the record has no channels", _RECORD.replace("channels: {CT: {kind: CT}}\n", "")),
    recorded("record_layout", "the record has an unknown layout", _RECORD.replace("[pairs]", "[heap]")),
    recorded(
        "record_pattern",
        "a pattern of the record is no regular expression",
        _RECORD.replace("volume-(?P", "volume-(?Q"),
    ),
    recorded("record_no_id", "a pattern of the record has no group `id`", _RECORD.replace("(?P<id>\\d+)", "\\d+")),
    recorded(
        "record_label_text", "a label number of the record is a text", _RECORD.replace("1: liver,", "one: liver,")
    ),
    recorded(
        "record_region_unknown",
        "a region of the record has a number that no label has",
        _RECORD.replace("tumour: [2]", "tumour: [5]"),
    ),
    recorded("record_region_text", "a region of the record is a text", _RECORD.replace("tumour: [2]", "tumour: two")),
    recorded("record_other_names", "the record's patterns fit no file", _RECORD.replace("volume-", "scan-")),
    split(
        "split_good",
        "nothing; a split file",
        {"training": ["volume-1"], "validation": ["volume-5"], "test": ["volume-9"]},
    ),
    split(
        "split_no_test",
        "the split file has no test cases, and lacks a case",
        {"training": ["volume-1"], "validation": ["volume-9"]},
    ),
    split("split_no_json", "the split file is no JSON", "{"),
    split("split_empty", "the split file has 0 bytes", ""),
    split("split_list", "the split file is a list", ["volume-1"]),
    split("split_number", "a section of the split file is a number", {"training": 3}),
    split("split_numbers", "a section of the split file holds numbers", {"training": [1], "validation": [9]}),
    split(
        "split_twice",
        "a case is in two sections of the split file",
        {"training": ["volume-1"], "validation": ["volume-1"]},
    ),
    split(
        "split_other_cases", "the split file names cases that are not there", {"training": ["a"], "validation": ["b"]}
    ),
    split("split_no_training", "the split file has no section that is asked for", {"fold": ["volume-1"]}),
]

# ---- after reports of users of MONAI, nnU-Net, TotalSegmentator, nibabel, SimpleITK and dcm2niix
_REPORTED = [
    Recipe("shape_1", BRAIN, "a case of one voxel", _brain_of_shape(1, 1, 1)),
    Recipe("shape_2", BRAIN, "a case of 2 x 2 x 2 voxels", _brain_of_shape(2, 2, 2)),
    Recipe("shape_4", BRAIN, "a case of 4 x 4 x 4 voxels", _brain_of_shape(4, 4, 4)),
    Recipe("shape_column", BRAIN, "a case of 16 x 1 x 1 voxels", _brain_of_shape(16, 1, 1)),
    brain("inter_nan", "the intercept of a FLAIR is NaN", c.header(112, _floats(1, np.nan), "flair")),
    brain("slope_overflow", "the slope of a FLAIR is 3e38", c.header(112, _floats(3e38, 0), "flair")),
    brain("slope_1e30", "the slope of a FLAIR is 1e30 (scaled away)", c.header(112, _floats(1e30, 0), "flair")),
    brain("slope_1e_30", "the slope of a FLAIR is 1e-30 (scaled away)", c.header(112, _floats(1e-30, 0), "flair")),
    brain("label_slope", "the slope of a label is 0.5", c.header(112, _floats(0.5, 0), "seg")),
    brain("label_inter", "the intercept of a label is 1", c.header(112, _floats(1, 1), "seg")),
    brain("offset_nan", "the offset of the voxels is NaN", c.header(108, _floats(np.nan), "flair")),
    brain("offset_negative", "the offset of the voxels is negative", c.header(108, _floats(-352), "flair")),
    brain("dim_count_0", "the header counts 0 sizes", c.header(40, struct.pack("<h", 0), "flair")),
    brain("dim_count_9", "the header counts 9 sizes", c.header(40, struct.pack("<h", 9), "flair")),
    brain("qfac_0", "qfac is 0", c.header(76, _floats(0), *c.ALL), c.codes(1, 0)),
    brain("quaternion_nan", "the quaternion is NaN", c.header(256, _floats(np.nan), *c.ALL), c.codes(1, 0)),
    brain(
        "quaternion_long",
        "the quaternion is longer than 1",
        c.header(256, _floats(0.9, 0.9, 0.9), *c.ALL),
        c.codes(1, 0),
    ),
    brain("sform_row_0", "a row of the affine is 0", c.header(280, _floats(0, 0, 0, 0), *c.ALL)),
    brain("origin_far", "the case lies 1e30 mm from the origin", c.header(292, _floats(1e30), *c.ALL)),
    brain("codes_unknown", "codes of 99 and -7", c.codes(99, -7)),
    brain("label_rgb", "a label is a colour picture", c.voxels(c.colours, "seg")),
    brain(
        "label_one_hot",
        "a label has a channel a region, channels first",
        c.voxels(lambda a: np.stack([a == k for k in (1, 2, 4)]).astype(np.uint8), "seg", dtype=np.uint8),
    ),
    brain("label_1e10", "a label holds 1e10", c.put(1e10, (8, 8, 6), "seg")),
    brain("label_stored_turned", "a label is stored along other axes", _turned_storage("seg")),
    brain("t1_stored_turned", "a T1 is stored along other axes", _turned_storage("t1")),
    brain("label_is_image", "the label is a copy of the FLAIR", _copied_over("flair", "seg")),
    brain("image_is_label", "the FLAIR is a copy of the label", _copied_over("seg", "flair")),
    brain("same_twice", "the T1ce is a copy of the T1", _copied_over("t1", "t1ce")),
    brain("scaled_copy", "the T1ce is a copy of the T1, scaled", _copied_over("t1", "t1ce"), _halved("t1ce")),
    brain("wrapped", "bright voxels of a T1 have become negative whole numbers", _wrapped("t1")),
    brain("cut_short", "the upper half of a T1 is 0", c.voxels(_upper_half_zero, "t1")),
    brain(
        "overflowed",
        "bright voxels of a T1, beyond 16 bits with a sign, are negative",
        c.voxels(lambda a: (a / a.max() * 60_000).astype(np.uint16).view(np.int16), "t1", dtype=np.int16),
    ),
    brain(
        "label_beside",
        "a label lies beside the brain",
        c.voxels(lambda a: np.roll(a, a.shape[0] // 2, 0), "seg", dtype=np.uint8),
    ),
    brain_set("same_scan", "another case holds copies of a case's files", _same_scan),
    brain_set("same_scan_saved_again", "another case holds a case's voxels in files of another type", _saved_again),
    liver("ct_cut_short", "the upper half of a scan is 0", c.voxels(_upper_half_zero, c.VOLUME)),
    brain("background_minus_1", "the background of a FLAIR is -1", c.voxels(lambda a: np.where(a == 0, -1, a))),
    brain("background_65535", "the background of a FLAIR is 65535", c.voxels(lambda a: np.where(a == 0, 65535, a))),
    brain(
        "background_nan",
        "the background of all images is NaN",
        c.voxels(lambda a: np.where(a == 0, np.nan, a), *c.ENDS),
    ),
    brain("suffix_twice", "files end with .nii.nii.gz", _suffixes(".nii.nii.gz")),
    brain("suffix_gz", "files end with .gz", _suffixes(".gz")),
    brain("suffix_capitals", "files end with .nii.GZ", _suffixes(".nii.GZ")),
    brain("part_of_download", "the T2 is named .nii.gz.part", c.renamed("t2", f"{c.ODD}_t2.nii.gz.part")),
    brain("pipe", "the T2 is a named pipe", _pipe),
    liver(
        "ct_one_voxel",
        "a scan of one voxel",
        c.voxels(lambda a: a[:1, :1, :1].copy(), c.VOLUME, c.MASK, dtype=np.int16),
    ),
    liver("ct_pad_32768", "padding of -32768", c.voxels(lambda a: np.where(a < -900, -32768, a), c.VOLUME)),
    liver("ct_times_10", "values are ten times Hounsfield units", c.voxels(lambda a: a * 10, c.VOLUME)),
    liver("ct_inverted", "air is bright", c.voxels(lambda a: -a, c.VOLUME)),
    liver("ct_thin", "voxels of 1 micrometre", affine=np.diag([-0.001, -0.001, 0.001, 1])),
    liver("ct_thick", "slices of 50 mm", affine=np.diag([-1, -1, 50, 1])),
    dicom("no_pixels", "a slice without pixels", c.slice_with(3, PixelData=None)),
    dicom("rows_0", "a slice of 0 rows", c.slice_with(3, Rows=0)),
    dicom(
        "bits_8",
        "a slice that says 8 bits a pixel and has 16",
        c.slice_with(3, BitsAllocated=8, BitsStored=8, HighBit=7),
    ),
    dicom("bits_12", "a slice of 12 bits a pixel", c.slice_with(3, BitsAllocated=12)),
    dicom("no_sign", "no pixel representation", PixelRepresentation=None),
    dicom("slope_0", "the slope is 0", c.every_slice(lambda n, t: setattr(t, "RescaleSlope", "0"))),
    dicom("orientation_0", "the orientation is 0", ImageOrientationPatient=[0] * 6),
    dicom("one_pixel_size", "one pixel size for two axes", PixelSpacing=[8]),
    dicom("several_frames", "files of several frames", NumberOfFrames=2),
    dicom("same_image_twice", "a copy of a slice", lambda f: shutil.copy(f / "IM0003.dcm", f / "copy.dcm") and None),
    dicom("position_far", "a slice lies 1e30 mm away", c.slice_with(3, ImagePositionPatient=[1e30, 0, 15])),
    dicom(
        "cut_headers",
        "all files are cut after 300 bytes",
        lambda f: [file.write_bytes(file.read_bytes()[:300]) for file in f.iterdir()] and None,
    ),
    dicom("no_modality", "no modality", Modality=None),
    dicom(
        "folders_within",
        "the series lies two folders deeper",
        lambda f: shutil.move(f, f.parent / "a" / "P9" / "b") and None,
    ),
]

RECIPES = [*_BRAINS, *_LIVERS, *_FILES, *_DICOM, *_REPORTED]
