import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmkd.data.sampling import (
    clip_windows,
    gop_windows,
    intra_of,
    sample_clip,
    sample_gops,
    sample_positions,
)

ONE_GOP = "I" + "P" * 15


def test_last_frame_of_each_segment_by_default():
    assert sample_positions(ONE_GOP, 8) == [1, 3, 5, 7, 9, 11, 13, 15]
    assert sample_positions("I" + "P" * 31, 8) == [3, 7, 11, 15, 19, 23, 27, 31]


def test_phase_moves_to_earlier_frames_of_the_same_segment():
    assert sample_positions(ONE_GOP, 4, phase=0.25) == [2, 6, 10, 14]
    assert sample_positions(ONE_GOP, 4, phase=0.5) == [1, 5, 9, 13]
    # The first segment starts with the I-frame: the P-frame after it serves.
    assert sample_positions(ONE_GOP, 4, phase=0.99) == [1, 4, 8, 12]


@pytest.mark.parametrize("phase", [0.0, 0.3, 0.7, 0.999])
@pytest.mark.parametrize("length", [8, 13, 50, 97])
def test_one_p_frame_of_each_segment(length, phase):
    kinds = ("I" + "P" * 11) * 9
    positions = sample_positions(kinds[:length], 8, phase)
    assert positions == sorted(positions) and len(positions) == 8
    for segment, position in enumerate(positions):
        assert kinds[position] == "P"
        assert segment * length // 8 <= position <= (segment + 1) * length // 8


def test_i_frames_move_inside_their_gop():
    assert sample_positions("IPPIPPIPP", 3, phase=0.9) == [1, 4, 7]


def test_a_gop_without_p_frames_gives_way_to_its_neighbours():
    assert sample_positions("IPPPPI", 2) == [2, 4]
    assert sample_positions("IIIPP", 4, phase=0.0) == [3, 3, 3, 4]


@pytest.mark.parametrize(
    ("length", "positions"),
    [
        (9, [1, 2, 3, 4, 5, 6, 7, 8]),
        (10, [1, 2, 3, 4, 5, 6, 7, 9]),
        (11, [1, 2, 3, 4, 5, 7, 8, 10]),
    ],
)
def test_short_clips_do_not_show_a_frame_twice(length, positions):
    assert sample_positions(("I" + "P" * 11)[:length], 8) == positions


@st.composite
def clips(draw):
    """Picture types, a number of frames to sample, and a phase."""
    tail = draw(st.lists(st.sampled_from("IPPP"), min_size=1, max_size=60))
    kinds = ["I", *tail, "P"]
    num_frames = draw(st.integers(1, min(len(kinds), 16)))
    return kinds, num_frames, draw(st.floats(0, 1, exclude_max=True))


@given(clips())
@settings(derandomize=True, deadline=None, max_examples=400)
def test_positions_are_distinct_p_frames_in_order(clip):
    kinds, num_frames, phase = clip
    positions = sample_positions(kinds, num_frames, phase)
    assert len(positions) == num_frames and positions == sorted(positions)
    assert {kinds[position] for position in positions} == {"P"}
    if kinds.count("P") >= num_frames:
        assert len(set(positions)) == num_frames


