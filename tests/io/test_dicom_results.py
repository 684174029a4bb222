"""Label maps as DICOM SEG and RT Structure Set lie on the scan to the voxel, whatever its geometry."""

import nibabel as nib
import numpy as np
import pytest

from custom_nets.datasets.record import get_record
from custom_nets.datasets.terms import region_segments
from custom_nets.errors import InputError
from custom_nets.io.dicom import read_series
from custom_nets.io.dicom_results import Algorithm, DicomResult
from custom_nets.io.dicom_rtstruct import outlines, write_rtstruct
from custom_nets.io.dicom_seg import write_seg
from custom_nets.tools.dicom_results import convert_to_dicom

pydicom = pytest.importorskip("pydicom")
highdicom = pytest.importorskip("highdicom")
path_of = pytest.importorskip("matplotlib.path").Path
from pydicom.dataset import Dataset  # noqa: E402
from pydicom.uid import CTImageStorage, MRImageStorage  # noqa: E402

from tests.dicom_files import changed, save_dicom  # noqa: E402

SHAPE = (34, 28, 11)
LIVER = region_segments(get_record("lits"))
ALGORITHM = Algorithm("A network", "1.2.3")
SPACING = np.array([0.7, 0.9, 2.5])


def turned(angles):
    """A rotation about x, then about z."""
    (a, b), (c, d) = np.cos(angles), np.sin(angles)
    return np.array([[b, -d, 0], [d, b, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, a, -c], [0, c, a]])


def grid(rotation, shear=0.0):
    """Voxels to LPS millimetres; a tilted gantry shifts each slice along the columns."""
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = rotation * SPACING, (-31.25, 12.125, -640.5)
    affine[:3, 2] += shear * affine[:3, 1]
    return affine


GRIDS = {
    "axial": grid(np.eye(3)),
    "oblique": grid(turned([0.3, 0.2])),
    "tilted": grid(np.eye(3), shear=0.6),
    "tilted_oblique": grid(turned([0.1, -0.4]), shear=-0.5),
}


def write_scan(folder, affine, modality="CT", shape=SHAPE, **changes):
    """Writes the slices of a scan under names in another order."""
    folder.mkdir(parents=True)
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    names = np.random.default_rng(3).permutation(shape[2])
    for index in range(shape[2]):
        tags = Dataset()
        tags.SOPClassUID = CTImageStorage if modality == "CT" else MRImageStorage
        tags.SOPInstanceUID, tags.Modality, tags.SpecificCharacterSet = f"1.2.3.4.{index + 1}", modality, "ISO_IR 100"
        tags.StudyInstanceUID, tags.SeriesInstanceUID, tags.FrameOfReferenceUID = "1.2.3", "1.2.3.4", "1.2.3.9"
        tags.PatientName, tags.PatientID, tags.PatientSex = "Müller^Jörg", "P7", "M"
        tags.StudyDate, tags.SeriesNumber = "20260102", 4
        tags.ImagePositionPatient = [f"{value:.10g}" for value in affine[:3] @ [0, 0, index, 1]]
        tags.ImageOrientationPatient = [f"{value:.12f}"[:16] for value in (affine[:3, :2] / sizes[:2]).T.ravel()]
        tags.PixelSpacing = [f"{size:.10g}" for size in sizes[1::-1]]
        tags.Columns, tags.Rows = shape[:2]
        tags.SamplesPerPixel, tags.PhotometricInterpretation = 1, "MONOCHROME2"
        tags.BitsAllocated, tags.BitsStored, tags.HighBit, tags.PixelRepresentation = 16, 16, 15, 1
        tags.RescaleSlope, tags.RescaleIntercept = 1, 0
        tags.PixelData = np.full(shape[1::-1], index, "<i2").tobytes()
        save_dicom(changed(tags, changes), folder / f"{names[index]:03}.dcm")
    return folder


