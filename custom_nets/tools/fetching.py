"""Fetching a released bundle: whole and unaltered, or not at all."""

from __future__ import annotations

import hashlib
import re
import shutil
import stat
import tempfile
import urllib.request
import warnings
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import monai.bundle
from monai.apps.utils import HashCheckError, download_url
from packaging.version import InvalidVersion, Version

from custom_nets.errors import InputError
from custom_nets.io.files import parse_json_object
from custom_nets.tools.bundle_config import METADATA, read_metadata
from custom_nets.tools.packing import CHECKSUMS, MODEL_INFO

GITHUB_INFO = "https://raw.githubusercontent.com/{owner}/{name}/{tag}/"
GITHUB_FILES = "https://github.com/{owner}/{name}/releases/download/{tag}/"
_SECONDS = 30
_LARGEST_TABLE = 8 * 2**20  # bytes
_LONGEST_NAME = 200  # bytes; file systems take 255, and unpacking and setting aside make names longer


def fetch_bundle(
    name: str,
    source: str,
    bundle_dir: str | Path = ".",
    version: str | None = None,
    repo: str | None = None,
    progress: bool = True,
) -> tuple[Path, Path | None]:
    """Fetches a bundle of a release as `<bundle_dir>/<name>`; what is there stays until the new one is checked.

    Args:
        name: of the bundle.
        source: a folder, `file://` or `http(s)://` address that holds what `pack_bundle` wrote; or "github".
        bundle_dir: folder of all bundles.
        version: such as "0.1.0"; None takes the newest.
        repo: "owner/name/tag" of a GitHub release.
        progress: whether to show a progress bar.

    Returns:
        The bundle's folder; and where the bundle that was there before is kept, if it held files of the user's own
        (weights, results, changed configs), else None.

    Raises:
        InputError: when the source cannot be reached or does not have the bundle, or what it sends is damaged or no
            bundle; the bundle that was there is untouched then.
    """
    _check_name(name)
    folder = Path(bundle_dir).expanduser()
    for place in (folder, folder / name):
        if place.exists() and not place.is_dir():
            msg = f"{place}: a file is where a folder is needed; move it, or give another --bundle_dir"
            raise InputError(msg)
    info, files = _addresses(source, repo)
    entry, sha256 = _choose(name, version, _read_table(info + MODEL_INFO), info + MODEL_INFO)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=folder) as staging:
        archive = Path(staging) / f"{name}.zip"
        _download(f"{files}{entry}.zip", archive, sha256, progress)
        check_archive(archive, name)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="No hash value provided")  # checked above
            # Finds the archive there, unpacks it, and tells where it wants another MONAI.
            monai.bundle.download(name=name, url=archive.resolve().as_uri(), bundle_dir=staging, progress=False)
        return folder / name, _replace(folder / name, Path(staging) / name)


def _check_name(name: str) -> None:
    if not re.fullmatch(rf"[\w.-]{{1,{_LONGEST_NAME}}}", name) or name.startswith("."):
        msg = f"name is '{name[:_LONGEST_NAME]}'; expected the name of a bundle, such as ossnet_brats"
        raise InputError(msg)


def _addresses(source: str, repo: str | None) -> tuple[str, str]:
    """Returns the folders, as addresses that end with a slash, of the table and of the zip files."""
    if source == "github":
        parts = (repo or "").split("/")
        if len(parts) != 3 or not all(parts):
            msg = f"repo is {repo!r}; with --source github expected --repo OWNER/NAME/TAG"
            raise InputError(msg)
        names = dict(zip(("owner", "name", "tag"), parts, strict=True))
        return GITHUB_INFO.format(**names), GITHUB_FILES.format(**names)
    if "://" not in source:
        if not Path(source).expanduser().is_dir():
            msg = f"{source}: there is no such folder; give the folder or address of a release, or github with --repo"
            raise InputError(msg)
        source = Path(source).expanduser().resolve().as_uri()
    address = source.rstrip("/") + "/"
    return address, address


def _read_table(address: str) -> dict[str, Any]:
    try:
        with urllib.request.urlopen(address, timeout=_SECONDS) as answer:
            text = answer.read(_LARGEST_TABLE + 1)
    except OSError as error:
        msg = f"{address}: cannot be read ({error}); check the network, and that --source names a release"
        raise InputError(msg) from error
    if len(text) > _LARGEST_TABLE:
        msg = f"{address}: larger than {_LARGEST_TABLE // 2**20} MiB, no table of versions is; give another --source"
        raise InputError(msg)
    return parse_json_object(text, address, "give the address of a release")