@given(clips())
@settings(derandomize=True, deadline=None, max_examples=200)
def test_a_p_frame_in_place_stays_where_nothing_repeats(clip):
    """Nothing moves when every segment's own frame is a P-frame."""
    kinds, num_frames, phase = clip
    segments = [
        (n * len(kinds) // num_frames, (n + 1) * len(kinds) // num_frames)
        for n in range(num_frames)
    ]
    own = [end - 1 - int(phase * (end - start)) for start, end in segments]
    as_p_frames = ["P" if index in own else kind for index, kind in enumerate(kinds)]
    if as_p_frames[0] == "I":
        assert sample_positions(as_p_frames, num_frames, phase) == own


def test_gops_follow_the_picture_types():
    assert intra_of("IPPIPIIP") == [0, 0, 0, 3, 3, 5, 6, 6]


FOUR_GOPS = ("I" + "P" * 11) * 4


def test_every_gop_gives_its_evenly_spread_p_frames():
    sample = sample_gops(FOUR_GOPS, 4, 2)
    assert sample.positions == [5, 11, 17, 23, 29, 35, 41, 47]
    assert sample.intra == [0, 12, 24, 36]
    assert sample.slot == [0, 0, 1, 1, 2, 2, 3, 3]


def test_phase_goes_back_through_the_frames_and_then_the_gops():
    assert sample_gops(FOUR_GOPS, 2, 1, phase=0.0)[:2] == ([23, 47], [12, 36])
    assert sample_gops(FOUR_GOPS, 2, 1, phase=0.25)[:2] == ([18, 42], [12, 36])
    assert sample_gops(FOUR_GOPS, 2, 1, phase=0.5)[:2] == ([11, 35], [0, 24])
    assert sample_gops(FOUR_GOPS, 2, 1, phase=0.999)[:2] == ([1, 25], [0, 24])


def test_gops_are_those_of_the_picture_types():
    sample = sample_gops("IPPIPPPPPIIPPP", 3, 2)
    assert sample.intra == [0, 3, 10], "the I-frame at 9 has no P-frame"
    assert sample.positions == [1, 2, 5, 8, 11, 13]


def test_a_cut_off_gop_is_passed_over_while_others_are_left():
    kinds = "IPPPIPPPIPPPIP"
    assert sample_gops(kinds, 3, 2).intra == [0, 4, 8]
    assert sample_gops(kinds, 3, 1).intra == [0, 4, 12]
    needed = sample_gops(kinds, 4, 2)
    assert needed.intra == [0, 4, 8, 12] and needed.positions[-2:] == [13, 13]


def test_too_few_gops_share_their_frames_out_among_the_slots():
    one = sample_gops("I" + "P" * 15, 4, 2)
    assert one.intra == [0] * 4 and one.slot == [0, 0, 1, 1, 2, 2, 3, 3]
    assert one.positions == [1, 3, 5, 7, 9, 11, 13, 15]
    two = sample_gops("IPPPPIPPPP", 4, 2)
    assert two.intra == [0, 0, 5, 5] and two.positions == [1, 2, 3, 4, 6, 7, 8, 9]
    short = sample_gops("IPPP", 2, 3)
    assert short.intra == [0, 0] and short.positions == [1, 1, 2, 2, 3, 3]


@given(clips(), st.integers(1, 8), st.integers(1, 4))
@settings(derandomize=True, deadline=None, max_examples=400)
def test_slots_name_the_gop_of_each_p_frame(clip, num_gops, per_gop):
    kinds, _, phase = clip
    positions, intra, slot = sample_gops(kinds, num_gops, per_gop, phase)
    opening = intra_of(kinds)
    assert {kinds[position] for position in positions} == {"P"}
    assert positions == sorted(positions) and intra == sorted(intra)
    assert len(intra) == num_gops and slot == [n // per_gop for n in range(num_gops * per_gop)]
    assert [intra[at] for at in slot] == [opening[position] for position in positions]
    lengths = [
        sum(opening[at] == start for at, kind in enumerate(kinds) if kind == "P")
        for start in set(opening)
    ]
    if sum(length >= per_gop for length in lengths) >= num_gops:
        assert len(set(positions)) == len(positions) and len(set(intra)) == num_gops


def test_without_gops_asked_for_the_i_frames_are_those_in_use():
    kinds = FOUR_GOPS + "I" + "P" * 11
    positions, intra, slot = sample_clip(kinds, 3)
    assert (positions, intra, slot) == ([19, 39, 59], [12, 36, 48], [0, 1, 2])
    assert sample_clip(kinds, 4, num_gops=2) == sample_gops(kinds, 2, 2)


def test_segments_end_with_the_clip_or_with_the_gop():
    kinds = "IPPPIPP"
    assert clip_windows(kinds, [1, 3, 6], 5) == [[0, 0, 1, 2, 3], [1, 2, 3, 4, 5], [4, 5, 6, 6, 6]]
    assert gop_windows(kinds, [1, 3, 6], 5) == [[1, 1, 1, 2, 3], [1, 2, 3, 3, 3], [5, 5, 6, 6, 6]]
    assert clip_windows(kinds, [1, 3], 1) == gop_windows(kinds, [1, 3], 1) == [[1], [3]]
