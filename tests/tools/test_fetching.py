"""Fetching a bundle from a folder, a server, a GitHub-style release; and what never replaces the one that is there."""

import functools
import hashlib
import http.server
import json
import shutil
import stat
import threading
import zipfile
from pathlib import Path
from types import SimpleNamespace

import monai.bundle
import pytest

from custom_nets.errors import InputError
from custom_nets.tools import fetch_bundle, fetching, pack_bundle
from custom_nets.tools.fetching import check_archive, own_files
from tests.tools.conftest import copy_bundle


class _Quiet(http.server.SimpleHTTPRequestHandler):
    cut: str | None = None

    def log_message(self, *_args):
        pass

    def copyfile(self, source, outputfile):
        data = source.read()
        outputfile.write(data[: len(data) // 2] if self.path.endswith(str(self.cut)) else data)


def serve(folder: Path, handler=_Quiet):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_port}"


@pytest.fixture
def site(release, tmp_path):
    """The release on a web server: its folder (a copy, free to be spoilt) and address."""
    folder = tmp_path / "site"
    shutil.copytree(release, folder)
    server, address = serve(folder)
    yield folder, address
    server.shutdown()
    server.server_close()


def enter(folder: Path, name: str, data: bytes) -> None:
    """Puts a file into a release as if it had been packed."""
    (folder / f"{name}.zip").write_bytes(data)
    table = folder / "models" / "model_info.json"
    entry = {"sha256": hashlib.sha256(data).hexdigest(), "checksum": "", "source": f"{name}.zip"}
    table.write_text(json.dumps({**json.loads(table.read_text()), name: entry}))


def newer(tmp_path: Path, folder: Path, version: str, **files: str) -> None:
    """Adds a newer version of ossnet_brats to a release."""
    bundle = copy_bundle("ossnet_brats", tmp_path / version)
    metadata = bundle / "configs" / "metadata.json"
    content = json.loads(metadata.read_text())
    metadata.write_text(json.dumps({**content, "version": version, "changelog": {version: "newer"}}))
    for name, text in files.items():
        (bundle / "docs" / name).write_text(text)
    pack_bundle(bundle, folder)


def version_of(bundle: Path) -> str:
    return json.loads((bundle / "configs" / "metadata.json").read_text())["version"]


@pytest.mark.parametrize("kind", ["folder", "file", "http"])
def test_a_bundle_is_fetched_from_a_folder_or_server(site, tmp_path, kind):
    folder, address = site
    source = {"folder": str(folder), "file": folder.as_uri(), "http": address}[kind]
    bundle, kept = fetch_bundle("nvnet_brats", source, tmp_path / "bundles", progress=False)
    assert kept is None
    assert version_of(bundle) == "0.1.0"
    assert own_files(bundle) == []
    assert [path.name for path in (tmp_path / "bundles").iterdir()] == ["nvnet_brats"]


def test_a_folder_may_be_named_from_where_one_is(release, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder, _ = fetch_bundle("ossnet_brats", str(release), "here")
    assert folder.resolve() == tmp_path / "here" / "ossnet_brats"


def test_a_release_on_github_is_read_where_github_puts_it(release, tmp_path, monkeypatch):
    """The table at the tag of the repository, the zip among the files of the release."""
    raw, files = tmp_path / "raw" / "me" / "nets" / "v1", tmp_path / "files" / "me" / "nets" / "v1"
    shutil.copytree(release / "models", raw / "models")
    files.mkdir(parents=True)
    shutil.copy(release / "ossnet_lits_v0.1.0.zip", files)
    server, address = serve(tmp_path)
    monkeypatch.setattr(fetching, "GITHUB_INFO", address + "/raw/{owner}/{name}/{tag}/")
    monkeypatch.setattr(fetching, "GITHUB_FILES", address + "/files/{owner}/{name}/{tag}/")
    bundle, _ = fetch_bundle("ossnet_lits", "github", tmp_path / "b", repo="me/nets/v1", progress=False)
    server.shutdown()
    server.server_close()
    assert version_of(bundle) == "0.1.0"


def test_monais_own_download_takes_the_zip(site, tmp_path):
    _, address = site
    url = f"{address}/ossnet_brats_v0.1.0.zip"
    monai.bundle.download(name="ossnet_brats", url=url, bundle_dir=str(tmp_path), progress=False)
    assert version_of(tmp_path / "ossnet_brats") == "0.1.0"


def test_monais_own_download_understands_our_table(site, monkeypatch):
    """With source github and no version MONAI reads the table at the tag for the newest one."""
    from monai.bundle import scripts

    folder, _ = site
    text = (folder / "models" / "model_info.json").read_text()

    class _Answer:
        def __init__(self) -> None:
            self.text = text

        def raise_for_status(self) -> None:
            pass

    monkeypatch.setattr(scripts.requests, "get", lambda *_args, **_kwargs: _Answer())
    info = monai.bundle.get_bundle_info("ossnet_brats", repo="me/nets", tag="v1")
    assert info["name"] == "ossnet_brats_v0.1.0"


def test_the_newest_version_is_the_newest_number(site, tmp_path):
    """As text 0.9.0 comes after 0.10.0."""
    folder, address = site
    for version in ("0.9.0", "0.10.0"):
        newer(tmp_path, folder, version)
    bundle, _ = fetch_bundle("ossnet_brats", address, tmp_path / "b", progress=False)
    assert version_of(bundle) == "0.10.0"
    bundle, _ = fetch_bundle("ossnet_brats", address, tmp_path / "b", version="0.9.0", progress=False)
    assert version_of(bundle) == "0.9.0"


def test_an_older_version_leaves_no_file_behind(site, tmp_path):
    folder, address = site
    newer(tmp_path, folder, "0.2.0", **{"old_only.md": "gone later"})
    bundle, _ = fetch_bundle("ossnet_brats", address, tmp_path / "b", progress=False)
    assert (bundle / "docs" / "old_only.md").is_file()
    (bundle / "custom_nets" / "__pycache__").mkdir()
    (bundle / "custom_nets" / "__pycache__" / "cli.pyc").write_bytes(b"")
    bundle, kept = fetch_bundle("ossnet_brats", address, tmp_path / "b", version="0.1.0", progress=False)
    assert kept is None
    assert not (bundle / "docs" / "old_only.md").exists()
    assert not (bundle / "custom_nets" / "__pycache__").exists()


@pytest.mark.parametrize("own", ["models/checkpoint_last.pt", "configs/train.json"])
def test_files_of_the_users_own_are_kept(site, tmp_path, own):
    _, address = site
    bundle, _ = fetch_bundle("ossnet_brats", address, tmp_path / "b", progress=False)
    (bundle / own).write_text("mine")
    again, kept = fetch_bundle("ossnet_brats", address, tmp_path / "b", progress=False)
    assert kept == tmp_path / "b" / "ossnet_brats_v0.1.0"
    assert (kept / own).read_text() == "mine"
    assert own_files(again) == []


@pytest.mark.parametrize("damage", ["altered", "truncated", "absent"])
def test_a_broken_download_leaves_the_old_bundle(site, tmp_path, damage, monkeypatch):
    folder, address = site
    bundle, _ = fetch_bundle("ossnet_brats", address, tmp_path / "b", progress=False)
    archive = folder / "ossnet_brats_v0.1.0.zip"
    data = bytearray(archive.read_bytes())
    if damage == "altered":
        data[len(data) // 2] ^= 1
        archive.write_bytes(data)
    elif damage == "truncated":
        monkeypatch.setattr(_Quiet, "cut", archive.name)
    else:
        archive.unlink()
    before = own_files(bundle)
    with pytest.raises(
        InputError, match=r"ossnet_brats_v0\.1\.0\.zip: (damaged or altered|cannot be downloaded)"
    ) as error:
        fetch_bundle("ossnet_brats", address, tmp_path / "b", progress=False)
    assert "\n" not in str(error.value)
    assert own_files(bundle) == before == []
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["ossnet_brats"]


def make_zip(path: Path, members: dict[str, bytes], link: str | None = None) -> bytes:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
        if link:
            info = zipfile.ZipInfo(link)
            info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
            archive.writestr(info, "/etc/passwd")
    return path.read_bytes()


GOOD = {"x/configs/metadata.json": b'{"version": "1"}'}


@pytest.mark.parametrize(
    ("members", "link"),
    [
        ({**GOOD, "../out.txt": b""}, None),
        ({**GOOD, "x/../../out.txt": b""}, None),
        ({**GOOD, "/tmp/out.txt": b""}, None),
        ({**GOOD, "x\\..\\..\\out.txt": b""}, None),
        ({**GOOD, "y/out.txt": b""}, None),
        (GOOD, "x/link"),
    ],
)
def test_what_leads_out_of_the_folder_is_refused(site, tmp_path, members, link):
    folder, address = site
    enter(folder, "x_v1", make_zip(tmp_path / "x.zip", members, link))
    with pytest.raises(InputError, match="leads out of the folder x"):
        fetch_bundle("x", address, tmp_path / "b", progress=False)
    assert list((tmp_path / "b").iterdir()) == []


def test_a_zip_that_is_no_bundle_or_no_zip_is_refused(tmp_path):
    make_zip(tmp_path / "x.zip", {"x/readme.txt": b""})
    with pytest.raises(InputError, match=r"lacks x/configs/metadata\.json"):
        check_archive(tmp_path / "x.zip", "x")
    (tmp_path / "x.zip").write_bytes(b"<html>")
    with pytest.raises(InputError, match="no whole zip file"):
        check_archive(tmp_path / "x.zip", "x")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "nonet"}, "has no nonet"),
        ({"version": "9.9.9"}, r"has no ossnet_brats 9\.9\.9 \(it has 0\.1\.0\)"),
        ({"source": "no/such/folder"}, "there is no such folder"),
        ({"source": "http://127.0.0.1:9/"}, "cannot be read"),
        ({"source": "github"}, "expected --repo OWNER/NAME/TAG"),
    ],
)
def test_what_cannot_be_fetched_is_told_in_one_line(release, tmp_path, options, message):
    arguments = {"name": "ossnet_brats", "source": str(release), "bundle_dir": tmp_path, "progress": False, **options}
    with pytest.raises(InputError, match=message) as error:
        fetch_bundle(**arguments)
    assert "\n" not in str(error.value)


