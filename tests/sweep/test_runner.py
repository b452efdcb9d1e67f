"""How CPUs and GPUs are shared out, and what becomes of errors that pass through a real Ray."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from cmkd.sweep.ray_engine import gpu_share

TOO_LONG = """
import sys
from pathlib import Path
from cmkd.errors import InfrastructureError
from cmkd.sweep.ray_engine import start_engine
try:
    with start_engine(1, Path(sys.argv[1])):
        pass
except InfrastructureError as error:
    print(error)
"""
# Workers that trials are given, and what happens besides while Ray starts.
STARTED = """
import sys, time
from pathlib import Path
import ray
from cmkd.sweep.ray_engine import start_engine
def refuse():
    raise ValueError("meanwhile")
class Actor:
    def knows_trials(self):
        return "cmkd.training.trial" in sys.modules
if __name__ == "__main__":
    from cmkd.sweep import tune_adapter
    from ray.tune.execution import class_cache
    with start_engine(1, Path(sys.argv[1]), meanwhile=lambda: print("meanwhile")):
        print(ray.is_initialized())
        tune_adapter.pass_environment(inherited=True)
        actor = class_cache._ActorClassCache().get(Actor).options(num_cpus=1).remote()
        time.sleep(3)
        print(ray.get(actor.knows_trials.remote(), timeout=60))
    try:
        with start_engine(1, Path(sys.argv[1]), meanwhile=refuse):
            print("not reached")
    except ValueError as error:
        print(error, ray.is_initialized())
"""
# What Ray raises then has no kind of its own.
TOO_SLOW = f"""
import ray
def too_slow(**_):
    raise Exception("The current node timed out during startup.")
ray.init = too_slow
{TOO_LONG}
"""
# The raylet dies after its node has started, before the driver connects.
KILLED_AT_START = f"""
from ray._private import worker
connect = worker.connect
def killed(*arguments, **options):
    raylet = worker._global_node.all_processes["raylet"][0].process
    raylet.kill()
    raylet.wait()
    return connect(*arguments, **options)
worker.connect = killed
{TOO_LONG}
"""
INTERNALS = """
import inspect, ray
from ray._private import node, worker
assert "worker.core_worker = ray._raylet.CoreWorker(" in inspect.getsource(worker.connect)
assert callable(ray._raylet.CoreWorker) and hasattr(node.Node, "dead_processes")
assert "_global_node" in vars(worker)
from cmkd.sweep.ray_engine import SPARED
assert all(callable(getattr(node.Node, name)) for name in SPARED)
print("as ever")
"""
# As above, without a Ray.
DEAD_AT_CONNECTION = """
import ray
from types import SimpleNamespace
from ray._private import worker
from cmkd.errors import InfrastructureError
from cmkd.sweep.ray_engine import servers_alive_at_connection
connect = ray._raylet.CoreWorker
for dead in ([], [("raylet", None)]):
    worker._global_node = SimpleNamespace(dead_processes=lambda: dead)
    try:
        with servers_alive_at_connection():
            ray._raylet.CoreWorker()
    except (InfrastructureError, TypeError) as error:
        print(type(error).__name__, error)
    assert ray._raylet.CoreWorker is connect
"""
# As Ray 2.60 says it, in part.
OUT_OF_MEMORY = """
from ray.exceptions import OutOfMemoryError
from cmkd.sweep.tune_adapter import engine_failure
print(engine_failure(OutOfMemoryError(
    "1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: "
    "127.0.0.1, ID: 17f8) was 14.87GB used / 23.54GB limit (0.631545)\\nOOM kill reason: x\\n"
    "Selected to kill: (Actor(07): pid=28791, actual memory used=0.32GB, worker ID=38)"
)).cause)
"""
# What Tune keeps of a worker that died at first and was killed for want of memory at last.
TEXT_ALONE = """
import sys
from pathlib import Path
from types import SimpleNamespace
from ray import cloudpickle
from ray.exceptions import RayActorError
from cmkd.sweep.tune_adapter import engine_failure, error_of
folder = Path(sys.argv[1])
trial = SimpleNamespace(error_file=str(folder / "error.txt"), pickled_error_file=None)
print(error_of(trial))
died = RayActorError("a0", "it died")
text = f"Failure # 1 (occurred at 2026)\\n{died}\\n"
Path(trial.error_file).write_text(text)
trial.pickled_error_file = str(folder / "error.pkl")
Path(trial.pickled_error_file).write_bytes(cloudpickle.dumps(died))
print(type(error_of(trial)).__name__)
text += "Failure # 2 (occurred at 2026)\\nno memory: 2GB\\nmore\\n"
Path(trial.error_file).write_text(text)
print(engine_failure(error_of(trial)).cause)
"""
# A trial whose own process starts, and one without, when another process becomes free.
FREE_PROCESS = """
from types import SimpleNamespace
from ray.tune.execution.tune_controller import TuneController
from cmkd.sweep.tune_adapter import keep_starting_processes
keep_starting_processes()
keep_starting_processes()
asked = []
cache = SimpleNamespace(has_cached_object=lambda kind: asked.append(kind))
manager = SimpleNamespace(is_actor_started=lambda actor: actor == "has its CPU")
controller = SimpleNamespace(
    _actor_cache=cache, _actor_manager=manager, _resetting_trials=set(), _trial_to_actor={}
)
for actor in ("has its CPU", "waits for a CPU", None):
    class trial:
        placement_group_factory = actor
    controller._trial_to_actor = {trial: actor} if actor else {}
    TuneController._maybe_reuse_cached_actor(controller, trial)
