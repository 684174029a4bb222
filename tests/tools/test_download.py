"""The Decathlon is fetched once, and what fails says what to do. No network: the server is a folder."""

import hashlib
import json
import tarfile

import pytest
from monai.apps import DecathlonDataset

from custom_nets.errors import InputError
from custom_nets.tools.download import download_msd

TASK = "Task01_BrainTumour"
LISTED = {"training": [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}], "test": []}


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A tiny archive in place of the Decathlon's."""
    source = tmp_path / "source" / TASK
    for folder in ("imagesTr", "labelsTr"):
        (source / folder).mkdir(parents=True)
        (source / folder / "a.nii.gz").touch()
    (source / "dataset.json").write_text(json.dumps(LISTED))
    archive = tmp_path / f"{TASK}.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(source, TASK)
    monkeypatch.setitem(DecathlonDataset.resource, TASK, archive.as_uri())
    monkeypatch.setitem(DecathlonDataset.md5, TASK, hashlib.md5(archive.read_bytes()).hexdigest())
    return archive


def fetch(directory):
    return download_msd(TASK, directory, progress=False)


def test_data_set_is_unpacked(server, tmp_path):
    assert (fetch(tmp_path / "data") / "imagesTr" / "a.nii.gz").is_file()


def test_second_call_needs_neither_network_nor_archive(server, tmp_path):
    folder = fetch(tmp_path / "data")
    server.unlink()
    (tmp_path / "data" / f"{TASK}.tar").unlink()
    assert fetch(tmp_path / "data") == folder


def test_archive_brought_by_hand(server, tmp_path):
    (tmp_path / "data").mkdir()
    server.rename(tmp_path / "data" / f"{TASK}.tar")
    assert (fetch(tmp_path / "data") / "dataset.json").is_file()


def test_no_network(tmp_path, monkeypatch):
    monkeypatch.setitem(DecathlonDataset.resource, TASK, (tmp_path / "nowhere.tar").as_uri())
    with pytest.raises(
        InputError, match=rf"cannot be downloaded from .*; check the network, .* put it at .*{TASK}.tar"
    ):
        fetch(tmp_path)


def test_damaged_archive(server, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / f"{TASK}.tar").write_bytes(b"half")
    with pytest.raises(InputError, match=r"damaged, its MD5 is not .*; delete it"):
        fetch(tmp_path / "data")


def test_interrupted_unpacking(server, tmp_path):
    (fetch(tmp_path / "data") / "labelsTr" / "a.nii.gz").unlink()
    with pytest.raises(InputError, match=r"incomplete, ./labelsTr/a.nii.gz is missing .*delete this folder"):
        fetch(tmp_path / "data")


def test_unknown_task(tmp_path):
    with pytest.raises(InputError, match="task 'brain' is unknown; expected one of Task01_BrainTumour"):
        download_msd("brain", tmp_path)
