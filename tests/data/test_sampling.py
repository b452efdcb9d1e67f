import pytest

from cmkd.data.sampling import intra_of, sample_positions

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


def test_gops_follow_the_picture_types():
    assert intra_of("IPPIPIIP") == [0, 0, 0, 3, 3, 5, 6, 6]