print(asked)
"""
OF_A_CREW = """
from ray.exceptions import RayActorError, RayTaskError
from ray.train import WorkerGroupError
from ray.train.v2._internal.exceptions import (
    UserExceptionWithTraceback, WorkerHealthCheckFailedError,
)
from cmkd.sweep.tune_adapter import engine_failure
lost = WorkerHealthCheckFailedError("rank 1", RayActorError("a0", "The actor died."))
wrong = UserExceptionWithTraceback(ValueError("no such thing"), "frames")
for one in (lost, wrong):
    print(engine_failure(RayTaskError("step", "", WorkerGroupError("many words", {1: one}))).cause)
"""
SECRETS = """
import os
from ray.tune.execution import class_cache
from cmkd.sweep.tune_adapter import TrialTrainable, pass_environment
os.environ.update(AWS_SECRET_ACCESS_KEY="canary", RAY_CHDIR_TO_TRIAL_DIR="0")
pass_environment(inherited=False)
made = class_cache._ActorClassCache().get(TrialTrainable)
told = made._default_options["runtime_env"]["env_vars"]
print("RAY_CHDIR_TO_TRIAL_DIR" in told, "canary" in str(told))
"""
ERRORS = """
import os, sys
from pathlib import Path
from types import SimpleNamespace
from cmkd.sweep import ray_engine, tune_adapter
from cmkd.sweep.events import TrialQueue

class Fails:
    def __init__(self, configs, cache):
        pass
    def start(self, trial_id):
        self.trial_id = trial_id
    def step(self):
        if self.trial_id == "raises":
            raise ValueError("no such thing")
        os._exit(1)

def refuse(trial_id):
    raise ZeroDivisionError("ours")

def tell(update):
    print(update.failure.cause)
    print("in step" in update.failure.trace)
    queue.ended(update.trial_id)

def nothing(*_):
    pass

def events(key, started, updated):
    return SimpleNamespace(
        name="name", configs={key: None}, queue=queue, started=started, updated=updated,
        gives_up=nothing,
    )

class Trainable(tune_adapter.TrialTrainable):
    def setup(self, config, configs=None, cache=None, **_):
        self.worker = Fails(configs, cache)
        self.worker.start(config["trial"])

tune_adapter.TrialTrainable = Trainable
tune_adapter.RETRIES = 0
with ray_engine.start_engine(1, Path(sys.argv[1])) as engine:
    for key in ("raises", "dies"):
        queue = TrialQueue([], {key: None}, workers=1)
        engine.train(events(key, nothing, tell), nothing)
    try:
        queue = TrialQueue([], {"raises": None}, workers=1)
        engine.train(events("raises", refuse, nothing), nothing)
    except ZeroDivisionError as error:
        print(repr(error))
"""


GIVEN_UP = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from cmkd.sweep import ray_engine, tune_adapter
from cmkd.sweep.events import TrialQueue
from cmkd.sweep.worker import Update
from cmkd.training.outcome import TrainingResult

class Counts:
    def __init__(self, configs, cache):
        self.epochs = configs
    def start(self, trial_id):
        self.trial_id, self.epoch = trial_id, 0
    def step(self):
        self.epoch += 1
        over = self.epoch == self.epochs[self.trial_id]
        return Update(self.trial_id, (self.epoch,), 1, TrainingResult({}, ()) if over else None)

def gives_up(update):
    return update.trial_id == "slow" and update.epochs[0] == 2

def tell(update):
    print(update.trial_id, *update.epochs, update.done)
    if update.done or gives_up(update):
        queue.ended(update.trial_id)

class Trainable(tune_adapter.TrialTrainable):
    def setup(self, config, configs=None, cache=None, **_):
        self.worker = Counts(configs, cache)
        self.worker.start(config["trial"])

tune_adapter.TrialTrainable = Trainable
queue = TrialQueue([], {"slow": None, "next": None}, workers=1)
events = SimpleNamespace(
    name="name", configs={"slow": 9, "next": 1}, queue=queue, updated=tell, gives_up=gives_up,
    started=lambda trial_id: print("started", trial_id),
)
with ray_engine.start_engine(1, Path(sys.argv[1])) as engine:
    engine.train(events, lambda: None)
"""


