"""Students built from a setting and the shapes of the data they will see."""

from __future__ import annotations

from cmkd.backbones.registry import FAMILIES, Size
from cmkd.config.trial import Setting
from cmkd.data.arrays import ClipArrays
from cmkd.method.student import Branches, Student

I_STRIDE, MOTION_STRIDE, RESIDUAL_STRIDE = 16, 4, 8
"""Input size / feature map size per branch: motion comes at 1/4 of the picture's size and
residuals at 1/2, so that all three end on the teacher's grid."""


def build_student(setting: Setting, arrays: ClipArrays, num_classes: int) -> Student:
    """The student network, freshly initialised from torch's generator.

    Branches are made before the decoder, so that arms with equal seeds start from equal branches.
    """
    family, width = FAMILIES[setting.student.backbone], setting.student.width
    num_frames = setting.inputs.num_frames
    height, breadth = arrays.iframes.shape[-2:]
    branches = Branches(
        i_frame=family.image(Size(3, 1, I_STRIDE, width)),
        motion=family.temporal(Size(2, num_frames, MOTION_STRIDE, width)),
        residual=family.temporal(Size(3, num_frames, RESIDUAL_STRIDE, width)),
        channels=family.channels(width),
        grid=(-(-height // I_STRIDE), -(-breadth // I_STRIDE)),
    )
    dropout = setting.training.dropout
    return Student(branches, num_frames, num_classes, dropout, setting.method)
