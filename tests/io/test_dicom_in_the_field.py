"""CT as archives hold it: rounded, padded, compressed, with segmentations and scouts beside it, two phases in one."""

import locale

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from custom_nets.datasets import datalist
from custom_nets.errors import InputError
from custom_nets.io.dicom import is_dicom_folder, read_dicom, read_dicom_header

pydicom = pytest.importorskip("pydicom")
from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless  # noqa: E402

from tests.dicom_files import changed, save_dicom  # noqa: E402

SHAPE = (7, 6, 12)
SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
STRUCTURES = "1.2.840.10008.5.1.4.1.1.481.3"


@pytest.fixture
def voxels():
    """Hounsfield units (x, y, z)."""
    return np.random.default_rng(0).integers(-1024, 2000, SHAPE).astype(np.int16)


def slice_of(pixels, position, number, signed=False, intercept=-1024, **changes):
    """One slice (x, y) of Hounsfield units; a change of None leaves the element out."""
    tags = Dataset()
    tags.SOPClassUID, tags.SOPInstanceUID, tags.Modality = CTImageStorage, f"1.2.3.4.{number}", "CT"
    tags.StudyInstanceUID, tags.SeriesInstanceUID = "1.2.3", "1.2.3.4"
    tags.ImagePositionPatient = [f"{value:.10g}" for value in position]
    tags.ImageOrientationPatient, tags.PixelSpacing = [1, 0, 0, 0, 1, 0], [0.8, 0.7]
    tags.Columns, tags.Rows = pixels.shape
    tags.SamplesPerPixel, tags.PhotometricInterpretation = 1, "MONOCHROME2"
    tags.BitsAllocated, tags.BitsStored, tags.HighBit, tags.PixelRepresentation = 16, 16, 15, int(signed)
    tags.RescaleSlope, tags.RescaleIntercept = 1, intercept
    tags.PixelData = np.ascontiguousarray((pixels - intercept).T.astype("<i2" if signed else "<u2")).tobytes()
    return changed(tags, changes)


def save_series(folder, voxels, places=None, syntax=ExplicitVRLittleEndian, first=0, **changes):
    places = [[0, 0, 5.0 * k] for k in range(voxels.shape[2])] if places is None else places
    for number, place in enumerate(places):
        save_dicom(
            slice_of(voxels[..., number], place, first + number, **changes), folder / f"{first + number:04}.dcm", syntax
        )
    return folder


def error_of(folder, read=read_dicom_header):
    with pytest.raises(InputError) as error:
        read(folder, "A")
    assert "\n" not in str(error.value)
    return str(error.value)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    spacing=st.sampled_from([0.4, 0.5, 0.625, 0.7, 0.75, 0.8, 1.25, 2.5, 3.75, 5.0]),
    decimals=st.integers(1, 3),
    start=st.floats(-500, 500),
    tilt=st.sampled_from([0, 0.2]),
    count=st.integers(5, 60),
    missing=st.booleans(),
    data=st.data(),
)
def test_rounded_positions(tmp_path_factory, spacing, decimals, start, tilt, count, missing, data):
    """A series whose positions are rounded is read; one that lacks a slice is refused at any rounding."""
    from custom_nets.io.dicom import _fit_line

    true = np.array([[0, tilt * spacing * k, start + spacing * k] for k in range(count)])
    positions = true.round(decimals)
    files = [f"{k}.dcm" for k in range(count)]
    if missing:
        gone = data.draw(st.integers(1, count - 2))
        positions, files = np.delete(positions, gone, axis=0), np.delete(files, gone).tolist()
        with pytest.raises(InputError, match="missing"):
            _fit_line(positions, np.array([0.0, 0, 1]), files, "folder", "A")
        return
    origin, step = _fit_line(positions, np.array([0.0, 0, 1]), files, "folder", "A")
    numbers = np.arange(count)[:, None]
    assert np.abs(origin + numbers * step - true).max() <= 10.0**-decimals


def rounded_line(spacing, start, count, decimals, gone=None):
    """What `_fit_line` says of slices whose positions are rounded, one of which may be gone."""
    from custom_nets.io.dicom import _fit_line

    places = np.array([[0, 0, round(start + spacing * k, decimals)] for k in range(count) if k != gone])
    return _fit_line(places, np.array([0.0, 0, 1]), [f"{k}.dcm" for k in range(len(places))], "folder", "A")


