"""The command `custom-nets`: one thin function a verb."""

from __future__ import annotations

import platform
import sys
import traceback
from json import dumps
from pathlib import Path
from typing import Literal

import custom_nets
from custom_nets.errors import InputError, explain
from custom_nets.tools.command_line import Verb, run_command


def phantom(
    dataset: Literal["brats", "lits"],
    output_dir: str,
    cases: int = 16,
    shape: tuple[int, ...] | None = None,
    seed: int = 0,
    style: str = "standard",
    spacing: float | tuple[float, ...] | None = None,
) -> None:
    """Writes synthetic cases in the layout of a release, for trying things out without data.

    Args:
        dataset: brats (BraTS 2020: four modalities and a label a case) or lits (LiTS 2017: abdominal CT and a label).
        output_dir: folder to write to.
        cases: number of cases.
        shape: of brats, voxels along the three axes (240 240 155).
        seed: the same seed gives the same cases.
        style: of brats: standard; hard (ambiguous borders, low contrast, small lesions); shifted (hard, from other
            scanners).
        spacing: of lits, typical millimetres between voxels, or three exact ones; none draws what LiTS has.
    """
    from custom_nets.tools.phantoms.abdomen import write_abdomen_phantoms
    from custom_nets.tools.phantoms.brain import write_brain_phantoms

    if dataset == "brats":
        _refuse_for(f"phantoms of {dataset}", spacing=spacing)
        write_brain_phantoms(output_dir, cases, shape or (240, 240, 155), seed, style=style)
    else:
        _refuse_for(f"phantoms of {dataset}", shape=shape, style=None if style == "standard" else style)
        write_abdomen_phantoms(output_dir, cases, spacing, seed)
    print(f"{cases} synthetic cases are in {output_dir}")


def _refuse_for(what: str, **options: object) -> None:
    """Refuses options that would have no effect."""
    for name, value in options.items():
        if value is not None:
            msg = f"--{name} has no effect on {what}; leave it out"
            raise InputError(msg)


def download(task: str, output_dir: str) -> None:
    """Downloads a data set of the Medical Segmentation Decathlon (open, no account needed).

    Args:
        task: such as Task01_BrainTumour (7 GB) or Task03_Liver (27 GB).
        output_dir: folder to unpack to.
    """
    from custom_nets.tools.download import download_msd

    print(f"{task} is in {download_msd(task, output_dir)}")


def check(
    dataset_dir: str,
    dataset: str | None = None,
    modalities: tuple[str, ...] | None = None,
    missing_modalities: bool = False,
    voxels: bool = True,
) -> None:
    """Tells what is recognised in a folder of cases, why, and lists every fault.

    Args:
        dataset_dir: folder of cases, as for infer and train.
        dataset: name or file of the record of the data set; default: it is recognised.
        modalities: channels that a model sees, such as FLAIR,T1,T1ce,T2; default: those of the data set.
        missing_modalities: whether a case may lack modalities, for a model trained with modality_dropout.
        voxels: whether to read all voxels too, about a second a case; without, headers alone.
    """
    from functools import partial

    from custom_nets.datasets import check_case, check_datalist, describe_cases, recognise
    from custom_nets.datasets.datalists import items_of
    from custom_nets.tools.case_checks import check_voxels_of_case

    found = recognise(dataset_dir, dataset, modalities)
    items = items_of(found, modalities, missing_modalities)
    record = found[0].record if len(found) == 1 else None
    names = modalities or (record.channel_names if record else None)
    sums: list[tuple[str, bytes]] = []
    check_one = partial(
        partial(check_voxels_of_case, sums=sums) if voxels else check_case,
        modalities=names,
        missing_modalities=missing_modalities,
    )
    good, faults = check_datalist(items, check_one, max_workers=2 if voxels else 8)  # scans of CT may be large
    for entry in found:
        print(entry.line)
        if entry.record:
            labels = entry.record.labels
            numbers = labels.meanings if labels else "none"
            regions = f"; regions: {', '.join(labels.region_names)}" if labels else ""
            print(f"channels: {', '.join(entry.record.channel_names)}; label numbers: {numbers}{regions}")
    labelled = sum("label" in item for item in good)
    print(f"{len(items)} cases, {len(good)} without fault ({labelled} with a label)")
    for note in describe_cases(good, sums):
        print(note)
    for fault in faults:
        print(f"fault: {fault}")
    if faults:
        msg = f"{len(faults)} of {len(items)} cases cannot be used, each with a line above; mend them, or take them out"
        raise InputError(msg)