def test_a_release_without_hashes_is_refused(site, tmp_path):
    folder, address = site
    table = folder / "models" / "model_info.json"
    table.write_text(json.dumps({"ossnet_brats_v0.1.0": {"checksum": "", "source": ""}}))
    with pytest.raises(InputError, match="gives no SHA-256"):
        fetch_bundle("ossnet_brats", address, tmp_path, progress=False)


def table_of(folder, **entry):
    (folder / "models").mkdir()
    (folder / "models" / "model_info.json").write_text(json.dumps({"x_v0.1.0": entry.get("entry", entry)}))


@pytest.mark.parametrize(
    ("entry", "line"),
    [
        ({"sha256": 5}, "has '5' for a SHA-256"),
        ({"sha256": ["a"]}, "for a SHA-256"),
        ({"sha256": "a" * 63}, "for a SHA-256"),
        ({"entry": [1]}, "gives no SHA-256"),
        ({"entry": "text"}, "gives no SHA-256"),
        ({"entry": None}, "gives no SHA-256"),
    ],
)
def test_an_entry_of_another_type_is_told(tmp_path, entry, line):
    table_of(tmp_path, **entry)
    with pytest.raises(InputError, match=line):
        fetch_bundle("x", str(tmp_path), tmp_path / "there", progress=False)
    assert not (tmp_path / "there").exists()