@pytest.mark.parametrize(("spacing", "start", "count"), [(0.5, 0.25, 6), (0.5, -102.75, 30), (0.7, -471.75, 5)])
def test_gaps_that_rounding_makes_short_and_long_in_turn_are_read(spacing, start, count):
    """At 0.25, 0.75, 1.25 mm … gaps are 0.6 and 0.4 mm: two digits apart."""
    _, step = rounded_line(spacing, start, count, 1)
    assert step[2] == pytest.approx(spacing, abs=0.05)


@pytest.mark.parametrize(("spacing", "start", "count", "gone"), [(0.5, 0.25, 5, 3), (0.5, 228.45, 5, 2)])
def test_a_missing_slice_among_few_is_told(spacing, start, count, gone):
    with pytest.raises(InputError, match="a slice is missing"):
        rounded_line(spacing, start, count, 1, gone)


def test_a_tilted_gantry_is_shear(tmp_path, voxels):
    places = [[0, 1.5 * k, 5.0 * k] for k in range(SHAPE[2])]
    affine = read_dicom_header(save_series(tmp_path / "A", voxels, places), "A").affine
    np.testing.assert_allclose(affine[:3, 2], [0, -1.5, 5])


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_files_without_preamble(tmp_path, voxels, syntax):
    folder = tmp_path / "A"
    folder.mkdir()
    for number in range(SHAPE[2]):
        tags = slice_of(voxels[..., number], [0, 0, 5 * number], number)
        implicit = syntax == ImplicitVRLittleEndian
        tags.save_as(folder / f"IM{number}", implicit_vr=implicit, little_endian=True, enforce_file_format=False)
    assert is_dicom_folder(folder)
    np.testing.assert_array_equal(read_dicom(folder, "A")[1], voxels[..., :])


def test_rle(tmp_path, voxels):
    folder = tmp_path / "A"
    for number in range(SHAPE[2]):
        tags = slice_of(voxels[..., number], [0, 0, 5 * number], number)
        tags.file_meta = FileMetaDataset()
        tags.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        tags.compress(RLELossless)
        save_dicom(tags, folder / f"{number}.dcm", RLELossless)
    np.testing.assert_array_equal(read_dicom(folder, "A")[1], voxels)


def test_a_syntax_without_decoder_is_named(tmp_path, voxels):
    htj2k = "1.2.840.10008.1.2.4.201"
    tags = slice_of(voxels[..., 0], [0, 0, 0], 0)
    tags.PixelData = pydicom.encaps.encapsulate([bytes(40)])
    save_dicom(tags, tmp_path / "A" / "0.dcm", pydicom.uid.UID(htj2k))
    save_dicom(tags, tmp_path / "A" / "1.dcm", pydicom.uid.UID(htj2k))
    assert "its pixels are High-Throughput JPEG 2000" in error_of(tmp_path / "A")
    assert "pip install python-gdcm, or export the series uncompressed" in error_of(tmp_path / "A")


@pytest.mark.parametrize(
    ("signed", "vr", "padding"), [(False, "US", 63536), (False, "SS", -2000), (True, "SS", -2000), (True, "US", 63536)]
)
def test_padding_becomes_air(tmp_path, voxels, signed, vr, padding):
    folder = tmp_path / "A"
    for number in range(SHAPE[2]):
        tags = slice_of(voxels[..., number], [0, 0, 5 * number], number, signed, 0 if signed else -1024)
        stored = np.frombuffer(tags.PixelData, np.uint16).copy()
        stored[:3] = 63536
        tags.PixelData = stored.tobytes()
        tags[0x0028, 0x0120] = pydicom.DataElement((0x0028, 0x0120), vr, padding)
        save_dicom(tags, folder / f"{number}.dcm")
    expected = voxels.astype(np.float32)
    expected[:3, 0] = -1024
    np.testing.assert_array_equal(read_dicom(folder, "A")[1], expected)


def test_missing_rescale_is_warned_of(tmp_path, voxels, caplog):
    read_dicom(save_series(tmp_path / "A", voxels, RescaleIntercept=None), "A")
    assert "12 of 12 slices have no RescaleSlope or RescaleIntercept" in caplog.text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"RescaleType": "OD"}, "12 of 12 slices have numbers in OD (RescaleType), expected HU"),
        ({"RescaleType": "Z_EFF"}, "numbers in Z_EFF"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "12 of 12 slices are MONOCHROME1"),
    ],
)
def test_numbers_of_another_meaning_are_warned_of(changes, said, tmp_path, voxels, caplog):
    read_dicom(save_series(tmp_path / "A", voxels, **changes), "A")
    assert said in caplog.text


