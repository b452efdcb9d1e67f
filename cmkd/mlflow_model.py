"""Student as a model of MLflow, from paths of videos to probabilities.

MLflow keeps this file with the model and runs it where the model is loaded ("models from code"):
no pickle is stored or loaded. The package `cmkd` has to be installed there.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import cmkd
from cmkd.errors import InputError
from cmkd.predict import Student, load_student
from cmkd.tracking.mlflow_calls import Calls, quieten
from cmkd.tracking.reader import open_reader
from cmkd.tracking.store import checked_uri, default_uri, redact, store_exists
from cmkd.training.outcome import STUDENT_CONFIG_FILE, STUDENT_FILE

quieten()
with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)  # About type hints of MLflow's own classes.
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus
    from mlflow.models import Model, set_model
    from mlflow.pyfunc import save_model
    from mlflow.pyfunc.model import PythonModel, PythonModelContext


class VideoModel(PythonModel):
    """Predictions of videos, as `cmkd.predict.Student.predict`."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the student of the model."""
        self._student = load_student(Path(context.artifacts[STUDENT_FILE]).parent)

    def predict(
        self, context: PythonModelContext, model_input: list[str], params: object = None
    ) -> list[dict[str, float]]:
        """Probability of every class, for each video.

        Args:
            model_input: paths of videos on the machine that runs the model.

        Raises:
            DataError: a file is missing, damaged, too short or no video; names it.
        """
        return [dict(self._student.predict(path).probabilities) for path in model_input]


set_model(VideoModel())


def register(student: Student, name: str, *, store: str | None = None) -> str:
    """Log the model with the run of its trial and register it; returns ``models:/NAME/VERSION``.

    Args:
        name: of the registered model; a further version if it is there.
        store: tracking store of the run; None as in `cmkd.results`.

    Raises:
        InputError: the store has no finished run of the trial, or refuses the name.
        InfrastructureError: the store does not answer.
    """
    uri, trial = checked_uri(store or default_uri()), student.description.trial_id
    found = open_reader(uri).find({"trial_id": trial}) if store_exists(uri) else []
    runs = [run for run in found if run.status == "FINISHED"]
    if not runs:
        raise InputError(
            f"{redact(uri)}: has no finished run of trial {trial}",
            "name the store of its sweep with --tracking-uri, or run the sweep again",
        )
    run, call = runs[0], Calls(uri)
    client = call(MlflowClient, tracking_uri=uri)
    made = call(client.create_logged_model, run.experiment_id, name, source_run_id=run.run_id)
    ending = LoggedModelStatus.FAILED
    try:
        with tempfile.TemporaryDirectory() as scratch:
            folder, files = Path(scratch, "model"), student.folder.resolve()
            save_model(
                folder,
                python_model=__file__,
                artifacts={name: str(files / name) for name in (STUDENT_CONFIG_FILE, STUDENT_FILE)},
                pip_requirements=[f"cmkd=={cmkd.__version__}"],
                mlflow_model=Model(
                    artifact_path=made.artifact_location,
                    run_id=run.run_id,
                    model_uuid=made.model_id,
                    model_id=made.model_id,
                ),
            )
            call(client.log_model_artifacts, made.model_id, str(folder))
        ending = LoggedModelStatus.READY
    finally:
        call(client.finalize_logged_model, made.model_id, ending)
    call(client.log_outputs, run.run_id, [LoggedModelOutput(made.model_id, step=0)])
    if not call(client.search_registered_models, f"name = '{name}'"):
        call(client.create_registered_model, name)
    version = call(
        client.create_model_version,
        name,
        f"models:/{made.model_id}",
        run_id=run.run_id,
        model_id=made.model_id,
    )
    return f"models:/{name}/{version.version}"
