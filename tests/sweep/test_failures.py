"""Failures as records, and their digest."""

from __future__ import annotations

import pickle

import pytest

from cmkd.errors import TrialFailed
from cmkd.sweep.failures import UNTAUGHT, Failure, digest, failure_of, is_transient


def test_an_exception_becomes_text_that_any_process_reads():
    try:
        raise TrialFailed("loss is\n  not finite")
    except TrialFailed as error:
        failure = pickle.loads(pickle.dumps(failure_of(error, 3)))
    assert failure.cause == "TrialFailed: loss is not finite"
    assert failure.epoch == 3
    assert "test_failures.py" in failure.trace
    assert failure.tags()["failure_epoch"] == "3"


def test_a_bare_exception_still_says_something():
    assert failure_of(MemoryError(), 0).cause == "MemoryError: no message"


def test_long_texts_fit_a_tag():
    failure = Failure("E", "x" * 9000, "y" * 9000, 0)
    assert max(map(len, failure.tags().values())) <= 4000


@pytest.mark.parametrize(
    "said",
    [
        "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "CUDA error: out of memory",
    ],
)
def test_row_29_memory_that_ran_out_is_known_by_its_words(said):
    assert failure_of(RuntimeError(said), 0).kind == "OutOfMemoryError"
    assert failure_of(ValueError(said), 0).kind == "ValueError"


def test_the_kind_of_a_failure_is_a_field_and_a_pupil_has_that_of_its_teacher():
    lost = Failure("InfrastructureError", "disk: full", "", 1)
    pupil = Failure(UNTAUGHT, lost.cause, "", 0, origin=lost.kind)
    for failure in (lost, pupil):
        assert failure.tags()["failure_kind"] == "InfrastructureError"
        assert is_transient(failure.tags()["failure_kind"])
    assert not is_transient("TrialFailed")


def test_causes_that_differ_in_numbers_are_one_group():
    failures = [("z", "OSError: disk full")]
    failures += [(f"arm{n}", f"TrialFailed: not finite at epoch {n} (lr 1e+{n})") for n in range(6)]
    assert digest(failures) == [
        "6 x TrialFailed: not finite at epoch 0 (lr 1e+0) [arm0, arm1, arm2, arm3 and 2 more]",
        "1 x OSError: disk full [z]",
    ]
    assert digest([]) == []