def stack(case: str, output_file: str, dataset: str | None = None, modalities: tuple[str, ...] | None = None) -> None:
    """Stacks the files of a case, one a modality, into one 4D file, as MONAI Label needs it.

    Args:
        case: folder of one case.
        output_file: file to write (.nii.gz).
        dataset: name or file of the record of the data set; default: it is recognised.
        modalities: channels in order, such as FLAIR,T1,T1ce,T2; default: those of the data set.
    """
    from custom_nets.datasets import datalist
    from custom_nets.tools.stacking import stack_case

    items = datalist(case, "ignore", dataset=dataset, modalities=modalities)
    if len(items) != 1 or isinstance(items[0]["image"], str):
        msg = f"{case}: expected the folder of one case with a file a modality, found {len(items)} cases"
        raise InputError(msg)
    print(f"wrote {stack_case(items[0]['image'], output_file, modalities)}")


def convert_ossnet(source: str, target: str, variant: str = "c", dataset: Literal["brats", "lits"] = "brats") -> None:
    """Converts a checkpoint of the published OSS-Net to this project's names.

    Args:
        source: the published .pt file.
        target: file to write; a bundle loads it as models/model.pt together with configs/paper.json.
        variant: onet, a, b, c or d.
        dataset: brats or lits.
    """
    from custom_nets.tools.conversion.ossnet_weights import convert_ossnet_checkpoint

    net = convert_ossnet_checkpoint(source, target, variant, dataset)
    count = sum(parameter.numel() for parameter in net.parameters())
    print(f"wrote {target}: OSS-Net {variant} for {dataset}, {count:,} parameters")


def convert_segresnet(source: str, target: str) -> None:
    """Converts the model zoo's brats_mri_segmentation (or a SegResNet of its layout) to a model of nvnet_brats.

    Args:
        source: the zoo's models/model.pt.
        target: file to write; the bundle loads it as models/model.pt with the keys that are printed.
    """
    from custom_nets.tools.conversion.segresnet_weights import convert_segresnet_checkpoint

    net = convert_segresnet_checkpoint(source, target)
    print(f"wrote {target}; use it with --init_filters {net.init_filters} --final_norm true")


def submission(results_dir: str, output_file: str, *, release: int, dataset_dir: str | None = None) -> None:
    """Checks the results of an inference for the challenge, and packs them when there is no fault.

    Args:
        results_dir: output_dir of the inference.
        output_file: zip file to write.
        release: year of the challenge, 2018 to 2024.
        dataset_dir: the cases that were inferred; needed for results that no bundle of ours wrote.
    """
    from custom_nets.tools.submission import write_submission

    try:
        number = write_submission(results_dir, output_file, release, dataset_dir)
    except InputError as error:
        summary, *faults = str(error).splitlines()
        for fault in faults:
            print(f"fault: {fault}")
        raise InputError(summary.removesuffix(":")) from None
    print(f"wrote {output_file}: {number} cases, no fault found")


def scores(file: str) -> None:
    """Prints the scores of an evaluation as a table.

    Args:
        file: metrics.json, as the bundles' evaluation writes it.
    """
    from custom_nets.tools.score_table import format_scores

    print(format_scores(file))


def folds(folder: str, score: str = "dice", json: str | None = None) -> None:
    """Sums up the folds of a cross-validation, and compares their ensemble with each one where both were tested.

    Args:
        folder: of the bundle, or the one that holds the evaluations fold_0, fold_1 and so on.
        score: a column of metrics.csv, such as dice, iou or hd95_mm.
        json: file that the table is written to, as JSON.
    """
    from custom_nets.tools.fold_table import format_folds, format_folds_json, sum_up_folds

    summary = sum_up_folds(folder, score)
    if json is not None:
        Path(json).write_text(format_folds_json(summary), encoding="utf-8")
    print(format_folds(summary))