@pytest.mark.parametrize("unit", ["HU", "US", None])
def test_hounsfield_units_are_not_warned_of(unit, tmp_path, voxels, caplog):
    read_dicom(save_series(tmp_path / "A", voxels, RescaleType=unit or ""), "A")
    assert not caplog.messages


def test_phases_at_the_same_places(tmp_path, voxels):
    for phase in (1, 2):
        save_series(tmp_path / "A", voxels, first=100 * phase, AcquisitionNumber=phase)
    assert "2 phases lie in one another, AcquisitionNumber 1 (12 images), 2 (12 images)" in error_of(tmp_path / "A")


def test_phases_between_each_other(tmp_path, voxels):
    for phase in (0, 1):
        places = [[0, 0, 5.0 * k + 2.5 * phase] for k in range(SHAPE[2])]
        save_series(tmp_path / "A", voxels, places, first=100 * phase, AcquisitionNumber=phase + 1)
    assert "2 phases lie in one another" in error_of(tmp_path / "A")


def test_acquisitions_one_after_the_other_are_one_volume(tmp_path, voxels):
    for part in (0, 1):
        places = [[0, 0, 5.0 * (k + 12 * part)] for k in range(SHAPE[2])]
        save_series(tmp_path / "A", voxels, places, first=100 * part, AcquisitionNumber=part + 1)
    assert read_dicom_header(tmp_path / "A", "A").shape == (7, 6, 24)


def beside(series, modality, kind, **changes):
    """An object of the same study that is no scan."""
    tags = slice_of(
        np.zeros((7, 6)), [0, 0, 0], series, SeriesInstanceUID=f"1.2.3.{series}", Modality=modality, **changes
    )
    tags.SOPClassUID = kind
    return tags


def test_what_belongs_to_a_scan_is_passed_over_in_its_folder(tmp_path, voxels, caplog):
    folder = save_series(tmp_path / "A", voxels)
    save_dicom(beside(5, "SEG", SEGMENTATION, NumberOfFrames=12), folder / "seg.dcm")
    save_dicom(beside(6, "RTSTRUCT", STRUCTURES, PixelData=None, ImagePositionPatient=None), folder / "rt.dcm")
    for number in (0, 1):
        localizer = beside(7, "CT", CTImageStorage, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
        save_dicom(localizer, folder / f"scout{number}.dcm")
    with caplog.at_level("INFO"):
        np.testing.assert_array_equal(read_dicom(folder, "A")[1], voxels)
    assert "passes over other series: 1 of RTSTRUCT, 1 of localizer, 1 of SEG" in caplog.text


def test_what_belongs_to_a_scan_is_passed_over_in_its_study(tmp_path, voxels, caplog):
    save_series(tmp_path / "patient" / "scan", voxels)
    save_dicom(beside(5, "SEG", SEGMENTATION, NumberOfFrames=12), tmp_path / "patient" / "seg" / "1-1.dcm")
    with caplog.at_level("INFO"):
        items = datalist(tmp_path, "optional")
    assert [item["case"] for item in items] == ["scan"]
    assert "passes over 1 others" in caplog.text


def test_a_pixel_size_of_zero(tmp_path, voxels):
    expected = "pixel size 0.0\\0.0, expected 2 lengths above 0"
    assert expected in error_of(save_series(tmp_path / "A", voxels, PixelSpacing=[0, 0]))


@pytest.mark.parametrize("text", ["1\\x\\3", "1\\2"])
def test_a_damaged_position(tmp_path, voxels, text):
    folder = save_series(tmp_path / "A", voxels)
    file = folder / "0003.dcm"
    content = file.read_bytes()
    file.write_bytes(content.replace(b"0\\0\\15", text.encode().ljust(6)))
    assert "position" in error_of(folder)
    assert "0003.dcm" in error_of(folder)


def test_the_locale_stays(tmp_path, voxels):
    before = locale.setlocale(locale.LC_ALL), locale.getpreferredencoding(False)
    read_dicom(save_series(tmp_path / "A", voxels), "A")
    assert (locale.setlocale(locale.LC_ALL), locale.getpreferredencoding(False)) == before
