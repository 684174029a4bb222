"""Results that processes write while the next case is inferred: the same files, whatever dies in the middle."""

import multiprocessing
import os
import signal
import time

import pytest

from custom_nets.transforms.saving import volumes
from tests.bundles.bundle import infer_smallest, save_untrained

NAMES = ("ossnet_brats", "ossnet_lits")  # one reads the image again for its picture, one hands it over


@pytest.fixture(scope="module")
def undisturbed(data_of, tmp_path_factory):
    """Of each bundle a model, and the results that one process writes itself."""
    made = {}
    for name in NAMES:
        folder = tmp_path_factory.mktemp(name)
        save_untrained(name, folder)
        infer(name, data_of, folder, folder / "results", num_writers=0)
        made[name] = folder
    return made


def infer(name, data_of, folder, output, **keys):
    infer_smallest(name, data_of[name], folder, output, **{"num_workers": 0, "save_page": False, **keys})


def contents(output):
    """Every file of a case, by name."""
    return {file.relative_to(output): file.read_bytes() for file in sorted(output.glob("[!.]*/*")) if file.is_file()}


def finished(output):
    return {file.stem for file in (output / ".finished").glob("*.json")}


def disturb(monkeypatch, case, what):
    """Lets something happen while the results of a case are written, after its label map."""
    measure = volumes.SaveRegionVolumesd.__call__

    def disturbed(self, item):
        if item["case"] == case:
            what()
        return measure(self, item)

    monkeypatch.setattr(volumes.SaveRegionVolumesd, "__call__", disturbed)


def fail():
    raise OSError(28, "No space left on device")


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def kill_the_run():
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("writers", [1, 3])
def test_writers_write_what_the_run_writes_itself(name, writers, undisturbed, data_of, tmp_path):
    infer(name, data_of, undisturbed[name], tmp_path, num_writers=writers)
    expected = contents(undisturbed[name] / "results")
    assert any(file.name.endswith("_overlay.png") for file in expected)
    assert contents(tmp_path) == expected
    assert len(finished(tmp_path)) == 4


@pytest.mark.parametrize(("what", "said"), [(fail, "the disk is full"), (die, "--num_writers")])
def test_one_case_is_left_out_where_its_writer_fails_or_dies(
    what, said, undisturbed, data_of, tmp_path, monkeypatch, caplog
):
    name = "ossnet_brats"
    expected = contents(undisturbed[name] / "results")
    second = sorted({file.parts[0] for file in expected})[1]
    with monkeypatch.context() as disturbance:
        disturb(disturbance, second, what)
        with pytest.raises(SystemExit) as ended:
            infer(name, data_of, undisturbed[name], tmp_path, num_writers=1)
    assert ended.value.code == 3
    assert "1 of 4 cases were left out" in caplog.text
    assert f"case {second}: " in caplog.text
    assert said in caplog.text
    assert {file.parts[0] for file in expected} - finished(tmp_path) == {second}
    infer(name, data_of, undisturbed[name], tmp_path, num_writers=1, skip_existing=True)
    assert contents(tmp_path) == expected


def test_a_run_that_was_killed_while_writing_goes_on(undisturbed, data_of, tmp_path, monkeypatch):
    name = "ossnet_brats"
    expected = contents(undisturbed[name] / "results")
    third = sorted({file.parts[0] for file in expected})[2]
    with monkeypatch.context() as disturbance:
        disturb(disturbance, third, kill_the_run)
        run = multiprocessing.get_context("fork").Process(
            target=infer, args=(name, data_of, undisturbed[name], tmp_path), kwargs={"num_writers": 2}
        )
        run.start()
        run.join(120)
    assert run.exitcode == -signal.SIGKILL
    assert third not in finished(tmp_path)
    assert {file: expected[file] for file in contents(tmp_path)} == contents(tmp_path)
    infer(name, data_of, undisturbed[name], tmp_path, num_writers=2, skip_existing=True)
    assert contents(tmp_path) == expected
    assert not list(tmp_path.glob("**/.part-*"))