def dicom(
    result: str,
    series: str,
    output: str,
    *,
    formats: tuple[Literal["seg", "rtstruct"], ...] = ("seg", "rtstruct"),
    dataset: str | None = None,
    segments: Literal["regions", "labels"] = "regions",
    bundle: str = "",
    resample: bool = False,
) -> None:
    """Writes a label map as DICOM SEG and RT Structure Set on the series that was segmented.

    Args:
        result: NIfTI file of a label map, or the folder of a case that a bundle wrote.
        series: folder of a DICOM series of CT, MR or PET.
        output: folder of the files, <case>_seg.dcm and <case>_rtstruct.dcm.
        formats: seg, rtstruct.
        dataset: name or file of the record of the label numbers; default: that of a bundle's result.
        segments: regions, which may lie within each other, or labels, one a number.
        bundle: folder of the bundle that made it, whose name and version are written.
        resample: bring a result on another grid onto that of the series.
    """
    from custom_nets.tools.dicom_results import convert_to_dicom

    print("\n".join(convert_to_dicom(result, series, output, formats, dataset, segments, bundle, resample)))


def infer(
    bundle: str,
    input: tuple[str, ...],  # noqa: A002 (the word that people type)
    output_dir: str,
    *,
    configs: tuple[str, ...] = (),
    **keys: object,
) -> None:
    """Infers cases with a trained bundle: label map, meshes, volumes and picture of each.

    Args:
        bundle: folder of the bundle.
        input: folder of cases, folder of one case, or files: each a case, or one a modality of one case.
        output_dir: folder of the results.
        configs: of the bundle, after the main one, such as variant (with commas between them).
        keys: keys of the bundle, as its docs/README.md lists them: `--save_probabilities true`.
    """
    from custom_nets.tools.running import infer_with_bundle

    infer_with_bundle(bundle, input, output_dir, configs, keys)


def train(bundle: str, dataset_dir: str, *, configs: tuple[str, ...] = (), **keys: object) -> None:
    """Trains a bundle on labelled cases.

    Args:
        bundle: folder of the bundle.
        dataset_dir: folder of the labelled cases.
        configs: of the bundle, after the main one, such as variant (with commas between them).
        keys: keys of the bundle, as its docs/README.md lists them: `--epochs 100`.
    """
    from custom_nets.tools.running import train_bundle

    train_bundle(bundle, dataset_dir, configs, keys)


def evaluate(
    results_dir: str,
    dataset_dir: str,
    *,
    output_dir: str | None = None,
    configs: tuple[str, ...] = (),
    **keys: object,
) -> None:
    """Scores results against labels; given a bundle in place of results, infers the labelled cases first.

    Args:
        results_dir: folder of results, ours or another program's (<case>.nii.gz, <case>/<case>_prediction.nii.gz); or
            folder of a bundle.
        dataset_dir: folder of the labelled cases; of results also a folder of label files.
        output_dir: folder of metrics.csv and metrics.json (default: results_dir; of a bundle its eval).
        configs: of a bundle, after the main ones, such as variant (with commas between them).
        keys: of results: `--dataset RECORD` or `--labels 'WT=1,2,4 ET=4'` (what the numbers mean; default: recognised),
            `--results_dataset RECORD` (where the results have other numbers), `--regions WT,ET`, `--missing refuse`
            (or leave_out, empty), `--tolerance 1` (mm, of surface Dice), `--lesion_dilation 3` (mm),
            `--lesion_min_ml 0.05`; of a bundle: its keys, such as `--evaluation_section all` for every case of
            dataset_dir.
    """
    from custom_nets.tools.running import evaluate_bundle, evaluate_results, is_bundle

    if is_bundle(results_dir):
        places = {} if output_dir is None else {"output_dir": output_dir}
        evaluate_bundle(results_dir, dataset_dir, configs, {**places, **keys})
        return
    _refuse_for("results", configs=configs or None)
    print(evaluate_results(results_dir, dataset_dir, output_dir or results_dir, keys))