def _choose(name: str, version: str | None, table: dict[str, Any], address: str) -> tuple[str, str]:
    """Returns the entry of the wanted or newest version, and its SHA-256."""
    versions = {entry.removeprefix(f"{name}_v"): entry for entry in table if entry.startswith(f"{name}_v")}
    if not versions or (version is not None and version not in versions):
        had = ", ".join(sorted(versions, key=_order)) or f"none of {name}, but {', '.join(table) or 'no bundle'}"
        wanted = name if version is None else f"{name} {version}"
        msg = f"{address}: has no {wanted} (it has {had}); give another version or name"
        raise InputError(msg)
    entry = versions[max(versions, key=_order) if version is None else version]
    facts = table[entry]
    sha256 = facts.get("sha256") if isinstance(facts, dict) else None
    if sha256 and not (isinstance(sha256, str) and re.fullmatch("[0-9a-fA-F]{64}", sha256)):
        msg = f"{address}: {entry} has '{str(sha256)[:80]}' for a SHA-256; tell who publishes it"
        raise InputError(msg)
    if not sha256:
        msg = f"{address}: gives no SHA-256 of {entry}; this release is not ours, use python -m monai.bundle download"
        raise InputError(msg)
    return entry, sha256


def _order(version: str) -> Version:
    """Versions in their order; as text 0.9.0 would come after 0.10.0."""
    try:
        return Version(version)
    except InvalidVersion:
        return Version("0")


def _download(address: str, archive: Path, sha256: str, progress: bool) -> None:
    try:
        download_url(address, archive, hash_val=sha256, hash_type="sha256", progress=progress)
    except HashCheckError as error:
        msg = f"{address}: damaged or altered, its SHA-256 is not {sha256}; try again, or tell who publishes it"
        raise InputError(msg) from error
    except (OSError, RuntimeError) as error:
        msg = f"{address}: cannot be downloaded ({error}); check the network and the free space, and try again"
        raise InputError(msg) from error


def check_archive(archive: Path, name: str) -> None:
    """Checks that a zip file is whole, and that all it holds goes to the one folder `name`.

    Raises:
        InputError: when it does not.
    """
    try:
        with zipfile.ZipFile(archive) as content:
            members = content.infolist()
            _check_room(archive, sum(member.file_size for member in members))
            damaged = content.testzip()
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        msg = f"{archive.name}: no whole zip file ({error}); it was cut short or is something else, fetch it again"
        raise InputError(msg) from error
    if damaged:
        msg = f"{archive.name}: {damaged} is damaged; fetch it again"
        raise InputError(msg)
    for member in members:
        path = PurePosixPath(member.filename.replace("\\", "/"))
        if any(len(part.encode()) > _LONGEST_NAME for part in path.parts):
            msg = f"{archive.name}: holds a name of more than {_LONGEST_NAME} bytes; do not use this file"
            raise InputError(msg)
        if path.parts[:1] != (name,) or ".." in path.parts or stat.S_ISLNK(member.external_attr >> 16):
            msg = f"{archive.name}: holds {member.filename}, which leads out of the folder {name}; do not use this file"
            raise InputError(msg)
    if f"{name}/{METADATA}" not in {member.filename for member in members}:
        msg = f"{archive.name}: lacks {name}/{METADATA}; expected a bundle"
        raise InputError(msg)


def _check_room(archive: Path, size: int) -> None:
    free = shutil.disk_usage(archive.parent).free
    if size > free:
        msg = f"{archive.name}: it unpacks to {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free; make room first"
        raise InputError(msg)


def _replace(target: Path, new: Path) -> Path | None:
    """Puts a new bundle in place; the old one is kept aside where it holds files of the user's own."""
    if not target.exists():
        new.rename(target)
        return None
    kept = _aside(target) if own_files(target) else new.parent / "old"  # the latter goes with the staging folder
    target.rename(kept)
    try:
        new.rename(target)
    except OSError:
        kept.rename(target)
        raise
    return kept if kept.parent == target.parent else None


def _aside(target: Path) -> Path:
    try:
        version = str(read_metadata(target).get("version", "unknown"))
    except InputError:
        version = "unknown"
    names = [f"{target.name}_v{version}", *(f"{target.name}_v{version}_{number}" for number in range(2, 1000))]
    return next(target.parent / name for name in names if not (target.parent / name).exists())


def own_files(bundle: Path) -> list[str]:
    """Returns the files of a fetched bundle that its release did not bring, or brought otherwise."""
    sums = bundle / CHECKSUMS
    lines = sums.read_text(encoding="utf-8").splitlines() if sums.is_file() else []
    released = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    found = (path for path in bundle.rglob("*") if path.is_file() and path != sums and "__pycache__" not in path.parts)
    names = {path.relative_to(bundle).as_posix(): path for path in found}
    return sorted(
        name for name, path in names.items() if released.get(name) != hashlib.sha256(path.read_bytes()).hexdigest()
    )