@pytest.fixture(scope="module")
def labels():
    """A liver with a hole, tumours (one of a single voxel) and a part at the edge of the volume."""
    x, y, z = np.meshgrid(*(np.arange(side) - side / 2 for side in SHAPE), indexing="ij")
    found = ((x / 14) ** 2 + (y / 12) ** 2 + (z / 5) ** 2 < 1).astype(np.uint8)
    found[(x / 5) ** 2 + ((y - 4) / 4) ** 2 + (z / 4) ** 2 < 1] = 2
    found[((x + 9) / 3) ** 2 + (y / 3) ** 2 + (z / 3) ** 2 < 1] = 0
    found[:3, :2, 5:8] = 1
    found[26, 10, 4] = 2
    return found


@pytest.fixture(scope="module", params=GRIDS)
def scan(request, tmp_path_factory):
    affine = GRIDS[request.param]
    return write_scan(tmp_path_factory.mktemp(request.param) / "scan", affine), affine


def voxels_of_frames(content, affine):
    """The segments of a SEG, each frame placed by its own position: an array a segment, and the worst distance (mm)."""
    found, worst = np.zeros((len(content.SegmentSequence), *SHAPE), bool), 0.0
    shared = content.SharedFunctionalGroupsSequence[0]
    cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
    rows, columns = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    frames = content.pixel_array.reshape(-1, content.Rows, content.Columns)
    for plane, groups in zip(frames, content.PerFrameFunctionalGroupsSequence, strict=True):
        corner = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, float)
        j, i = np.nonzero(plane)
        places = corner + i[:, None] * columns * cosines[0] + j[:, None] * rows * cosines[1]
        indices = (np.linalg.inv(affine) @ np.c_[places, np.ones(len(places))].T)[:3].T
        nearest = indices.round().astype(int)
        if len(indices):
            worst = max(worst, np.linalg.norm((indices - nearest) @ affine[:3, :3].T, axis=1).max())
        number = groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        found[(number - 1, *nearest.T)] = True
    return found, worst