def output_of(script: str, folder: Path, **environment: str) -> list[str]:
    """Lines that a script prints in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if "(raylet)" not in line]


FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["cmkd.sweep.tune_adapter"])


def forked(script: str, folder: Path) -> list[str]:
    """`output_of` a script that starts no Ray, in a process that has Tune loaded: 2 s less."""
    path = folder / "output.txt"
    process = FORKS.Process(target=_print, args=(script, folder, path))
    process.start()
    process.join()
    output = path.read_text()
    assert process.exitcode == 0, output
    return output.splitlines()


def _print(script: str, folder: Path, path: Path) -> None:
    sys.argv = ["-c", str(folder)]
    with path.open("w") as output, redirect_stdout(output), redirect_stderr(output):
        exec(script, {"__name__": "__main__"})


@pytest.mark.parametrize(
    ("gpus", "workers", "share"), [(0, 2, 0.0), (1, 1, 1.0), (1, 4, 0.25), (2, 3, 0.5), (4, 2, 1.0)]
)
def test_all_workers_fit_on_the_gpus(gpus, workers, share):
    assert gpu_share(gpus, workers) == share


def test_an_engine_that_does_not_start_names_a_remedy(tmp_path):
    (line,) = output_of(TOO_LONG, tmp_path, RAY_TMPDIR=str(tmp_path / ("x" * 120)))
    assert line.startswith("Ray does not start: ")
    assert line.endswith("; a short RAY_TMPDIR may help")


def test_servers_that_take_too_long_are_no_bug(tmp_path):
    (line,) = forked(TOO_SLOW, tmp_path)
    assert line.startswith("Ray does not start: The current node timed out during startup.; ")


def test_ray_connects_a_driver_where_its_servers_are_looked_at(tmp_path):
    assert forked(INTERNALS, tmp_path) == ["as ever"], (
        "this version of Ray connects its driver elsewhere than ray._raylet.CoreWorker in "
        "ray._private.worker.connect; mend servers_alive_at_connection in ray_engine.py"
    )


def test_a_driver_connects_to_living_servers_alone(tmp_path):
    alive, dead = forked(DEAD_AT_CONNECTION, tmp_path)
    assert alive.startswith("TypeError "), "Ray is asked, and lacks its arguments"
    assert dead.startswith("InfrastructureError Ray's raylet died while Ray started")


@pytest.mark.slow  # a real Ray, and its worker
def test_workers_load_what_trials_need_while_the_driver_does_something_else(tmp_path):
    assert output_of(STARTED, tmp_path) == ["meanwhile", "True", "True", "meanwhile False"]


@pytest.mark.slow  # a real Ray
def test_a_raylet_that_dies_before_the_driver_connects_ends_it_with_a_line(tmp_path):
    line = output_of(KILLED_AT_START, tmp_path)[-1]
    assert line.startswith("Ray's raylet died while Ray started")


def test_row_29_a_worker_that_memory_ran_out_for_tells_the_figures(tmp_path):
    (line,) = forked(OUT_OF_MEMORY, tmp_path)
    assert line.startswith("OutOfMemoryError: its process was killed 3 times")
    assert line.endswith("(14.87GB used / 23.54GB on its machine; 0.32GB by this process)")


def test_row_29_an_error_that_tune_keeps_the_text_of_alone_is_told(tmp_path):
    nothing, died, memory = forked(TEXT_ALONE, tmp_path)
    assert (nothing, died) == ("None", "RayActorError")
    assert memory.endswith("use fewer --workers (no memory: 2GB)")


def test_what_one_of_several_processes_failed_of_is_told(tmp_path):
    lost, wrong = forked(OF_A_CREW, tmp_path)
    assert lost.startswith("WorkerDied: its process was killed 3 times")
    assert lost.endswith("(The actor died.)")
    assert wrong == "ValueError: no such thing"


def test_a_free_process_is_given_to_no_trial_whose_own_starts(tmp_path):
    assert forked(FREE_PROCESS, tmp_path) == ["['waits for a CPU', None]"]


def test_row_34_tune_starts_workers_without_credentials_in_their_commands(tmp_path):
    assert forked(SECRETS, tmp_path) == ["True False"]


@pytest.mark.slow  # a real Ray, and its workers
def test_causes_survive_the_engine(tmp_path):
    told, trace, died, _, ours = output_of(ERRORS, tmp_path)
    assert told == "ValueError: no such thing"
    assert trace == "True", "the frames of the worker are kept"
    assert died.startswith("WorkerDied: its process was killed")
    assert died.endswith(")")
    assert ours == "ZeroDivisionError('ours')"


@pytest.mark.slow  # a real Ray, and its worker
def test_a_trial_that_is_given_up_ends_and_the_next_one_starts(tmp_path):
    assert output_of(GIVEN_UP, tmp_path) == [
        "started slow",
        "slow 1 False",
        "slow 2 False",
        "started next",
        "next 1 True",
    ]