def bundles(name: str | None = None, *, output_dir: str = ".") -> None:
    """Lists the bundles that come with this package, or copies one to work on.

    Args:
        name: of the bundle to copy, as `--name ossnet_brats`; default: all are listed.
        output_dir: folder that the copy is put into.
    """
    from custom_nets.tools.shipped_bundles import copy_bundle, shipped_bundles

    if name is None:
        for bundle, metadata in shipped_bundles().items():
            print(f"{bundle:<14}{metadata['task']}")
        print("custom-nets bundles --name NAME copies one, without weights, into --output_dir")
        return
    print(f"{name} is in {copy_bundle(name, output_dir)}; its docs/README.md tells how to run it")


def memory(
    bundle: str, *, shape: tuple[int, ...], device: str = "", configs: tuple[str, ...] = (), **keys: object
) -> None:
    """Estimates the memory that the inference of a volume will take, without running it.

    Args:
        bundle: folder of the bundle.
        shape: voxels along the three axes, as the network is given them.
        device: cuda or cpu; default: a GPU where there is one.
        configs: of the bundle, after inference.json, such as variant (with commas between them).
        keys: keys of the configs, as in a run: `--variant c`.
    """
    import torch

    from custom_nets.tools.memory import estimate_bundle_memory

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    parts = estimate_bundle_memory(bundle, shape, device, configs, keys)
    peak = parts.pop("peak")
    print("".join(f"{name:<10}{size:8.2f} GiB\n" for name, size in parts.items()) + f"{'peak':<10}{peak:8.2f} GiB")
    beside = "workspaces of its convolutions" if device.startswith("cuda") else "Python and PyTorch (about 0.4 GiB)"
    print(f"on {device}, besides {beside}; encoder and points are not held together")


def build_bundles(folder: str = "bundles") -> None:
    """Builds the configs of this project's bundles anew from their source, custom_nets/tools/bundle_source.

    Args:
        folder: of all bundles.
    """
    from custom_nets.tools.bundle_builder import write_bundle
    from custom_nets.tools.fragments import SPECIFICATIONS

    changed = [file for spec in SPECIFICATIONS for file in write_bundle(spec, Path(folder) / spec.stem)]
    print("\n".join([*(f"wrote {file}" for file in changed), f"{len(SPECIFICATIONS)} bundles are up to date"]))


def new(
    name: str,
    *,
    data: str,
    network: Literal["ossnet", "nvnet"] = "ossnet",
    memory: float = 8.0,
    dataset: str | None = None,
    minutes: float | None = None,
    spacing: tuple[float, ...] | None = None,
    fold: int | None = None,
    folds: int | None = None,
    folder: str = ".",
    json: str | None = None,
) -> None:
    """Makes a bundle for a labelled data set: measures it, plans the keys, and says what was chosen and why.

    Args:
        name: of the bundle, such as knee_mri.
        data: folder of the data set.
        network: ossnet (Pyramid OSS-Net) or nvnet.
        memory: GiB of the device that trains.
        dataset: name or file of the record of the data set; default: it is recognised.
        minutes: that a training may take on this machine, where steps are tried; default: a whole training.
        spacing: mm along left-right, front-back and up-down, where the headers are wrong; default: as these say.
        fold: of a cross-validation, that is held out, from 0; default: none, until a run names one.
        folds: of a cross-validation; default: 5.
        folder: of all bundles; the new one is a folder in it.
        json: file that the plan is written to, as JSON.
    """
    from custom_nets.tools.planning.new_bundle import format_plan, format_plan_json, new_bundle

    place = Path(folder) / name
    plan = new_bundle(place, data, network, memory, dataset, minutes, spacing, fold, folds)
    if json is not None:
        Path(json).write_text(format_plan_json(plan), encoding="utf-8")
    print(f"{format_plan(plan)}\nwrote {place}; its docs/README.md tells how to run it")


def pack(bundle: str, output_dir: str = "dist", untrained: bool = False, url: str = "") -> None:
    """Packs a bundle as a zip file for others, when it has no fault, and enters it into models/model_info.json.

    Args:
        bundle: folder of the bundle.
        output_dir: folder of the release.
        untrained: whether the bundle may lack weights.
        url: address under which the zip will lie, such as that of a GitHub release's files.
    """
    from custom_nets.tools.packing import pack_bundle

    file = pack_bundle(bundle, output_dir, untrained, url)
    print(f"wrote {file} ({file.stat().st_size / 1e6:.1f} MB)")


