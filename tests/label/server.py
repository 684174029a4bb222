"""A MONAI Label server on this machine, and what its clients ask of it over REST."""

from __future__ import annotations

import gzip
import os
import socket
import subprocess
import time
from pathlib import Path

import nibabel
import numpy as np
import requests

START_SECONDS = 180
TASK_SECONDS = 300


class Server:
    """The app `monaibundle` with bundles and studies; stopped at the end of a `with` block.

    Args:
        commands: folder of the environment's commands.
        folder: for the app and its log.
        models: bundles to copy from `bundles`.
        bundles: folder of fetched bundles.
        studies: folder of images.
    """

    def __init__(self, commands: Path, folder: Path, models: list[str], bundles: Path, studies: Path) -> None:
        self.commands, self.folder, self.models, self.studies = commands, folder, models, studies
        path = f"{commands}{os.pathsep}{os.environ['PATH']}"  # its command is a script that calls python
        self.environment = {**os.environ, "PATH": path, "HOME": str(folder), "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
        self.log = folder / "server.log"
        self._run("apps", "--download", "--name", "monaibundle", "--output", str(folder))
        self.app = folder / "monaibundle"
        for model in models:
            (self.app / "model").mkdir(exist_ok=True)
            (bundles / model).rename(self.app / "model" / model)

    def _run(self, *arguments: str) -> None:
        command = [str(self.commands / "monailabel"), *arguments]
        done = subprocess.run(command, env=self.environment, capture_output=True, encoding="utf-8", check=False)
        assert done.returncode == 0, done.stderr

    def __enter__(self) -> Server:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        options = {"--app": self.app, "--studies": self.studies, "--host": "127.0.0.1", "--port": port}
        conf = ["--conf", "models", ",".join(self.models), "--conf", "zoo_source", "ngc", "--conf", "sam2", "false"]
        arguments = [str(part) for option in options.items() for part in option]
        self.process = subprocess.Popen(
            [str(self.commands / "monailabel"), "start_server", *arguments, *conf],
            env=self.environment,
            stdout=self.log.open("w"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self.process.poll() is None:
            try:
                self.info = requests.get(f"{self.url}/info/", timeout=10).json()
                return self
            except requests.ConnectionError:
                time.sleep(0.5)
        self.__exit__()
        msg = f"the server did not start:\n{self.tail()}"
        raise RuntimeError(msg)

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def tail(self) -> str:
        return "\n".join(self.log.read_text().splitlines()[-60:])

    def _ask(self, method: str, path: str, **options) -> requests.Response:
        answer = requests.request(method, f"{self.url}{path}", timeout=TASK_SECONDS, **options)
        assert answer.ok, f"{answer.text}\n{self.tail()}"
        return answer

    def infer(self, model: str, image: str) -> nibabel.Nifti1Image:
        """Returns the label map of one study."""
        answer = self._ask("POST", f"/infer/{model}", params={"image": image, "output": "image", "device": "cpu"})
        return read_image(answer.content)

    def infer_facts(self, model: str, image: str) -> dict:
        """Returns what the client is told beside the label map."""
        return self._ask("POST", f"/infer/{model}", params={"image": image, "output": "json"}).json()

    def infer_all(self, model: str) -> None:
        """Infers all studies, and waits for the end; the label maps go to the server's store."""
        self._ask("POST", f"/batch/infer/{model}", params={"images": "all"}, json={"device": "cpu", "multi_gpu": False})
        self._wait("/batch/infer")

    def labels(self) -> dict[str, dict]:
        """Returns the labels that the server's store has of each study, by their tags."""
        studies = self._ask("GET", "/datastore/", params={"output": "all"}).json()["objects"]
        return {name: study["labels"] for name, study in studies.items()}

    def save_label(self, image: str, label: Path) -> None:
        with label.open("rb") as file:
            parts = {"label": (label.name, file)}
            self._ask(
                "PUT", "/datastore/label", params={"image": image, "tag": "final"}, files=parts, data={"params": "{}"}
            )

    def train(self, model: str) -> None:
        """Trains for a few steps on the saved labels, and waits for the end."""
        request = {"max_epochs": 8, "device": "cpu", "multi_gpu": False, "val_split": 0.5}
        self._ask("POST", f"/train/{model}", json=request)
        self._wait("/train/")

    def _wait(self, path: str) -> None:
        end = time.monotonic() + TASK_SECONDS
        while time.monotonic() < end:
            task = self._ask("GET", path).json()
            if task["status"] not in ("SUBMITTED", "RUNNING"):
                break
            time.sleep(0.5)
        details = "\n".join(task.get("details", []))
        assert task["status"] == "DONE", f"{details}\n{self.tail()}"


def read_image(content: bytes) -> nibabel.Nifti1Image:
    """Reads a compressed NIfTI file from memory."""
    return nibabel.Nifti1Image.from_bytes(gzip.decompress(content))


def voxels(image: nibabel.Nifti1Image) -> np.ndarray:
    return np.asarray(image.dataobj)
