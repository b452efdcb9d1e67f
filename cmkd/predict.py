"""Prediction of single videos by the student of a finished trial.

    import cmkd

    student = cmkd.load_student("trials/3f0c…")
    print(student.predict("clip.mp4").label)

A video is read by the reader and with the views of the trial's test clips. One that is not in the
encoding of the trial's data set is re-encoded first, as `cmkd data prepare` does.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from cmkd.config.backbones import find_backbone
from cmkd.config.paths import cache_root
from cmkd.config.trial import Setting
from cmkd.data.clip import read_clip
from cmkd.data.mpeg4 import open_mpeg4
from cmkd.data.reencode import reencode
from cmkd.data.views import apply_view, views_at_test
from cmkd.errors import CmkdError, DataError, InfrastructureError, InputError
from cmkd.io import file_sha256
from cmkd.method import networks
from cmkd.tracking.reader import open_reader
from cmkd.tracking.store import RunRecord, store_exists
from cmkd.training.build import build_student, sees_all_i_frames
from cmkd.training.outcome import STUDENT_CONFIG_FILE, STUDENT_FILE, StudentDescription
from cmkd.training.runtime import autocast, pick_device, to_device


@dataclass(frozen=True)
class Prediction:
    """Class of a video.

    Attributes:
        label: the most probable class.
        probabilities: of every class, in the order of the data set; they sum to 1.
        frames: number of frames of the video as it was read.
    """

    label: str
    probabilities: Mapping[str, float]
    frames: int


class VideoNetwork(nn.Module):
    """Student from arrays as they are read to scores; normalisation is part of it.

    Args:
        student: trained network of `setting`.
        motion_scale, residual_scale: divisors, SDs of the training clips.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        student: networks.Student,
        setting: Setting,
        motion_scale: float,
        residual_scale: float,
    ) -> None:
        super().__init__()
        self.student = student
        self.motion_scale, self.residual_scale = motion_scale, residual_scale
        self._all_i_frames = sees_all_i_frames(setting)
        normalisation = find_backbone(setting.student.backbone).normalisation
        for name, values in normalisation._asdict().items():
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def forward(
        self,
        iframes: UInt8[Tensor, "B G 3 H W"],
        gop: Int[Tensor, "B T"],
        motion: Float[Tensor, "B T C p q"],
        residual: Float[Tensor, "B T E r s"],
    ) -> Float[Tensor, "B K"]:
        """Logits of B views.

        Args:
            iframes: RGB, 0 to 255.
            gop: index into its view's `iframes` of each P-frame's own one.
            motion: displacements in pixels.
            residual: differences in grey levels.
        """
        views, gops = iframes.shape[:2]
        pictures = (iframes.float() - self.mean) / self.std
        if not self._all_i_frames:
            pictures = pictures.flatten(0, 1).unsqueeze(1)
        own = gop + gops * torch.arange(views, device=gop.device)[:, None]
        scaled = motion / self.motion_scale, residual / self.residual_scale
        logits: Tensor = self.student(pictures, own, *scaled).logits
        return logits