def fetch(
    name: str, *, source: str, bundle_dir: str = ".", version: str | None = None, repo: str | None = None
) -> None:
    """Fetches a released bundle, checks it, and puts it in place of an older one.

    Args:
        name: of the bundle.
        source: folder or address (file://, http, https) of a release; or github.
        bundle_dir: folder of all bundles.
        version: such as 0.1.0; default: the newest.
        repo: OWNER/NAME/TAG of a GitHub release.
    """
    from custom_nets.tools.fetching import fetch_bundle

    folder, kept = fetch_bundle(name, source, bundle_dir, version, repo, progress=sys.stderr.isatty())
    if kept:
        print(f"the bundle that was there held files of your own: it is kept as {kept}")
    print(f"{name} is in {folder}; its docs/README.md tells how to run it")


def export(
    bundle: str,
    *,
    output_dir: str,
    format: Literal["onnx", "torchscript"] = "onnx",  # noqa: A002 (the word that people type)
    configs: tuple[str, ...] = (),
    shape: tuple[int, ...] | None = None,
    dynamic: bool = True,
    untrained: bool = False,
    **keys: object,
) -> None:
    """Exports a bundle's network to ONNX or TorchScript, and compares every file with the network.

    Args:
        bundle: folder of the bundle.
        output_dir: folder to write to: network.onnx, of OSS-Net also encoder.onnx and decoder.onnx (or .ts).
        format: onnx or torchscript.
        configs: of the bundle, after inference.json, such as variant (with commas between them).
        shape: voxels along the three axes of the image that is traced.
        dynamic: whether the ONNX files take images of other sizes; TorchScript always does.
        untrained: export random weights, to try it out.
        keys: keys of the configs, as in a run: `--load_model FILE`, `--variant c`.
    """
    from custom_nets.tools.export.bundle import export_bundle, format_exports

    sizes = {} if shape is None else {"shape": shape}
    files = export_bundle(bundle, output_dir, format, configs, dynamic=dynamic, untrained=untrained, keys=keys, **sizes)
    print(format_exports(files))


def info(json: bool = False) -> None:
    """Prints versions and devices, for bug reports.

    Args:
        json: print one JSON object.
    """
    facts = _facts()
    lines = [f"{name}: {value}" for name, value in facts.items()]
    print(dumps(facts, indent=2) if json else "\n".join(lines))


def _facts() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    import torch

    facts = {"custom-nets": custom_nets.__version__, "python": platform.python_version(), "system": platform.platform()}
    packages = ("torch", "monai", "numpy", "nibabel", "pytorch-ignite", "PyMCubes", "pydicom", "highdicom", "itk")
    for package in (*packages, "matplotlib"):
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "not installed"
    available = torch.cuda.is_available()
    facts["device"] = torch.cuda.get_device_name() if available else f"CPU, {torch.get_num_threads()} threads"
    return facts


ABOUT = "Segmentation with occupancy networks: inference, training, scores; data, weights and releases of the bundles."

VERBS: dict[str, Verb] = {
    "infer": infer,
    "train": train,
    "evaluate": evaluate,
    "phantom": phantom,
    "download": download,
    "check": check,
    "stack": stack,
    "scores": scores,
    "folds": folds,
    "submission": submission,
    "dicom": dicom,
    "convert-ossnet": convert_ossnet,
    "convert-segresnet": convert_segresnet,
    "memory": memory,
    "new": new,
    "build-bundles": build_bundles,
    "pack": pack,
    "fetch": fetch,
    "bundles": bundles,
    "export": export,
    "info": info,
}


def main() -> None:
    """Runs the command line; an error ends it with what a person should read, and exit status 2."""
    arguments = sys.argv[1:]
    try:
        run_command(arguments, VERBS, "custom-nets", lambda: custom_nets.__version__, ABOUT)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # what reads our lines wants no more of them
        sys.stderr.close()
        sys.exit(0)
    except Exception as error:
        if "--debug" in arguments:
            traceback.print_exc()
        print(f"error: {explain(error)}", file=sys.stderr)
        sys.exit(2)