@pytest.mark.parametrize("name", ["a" * 300, "a/b", "../a", "", ".hidden", "a\nb"])
def test_a_name_that_is_none_is_told(tmp_path, name):
    with pytest.raises(InputError, match="expected the name of a bundle"):
        fetch_bundle(name, str(tmp_path), tmp_path / "there", progress=False)


@pytest.mark.parametrize("place", ["there", "there/x"])
def test_a_file_in_place_of_a_folder_is_told(tmp_path, place):
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text("mine")
    with pytest.raises(InputError, match="a file is where a folder is needed"):
        fetch_bundle("x", str(tmp_path), tmp_path / "there", progress=False)
    assert (tmp_path / place).read_text() == "mine"


def test_a_table_without_end_is_not_read(tmp_path):
    (tmp_path / "models").mkdir()
    with (tmp_path / "models" / "model_info.json").open("wb") as file:
        file.truncate(2**30)  # holds nothing on the disk
    with pytest.raises(InputError, match="larger than 8 MiB"):
        fetch_bundle("x", str(tmp_path), tmp_path / "there", progress=False)


def test_an_archive_that_outgrows_the_disk_is_not_unpacked(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("x/configs/metadata.json", "{}" + " " * 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(InputError, match="make room first"):
        fetching.check_archive(tmp_path / "x.zip", "x")