class Student:
    """Trained student at its selected epoch.

    Args:
        folder: holds ``student.json`` and ``student.safetensors`` of a trial.

    Attributes:
        folder: that folder.
        description: contents of ``student.json``.
        classes: names, in the order of the network's scores.
        network: on the device of the predictions, in evaluation mode.

    Raises:
        InputError: the folder has none, or of another version.
        InfrastructureError: the weights are damaged.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        path, weights = folder / STUDENT_CONFIG_FILE, folder / STUDENT_FILE
        try:
            found = StudentDescription.model_validate_json(path.read_bytes())
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path}: is no description of a student ({str(error).splitlines()[0]})",
                "name the folder of a finished trial, or of the files of its run",
            ) from error
        self.folder, self.description = folder, found
        self.setting, self.encoding, self.classes = found.setting, found.encoding, found.classes
        self._views = views_at_test(
            found.views, found.setting.inputs, found.encoding.height, found.encoding.width
        )
        student = build_student(found.setting, found.picture, len(found.classes))
        try:
            if file_sha256(weights) != found.weights_sha256:
                raise ValueError("its digest is wrong")
            student.load_state_dict(load_file(weights))
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise InfrastructureError(
                f"{weights}: is damaged or of another trial ({error})",
                f"get it again from the run, or remove {folder} and train the trial again",
            ) from error
        network = VideoNetwork(student, found.setting, found.motion_scale, found.residual_scale)
        self.network = to_device(network, device).eval()
        self._device = device

    def predict(self, video: Path | str) -> Prediction:
        """Class and probabilities of a video: softmax of the mean logits of its views.

        Raises:
            DataError: the file is missing, damaged, too short or no video; names it.
        """
        arrays, frames = self._read(Path(video))
        tensors = {name: torch.from_numpy(of).to(self._device) for name, of in arrays.items()}
        with torch.inference_mode(), autocast(self.setting.training.precision, self._device):
            logits = self.network(**tensors)
        probabilities = torch.softmax(logits.float().mean(0), 0).tolist()
        best = int(np.argmax(probabilities))
        by_class = dict(zip(self.classes, probabilities, strict=True))
        return Prediction(self.classes[best], by_class, frames)

    def inputs(self, video: Path | str) -> dict[str, NDArray[Any]]:
        """Arrays of the views at test of a video, by name: inputs of `network` and its exports.

        Raises:
            DataError: as `predict`.
        """
        return self._read(Path(video))[0]

    def _read(self, video: Path) -> tuple[dict[str, NDArray[Any]], int]:
        """Arrays of the views at test, and the number of frames of the video."""
        with tempfile.TemporaryDirectory() as scratch:
            path, frames = self._encoded(video, Path(scratch))
            if frames < self.setting.inputs.num_frames:
                raise DataError(
                    f"{video}: has {frames} frames, the student samples "
                    f"{self.setting.inputs.num_frames}",
                    "use a longer video",
                )
            read = {
                phase: read_clip(path, self.setting.reading, phase=phase, frames=False)
                for phase in {view.phase for view in self._views}
            }
        shown = [apply_view(read[view.phase], view) for view in self._views]
        slots = max(len(clip.iframes) for clip in shown)
        iframes = np.zeros((len(shown), slots, *shown[0].iframes.shape[1:]), np.uint8)
        for row, clip in enumerate(shown):
            iframes[row, : len(clip.iframes)] = clip.iframes
        arrays = {
            "iframes": iframes,
            "gop": np.stack([clip.gop for clip in shown]).astype(np.int64),
            "motion": np.stack([clip.motion for clip in shown]).astype(np.float32),
            "residual": np.stack([clip.residual for clip in shown]).astype(np.float32),
        }
        return arrays, frames

    def _encoded(self, video: Path, scratch: Path) -> tuple[Path, int]:
        """The video in the data set's encoding, and its number of frames."""
        encoding = self.encoding
        try:
            with open_mpeg4(video) as opened:
                kinds = opened.kinds
                gops = ["P" if number % encoding.gop else "I" for number in range(len(kinds))]
                sides = (opened.width, opened.height) == (encoding.width, encoding.height)
            if sides and list(kinds) == gops and encoding.num_frames in (None, len(kinds)):
                return video, len(kinds)
        except DataError:
            # Another codec, or damage, which `reencode` names.
            pass
        output = scratch / "encoded.mp4"
        made = reencode(video, output, scratch / "record.json", encoding)
        return output, made.frames


def load_student(source: Path | str, *, store: str | None = None, device: str = "auto") -> Student:
    """Student of a finished trial.

    Args:
        source: folder of a trial in the cache or of the files of its run; id of a trial; or id of
            a run, whose trial is in this cache. Of an id its start is enough, from 6 digits on.
        store: tracking store that knows the run; None as in `cmkd.results`.

    Raises:
        InputError: no such folder, trial or run, several, or one without a finished student.
        InfrastructureError: the weights are damaged, or the store does not answer.
    """
    return Student(_folder(source, store), pick_device(device))


def _folder(source: Path | str, store: str | None) -> Path:
    trials = cache_root() / "trials"
    for folder in (Path(source), trials / source):
        if folder.is_dir():
            if (folder / STUDENT_CONFIG_FILE).is_file():
                return folder
            raise InputError(
                f"{folder}: has no {STUDENT_CONFIG_FILE}, so no finished student",
                "run its sweep again, which goes on with what is not finished",
            )
    text = str(source)
    is_start = re.fullmatch("[0-9a-f]{6,}", text) is not None
    found: dict[str, RunRecord | None] = {}
    if is_start:
        found = {path.name: None for path in sorted(trials.glob(f"{text}*"))}
    if store_exists(store):
        try:
            runs = open_reader(store).find({})
        except CmkdError as error:
            raise InputError(
                f"{source}: is no folder and no trial of {trials}, and no run, as {error.problem}",
                "name the folder of a finished trial",
            ) from error
        found |= {
            run.run_id: run
            for run in runs
            if run.run_id == text or (is_start and run.run_id.startswith(text))
        }
    elif not found:
        raise InputError(
            f"{source}: is no folder and no trial of {trials}, and there is no tracking store",
            "name the folder of a finished trial, or the store with --tracking-uri",
        )
    if not found:
        raise InputError(
            f"{source}: is no folder, no trial of {trials} and no run of the store",
            "name the folder of a finished trial, or an id that cmkd report trace SWEEP lists",
        )
    if len(found) > 1:
        raise InputError(f"{source}: begins {', '.join(found)}; give more of the id")
    ((name, run),) = found.items()
    if run is None:
        return _folder(trials / name, store)
    if run.status != "FINISHED":
        raise InputError(
            f"run {run.run_id}: is {run.status}, so it has no finished student",
            "run its sweep again; --retry-failed trains failed trials anew",
        )
    if not (trials / run.trial_id / STUDENT_CONFIG_FILE).is_file():
        raise InputError(
            f"run {run.run_id}: its trial {run.trial_id} has no student in {trials}",
            f"download {STUDENT_CONFIG_FILE} and {STUDENT_FILE} of the run into a folder, and name "
            "that",
        )
    return trials / run.trial_id
