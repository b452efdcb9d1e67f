"""Prediction of single videos by the student of a finished trial.

    import cmkd

    student = cmkd.load_student("trials/3f0c…")
    print(student.predict("clip.mp4").label)

A video is read by the reader and with the views of the trial's test clips. One that is not in the
encoding of the trial's data set is re-encoded first, as `cmkd data prepare` does.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from cmkd.config.paths import cache_root
from cmkd.data.clip import read_clip
from cmkd.data.decoded_cache import ClipArrays
from cmkd.data.mpeg4 import open_mpeg4
from cmkd.data.reencode import reencode
from cmkd.data.views import apply_view, views_at_test
from cmkd.errors import CmkdError, DataError, InfrastructureError, InputError
from cmkd.io import file_sha256
from cmkd.tracking.reader import open_reader
from cmkd.training.batches import ClipReader, InputScales
from cmkd.training.build import build_student
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


class Student:
    """Trained student at its selected epoch.

    Args:
        folder: holds ``student.json`` and ``student.safetensors`` of a trial.

    Attributes:
        classes: names, in the order of the network's scores.

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
        self.setting, self.encoding, self.classes = found.setting, found.encoding, found.classes
        self._scales = InputScales(found.motion_scale, found.residual_scale)
        self._views = views_at_test(
            found.views, found.setting.inputs, found.encoding.height, found.encoding.width
        )
        side = found.views.crop
        picture = (side or found.encoding.height, side or found.encoding.width)
        network = build_student(found.setting, picture, len(found.classes))
        try:
            if file_sha256(weights) != found.weights_sha256:
                raise ValueError("its digest is wrong")
            network.load_state_dict(load_file(weights))
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise InfrastructureError(
                f"{weights}: is damaged or of another trial ({error})",
                f"get it again from the run, or remove {folder} and train the trial again",
            ) from error
        self._device = device
        self._network = to_device(network, device).eval()

    def predict(self, video: Path | str) -> Prediction:
        """Class and probabilities of a video.

        Raises:
            DataError: the file is missing, damaged, too short or no video; names it.
        """
        video = Path(video)
        with tempfile.TemporaryDirectory() as scratch:
            encoded, frames = self._encoded(video, Path(scratch))
            if frames < self.setting.inputs.num_frames:
                raise DataError(
                    f"{video}: has {frames} frames, the student samples "
                    f"{self.setting.inputs.num_frames}",
                    "use a longer video",
                )
            arrays = self._read(encoded)
        reader = ClipReader(arrays, self._scales, self._device, self.setting)
        with torch.inference_mode(), autocast(self.setting.training.precision, self._device):
            logits = self._network(*reader.compressed(arrays.test_index[0])).logits
        probabilities = torch.softmax(logits.float().mean(0), 0).tolist()
        best = int(np.argmax(probabilities))
        by_class = dict(zip(self.classes, probabilities, strict=True))
        return Prediction(self.classes[best], by_class, frames)

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

    def _read(self, path: Path) -> ClipArrays:
        """Rows of the views at test."""
        read = {
            phase: read_clip(path, self.setting.reading, phase=phase)
            for phase in {view.phase for view in self._views}
        }
        shown = [apply_view(*read[view.phase], view) for view in self._views]
        slots = max(len(clip.iframes) for clip, _ in shown)
        iframes = np.zeros((len(shown), slots, *shown[0][0].iframes.shape[1:]), np.uint8)
        for row, (clip, _) in enumerate(shown):
            iframes[row, : len(clip.iframes)] = clip.iframes
        rows = np.arange(len(shown))
        return ClipArrays(
            iframes=iframes,
            gop=np.stack([clip.gop for clip, _ in shown]),
            motion=np.stack([clip.motion for clip, _ in shown]),
            residual=np.stack([clip.residual for clip, _ in shown]),
            frames=np.stack([raw.frames for _, raw in shown]),
            labels=np.zeros(len(shown), np.int64),
            index=rows[None],
            test_index=rows[None],
        )


def load_student(source: Path | str, *, store: str | None = None, device: str = "auto") -> Student:
    """Student of a finished trial.

    Args:
        source: folder of a trial in the cache or of the files of its run; id of a trial; or id of
            a run, whose trial is in this cache.
        store: tracking store that knows the run; None as in `cmkd.results`.

    Raises:
        InputError: no such folder, trial or run, or one without a finished student.
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
    try:
        runs = [run for run in open_reader(store).find({}) if run.run_id == str(source)]
    except CmkdError as error:
        raise InputError(
            f"{source}: is no folder and no trial of {trials}, and no run, as {error.problem}",
            "name the folder of a finished trial",
        ) from error
    if not runs:
        raise InputError(
            f"{source}: is no folder, no trial of {trials} and no run of the store",
            "name the folder of a finished trial, or the id of a run",
        )
    run = runs[0]
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
