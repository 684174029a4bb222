"""A bundle as one zip file, as MONAI's model zoo hands them out: reproducible, with the code that its configs name."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

from monai.bundle import ConfigParser

import custom_nets
from custom_nets.errors import InputError
from custom_nets.io.files import atomic_file, parse_json_object
from custom_nets.io.model_settings import same, take_over
from custom_nets.tools.bundle_checks import WEIGHTS, bundle_faults
from custom_nets.tools.bundle_config import read_metadata

CHECKSUMS = "SHA256SUMS"
"""File in every packed bundle, as `sha256sum --check` reads it."""

MODEL_INFO = "models/model_info.json"
"""File in which MONAI looks for the versions of a release, in the repository at its tag."""

_PATTERNS = ("configs/*", "docs/**/*", "models/model.pt", "models/model.ts", "LICENSE")
_NOT_RUN = {"tools", "__main__.py", "__pycache__"}  # no other room imports the tools, so no config can reach them
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip file can hold


def pack_bundle(bundle: str | Path, output: str | Path, untrained: bool = False, url: str = "") -> Path:
    """Packs a bundle as `<output>/<name>_v<version>.zip` and enters it into `<output>/models/model_info.json`.

    The zip holds one folder `<name>`: configs, documents, licence, weights (`model.pt`, `model.ts`), what this package
    needs to run them, and `SHA256SUMS`. The keys that the model was trained with stand in the packed configs, for
    programs that read these alone (MONAI Label). The same content gives the same bytes. All bundles carry the same
    code: in one process, the first that is loaded serves the others.

    Args:
        bundle: folder of the bundle; its name is the bundle's name.
        output: folder of the release.
        untrained: whether the bundle may lack weights.
        url: address under which the zip will lie, without its name; "" writes the bare name.

    Returns:
        The zip file.

    Raises:
        InputError: when the bundle has faults, all of them named; nothing is written then.
    """
    folder = Path(bundle).expanduser().resolve()
    metadata = read_metadata(folder)
    faults = bundle_faults(folder, untrained)
    if faults:
        msg = "\n".join([f"{bundle}: cannot be packed:", *faults])
        raise InputError(msg)
    contents = _contents(folder)
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in contents.items())
    contents[CHECKSUMS] = sums.encode()
    entry = f"{folder.name}_v{metadata['version']}"
    target = Path(output).expanduser() / f"{entry}.zip"
    with atomic_file(target) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, data in sorted(contents.items()):
            info = zipfile.ZipInfo(f"{folder.name}/{name}", _EPOCH)
            info.create_system, info.external_attr = 3, 0o644 << 16  # as on Linux, wherever it is packed
            archive.writestr(info, data, zipfile.ZIP_DEFLATED, compresslevel=9)
    _enter(target, entry, url)
    return target


def _contents(folder: Path) -> dict[str, bytes]:
    """Returns the files of a packed bundle by their names in it, without the checksums."""
    found = {path.relative_to(folder): path for pattern in _PATTERNS for path in folder.glob(pattern) if path.is_file()}
    package = Path(custom_nets.__file__).parent
    parts = {path.relative_to(package.parent): path for path in package.rglob("*") if path.is_file()}
    found |= {name: path for name, path in parts.items() if not _NOT_RUN.intersection(name.parts)}
    contents = {path.as_posix(): found[path].read_bytes() for path in sorted(found)}
    return contents | {f"configs/{name}.json": _as_trained(folder, name) for name in ("train", "inference")}


def _as_trained(folder: Path, name: str) -> bytes:
    """Returns a config with the keys that the bundle's model was trained with."""
    file = folder / "configs" / f"{name}.json"
    config, parser = json.loads(file.read_bytes()), ConfigParser()
    parser.read_config(str(file))
    parser.update({"bundle_root": str(folder), "load_model": str(folder / WEIGHTS)})
    take_over(parser, (), file.parent)
    trained = {key: parser[key] for key in parser["model_keys"] if key in config and not same(parser[key], config[key])}
    return f"{json.dumps({**config, **trained}, indent=4)}\n".encode() if trained else file.read_bytes()


def _enter(archive: Path, entry: str, url: str) -> None:
    """Adds the zip to the release's table of contents, beside what is there."""
    table = archive.parent / MODEL_INFO
    known = parse_json_object(table.read_bytes(), table, "delete it, and pack all bundles") if table.is_file() else {}
    data = archive.read_bytes()
    known[entry] = {
        "checksum": hashlib.sha1(data, usedforsecurity=False).hexdigest(),  # what MONAI's releases have
        "sha256": hashlib.sha256(data).hexdigest(),
        "source": f"{url.rstrip('/')}/{archive.name}" if url else archive.name,
    }
    with atomic_file(table) as temporary:
        temporary.write_text(json.dumps(known, indent=4, sort_keys=True) + "\n", encoding="utf-8")