def rasterised(content, series):
    """The structures of an RTSTRUCT: which centres of voxels lie within the contours of their slice."""
    slices = {pydicom.dcmread(file).SOPInstanceUID: (z, pydicom.dcmread(file)) for z, file in enumerate(series.files)}
    centres = np.stack(np.meshgrid(*map(np.arange, SHAPE[:2]), indexing="ij"), -1).reshape(-1, 2)
    found, farthest = np.zeros((len(content.ROIContourSequence), *SHAPE), bool), 0.0
    for structure, roi in zip(found, content.ROIContourSequence, strict=True):
        for contour in roi.get("ContourSequence", ()):
            z, source = slices[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
            points = np.array(contour.ContourData, float).reshape(-1, 3) - np.array(source.ImagePositionPatient, float)
            assert len(points) == contour.NumberOfContourPoints >= 3
            cosines = np.array(source.ImageOrientationPatient, float).reshape(2, 3)
            farthest = max(farthest, np.abs(points @ np.cross(*cosines)).max())
            outline = points @ cosines.T / np.array(source.PixelSpacing, float)[::-1]
            structure[..., z] ^= path_of(outline).contains_points(centres).reshape(SHAPE[:2])
    return found, farthest


class TestSeg:
    @pytest.fixture(scope="class")
    @staticmethod
    def written(scan, labels, tmp_path_factory):
        folder, affine = scan
        file = tmp_path_factory.mktemp("seg") / "a_seg.dcm"
        write_seg(file, DicomResult(labels, LIVER, read_series(folder, "a"), ALGORITHM, "a"))
        return file, folder, affine

    def test_each_voxel_is_where_it_was(self, written, labels):
        file, _, affine = written
        found, apart = voxels_of_frames(pydicom.dcmread(file), affine)
        np.testing.assert_array_equal(found, [labels > 0, labels == 2])
        assert apart < 1e-6

    def test_highdicom_finds_the_segments_on_the_slices_of_the_scan(self, written, labels):
        file, folder, _ = written
        instances = [pydicom.dcmread(one).SOPInstanceUID for one in read_series(folder, "a").files]
        content = highdicom.seg.segread(file)
        frames = content.get_pixels_by_source_instance(instances, ignore_spatial_locations=True)
        np.testing.assert_array_equal(frames.transpose(3, 2, 1, 0), [labels > 0, labels == 2])

    def test_names_codes_colours_and_algorithm(self, written):
        content = pydicom.dcmread(written[0])
        liver, tumour = content.SegmentSequence
        assert [liver.SegmentLabel, tumour.SegmentLabel] == ["liver", "tumour"]
        assert liver.SegmentedPropertyTypeCodeSequence[0].CodeValue == "10200004"
        assert tumour.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"
        assert tumour.AnatomicRegionSequence[0].CodeMeaning == "Liver"
        assert tumour.SegmentAlgorithmType == "AUTOMATIC"
        named = tumour.SegmentationAlgorithmIdentificationSequence[0]
        assert (named.AlgorithmName, named.AlgorithmVersion) == ALGORITHM
        colour = highdicom.color.CIELabColor.from_dicom_value(tuple(tumour.RecommendedDisplayCIELabValue))
        np.testing.assert_allclose(colour.to_rgb(), LIVER[1].colour, atol=1)
        assert content.SegmentsOverlap == "YES"

    def test_patient_study_and_references_are_those_of_the_scan(self, written):
        content = pydicom.dcmread(written[0])
        assert (content.PatientName, content.PatientID, content.StudyInstanceUID) == ("Müller^Jörg", "P7", "1.2.3")
        (series,) = content.ReferencedSeriesSequence
        assert series.SeriesInstanceUID == "1.2.3.4" != content.SeriesInstanceUID
        assert len(series.ReferencedInstanceSequence) == SHAPE[2]
        assert content.FrameOfReferenceUID == "1.2.3.9"


class TestRtStruct:
    @pytest.fixture(scope="class")
    @staticmethod
    def written(scan, labels, tmp_path_factory):
        file = tmp_path_factory.mktemp("rt") / "a_rtstruct.dcm"
        series = read_series(scan[0], "a")
        write_rtstruct(file, DicomResult(labels, LIVER, series, ALGORITHM, "a"))
        return pydicom.dcmread(file), series

    def test_rasterised_again_it_is_the_label_map(self, written, labels):
        found, from_plane = rasterised(*written)
        np.testing.assert_array_equal(found, [labels > 0, labels == 2])
        assert from_plane < 2e-6  # six decimals are written

    def test_names_codes_colours_and_references(self, written):
        content, _ = written
        assert [roi.ROIName for roi in content.StructureSetROISequence] == ["liver", "tumour"]
        assert [tuple(roi.ROIDisplayColor) for roi in content.ROIContourSequence] == [each.colour for each in LIVER]
        codes = [entry.RTROIIdentificationCodeSequence[0] for entry in content.RTROIObservationsSequence]
        assert [code.CodeValue for code in codes] == ["10200004", "108369006"]
        assert content.PatientName == "Müller^Jörg"
        (frame,) = content.ReferencedFrameOfReferenceSequence
        (series,) = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence
        assert (frame.FrameOfReferenceUID, series.SeriesInstanceUID) == ("1.2.3.9", "1.2.3.4")
        assert len(series.ContourImageSequence) == SHAPE[2]
        assert content.SoftwareVersions == "1.2.3"


def test_a_contour_of_more_than_64_kib(tmp_path):
    """As no element of explicit type could hold it."""
    shape = (100, 90, 2)
    series = read_series(write_scan(tmp_path / "scan", GRIDS["oblique"], shape=shape), "a")
    comb = np.zeros(shape, np.uint8)
    comb[::2, 1:, 0] = comb[:, 0, 0] = 1
    comb[1::4, 2::2, 0] = 1
    write_rtstruct(tmp_path / "a.dcm", DicomResult(comb, LIVER, series, ALGORITHM, "a"))
    content = pydicom.dcmread(tmp_path / "a.dcm")
    contours = content.ROIContourSequence[0].ContourSequence
    assert max(len(str(contour.ContourData)) for contour in contours) > 65536
    centres = np.stack(np.meshgrid(*map(np.arange, shape[:2]), indexing="ij"), -1).reshape(-1, 2)
    found = np.zeros(shape[:2], bool)
    to_voxels = np.linalg.inv(GRIDS["oblique"])
    for contour in contours:
        points = np.array(contour.ContourData, float).reshape(-1, 3) @ to_voxels[:3, :3].T + to_voxels[:3, 3]
        found ^= path_of(points[:, :2]).contains_points(centres).reshape(found.shape)
    np.testing.assert_array_equal(found, comb[..., 0])


def test_nothing_found(tmp_path, labels, caplog):
    series = read_series(write_scan(tmp_path / "scan", GRIDS["axial"]), "a")
    write_seg(tmp_path / "a_seg.dcm", DicomResult(0 * labels, LIVER, series, ALGORITHM, "a"))
    write_rtstruct(tmp_path / "a_rtstruct.dcm", DicomResult(0 * labels, LIVER, series, ALGORITHM, "a"))
    content = pydicom.dcmread(tmp_path / "a_seg.dcm")
    assert len(content.SegmentSequence) == 2
    assert not content.pixel_array.any()
    rois = pydicom.dcmread(tmp_path / "a_rtstruct.dcm").ROIContourSequence
    assert [("ContourSequence" in roi) for roi in rois] == [False, False]
    assert not caplog.records


def test_outlines_of_noise_hold_its_voxels():
    """Single voxels, corners that touch, holes within holes."""
    centres = np.stack(np.meshgrid(np.arange(12), np.arange(9), indexing="ij"), -1).reshape(-1, 2)
    for seed in range(50):
        random = np.random.default_rng(seed)
        mask = random.random((12, 9)) < random.uniform(0.2, 0.8)
        found = np.zeros((12, 9), bool)
        for ring in outlines(mask):
            found ^= path_of(ring).contains_points(centres).reshape(12, 9)
        np.testing.assert_array_equal(found, mask)


@pytest.mark.parametrize("write", [write_seg, write_rtstruct])
class TestDamagedHeaders:
    def test_no_frame_of_reference(self, write, labels, tmp_path):
        folder = write_scan(tmp_path / "scan", GRIDS["axial"], FrameOfReferenceUID=None)
        with pytest.raises(InputError, match=r"case a, file .*has no FrameOfReferenceUID"):
            write(tmp_path / "a.dcm", DicomResult(labels, LIVER, read_series(folder, "a"), ALGORITHM, "a"))
        assert not (tmp_path / "a.dcm").exists()

    def test_what_an_anonymised_scan_lacks_is_empty(self, write, labels, tmp_path):
        gone = dict.fromkeys(["PatientName", "PatientID", "PatientSex", "StudyDate", "SeriesNumber"])
        folder = write_scan(tmp_path / "scan", GRIDS["axial"], **gone)
        write(tmp_path / "a.dcm", DicomResult(labels, LIVER, read_series(folder, "a"), ALGORITHM, "a"))
        assert pydicom.dcmread(tmp_path / "a.dcm").PatientName == ""

    def test_a_value_beyond_the_standard_is_one_line(self, write, labels, tmp_path):
        if write is write_rtstruct:
            pytest.skip("what patient and study have is copied as it is")
        folder = write_scan(tmp_path / "scan", GRIDS["axial"], PatientSex="Q")
        with pytest.raises(InputError, match=r"case a, folder .*do not allow a DICOM result \(.*Q.*\)") as error:
            write(tmp_path / "a.dcm", DicomResult(labels, LIVER, read_series(folder, "a"), ALGORITHM, "a"))
        assert "\n" not in str(error.value)


class TestConvert:
    """The verb: a label map as NIfTI and the folder of a series."""

    @pytest.fixture
    def folder(self, tmp_path):
        return write_scan(tmp_path / "scan", GRIDS["oblique"], "MR", RescaleSlope=None)

    @staticmethod
    def save(labels, affine, path):
        nib.save(nib.Nifti1Image(labels, np.diag([-1.0, -1, 1, 1]) @ affine), path)
        return path

    def test_axes_in_another_order_and_direction(self, folder, labels, tmp_path):
        """As dcm2niix turns the columns, and other programs the axes."""
        affine = GRIDS["oblique"]
        turn = np.array([[0, 0, -1, SHAPE[0] - 1], [0, -1, 0, SHAPE[1] - 1], [1, 0, 0, 0], [0, 0, 0, 1]])
        result = self.save(labels.transpose(2, 1, 0)[:, ::-1, ::-1], affine @ turn, tmp_path / "a_prediction.nii.gz")
        lines = convert_to_dicom(result, folder, tmp_path / "out", dataset="lits")
        assert [line.split("/")[-1] for line in lines[:2]] == ["a_seg.dcm", "a_rtstruct.dcm"]
        found, apart = voxels_of_frames(pydicom.dcmread(tmp_path / "out" / "a_seg.dcm"), affine)
        np.testing.assert_array_equal(found, [labels > 0, labels == 2])
        assert apart < 1e-6
        ml = np.count_nonzero(labels) * np.prod(SPACING) / 1000
        assert lines[2] == f"liver: {ml:.2f} ml"

    def test_another_grid_is_refused(self, folder, labels, tmp_path):
        moved = GRIDS["oblique"].copy()
        moved[:3, 3] += 5
        result = self.save(labels, moved, tmp_path / "a.nii.gz")
        with pytest.raises(InputError, match=r"its corners up to 8\.7 mm away: they lie on different grids"):
            convert_to_dicom(result, folder, tmp_path / "out", dataset="lits")
        assert not (tmp_path / "out").exists()

    def test_on_request_it_is_resampled(self, folder, labels, tmp_path):
        fine = GRIDS["oblique"] @ np.diag([0.5, 0.5, 0.5, 1])
        fine[:3, 3] -= fine[:3, :3] @ [0.5, 0.5, 0.5]
        doubled = labels.repeat(2, 0).repeat(2, 1).repeat(2, 2)
        result = self.save(doubled, fine, tmp_path / "a.nii.gz")
        convert_to_dicom(result, folder, tmp_path / "out", ["seg"], dataset="lits", resample=True)
        found, _ = voxels_of_frames(pydicom.dcmread(tmp_path / "out" / "a_seg.dcm"), GRIDS["oblique"])
        np.testing.assert_array_equal(found, [labels > 0, labels == 2])

    def test_numbers_as_they_are(self, folder, labels, tmp_path):
        result = self.save(labels, GRIDS["oblique"], tmp_path / "a.nii.gz")
        convert_to_dicom(result, folder, tmp_path, ["seg"], dataset="brats2018", parts="labels")
        content = pydicom.dcmread(tmp_path / "a_seg.dcm")
        names = [segment.SegmentLabel for segment in content.SegmentSequence]
        assert names == ["necrotic and non-enhancing core", "oedema", "enhancing tumour"]
        assert content.SegmentsOverlap == "NO"

    def test_without_a_record_numbers_have_private_codes(self, folder, labels, tmp_path):
        result = self.save(labels, GRIDS["oblique"], tmp_path / "a.nii.gz")
        convert_to_dicom(result, folder, tmp_path, ["seg"])
        first, _ = pydicom.dcmread(tmp_path / "a_seg.dcm").SegmentSequence
        code = first.SegmentedPropertyTypeCodeSequence[0]
        assert (code.CodeMeaning, code.CodingSchemeDesignator) == ("label 1", "99CUSTOMNETS")
        assert first.SegmentedPropertyCategoryCodeSequence[0].CodeMeaning == "Tissue"

    def test_a_number_that_the_record_lacks(self, folder, labels, tmp_path):
        result = self.save(np.where(labels == 2, 7, labels).astype(np.uint8), GRIDS["oblique"], tmp_path / "a.nii.gz")
        with pytest.raises(InputError, match="label numbers 7 are not in the record 'lits'"):
            convert_to_dicom(result, folder, tmp_path, dataset="lits")

    def test_what_is_no_label_map(self, folder, labels, tmp_path):
        result = self.save(labels / 3, GRIDS["oblique"], tmp_path / "a.nii.gz")
        with pytest.raises(InputError, match="expected a label map"):
            convert_to_dicom(result, folder, tmp_path, dataset="lits")
