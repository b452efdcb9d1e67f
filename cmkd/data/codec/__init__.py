"""The only door to PyAV (FFmpeg): MPEG-4 Part 2 in and out, any codec in for re-encoding.

What FFmpeg gives for an MPEG-4 Part 2 file, verified in ``tests/data/test_bitstream.py``:

- Vectors (``+export_mvs``): one per 16 x 16 macroblock or 8 x 8 block of a P-frame; ``dst`` is the
  block's *centre*, ``motion / motion_scale`` is source minus destination in pixels and
  ``motion_scale`` is 2 (half-pels). A skipped macroblock has a vector of zero; only an intra
  macroblock has none, so a block without a vector is intra.
- ``skip_idct=nokey`` decodes P-frames without adding their coefficients: the I-frame warped by
  the decoder's own half-pel interpolation. Intra macroblocks keep their full content.
- Half of a decode is reading the coefficients, which no option leaves out: not the one above, nor
  ``lowres``, whose vectors and differences would be those of a picture that drifts away from what
  the encoder coded. ``cmkd cost --decoding`` measures it; nothing is trained on it.
"""

from cmkd.data.codec.encode import encode as encode
from cmkd.data.codec.mpeg4 import VECTORS as VECTORS
from cmkd.data.codec.mpeg4 import Frame as Frame
from cmkd.data.codec.mpeg4 import Mpeg4Clip as Mpeg4Clip
from cmkd.data.codec.mpeg4 import Planes as Planes
from cmkd.data.codec.mpeg4 import open_mpeg4 as open_mpeg4
from cmkd.data.codec.probe import StreamInfo as StreamInfo
from cmkd.data.codec.probe import Survey as Survey
from cmkd.data.codec.probe import container_fault as container_fault
from cmkd.data.codec.probe import probe as probe
from cmkd.data.codec.probe import survey as survey
from cmkd.data.codec.rgb import decode_positions as decode_positions
from cmkd.data.codec.rgb import decode_rgb as decode_rgb
