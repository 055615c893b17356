"""MLflow: a server, or a database in the workspace."""

import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from histocli.trackers.base import StartedTracking, Status, Summary, TrackedRun, Tracker

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Used unless the user has set them: a server that does not answer must not hold the training for long, the library
# must not report its use, and it must not print what it does to its database.
_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}
_STATUS: dict[Status, str] = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
_MAX_PARAMETERS = 100  # one request has at most this many parameters


class MLflowTracker(Tracker):
    """Sends a run to the server of `MLFLOW_TRACKING_URI`, or writes it to `mlflow/mlflow.db` in the workspace."""

    client: "MlflowClient"

    def start(self, run: TrackedRun) -> StartedTracking:
        """Create the run in the experiment `MLFLOW_EXPERIMENT_NAME`, or continue it."""
        for name, value in _DEFAULTS.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient
        from mlflow.entities import Param

        uri, local = os.environ.get("MLFLOW_TRACKING_URI"), run.workspace.absolute() / "mlflow"
        artifacts = None
        if not uri:
            local.mkdir(parents=True, exist_ok=True)
            uri, artifacts = f"sqlite:///{local / 'mlflow.db'}", (local / "artifacts").as_uri()
        self.client = MlflowClient(uri)
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", "histo")
        if run.id:
            self.id = run.id
            self.client.update_run(self.id, status="RUNNING")
        else:
            known = self.client.get_experiment_by_name(experiment)
            number = known.experiment_id if known else self.client.create_experiment(experiment, artifacts)
            tags = run.tags | ({"group": run.group} if run.group else {})
            self.id = self.client.create_run(number, run_name=run.name, tags=tags).info.run_id
            parameters = [Param(name, str(value)) for name, value in run.config.items()]
            for first in range(0, len(parameters), _MAX_PARAMETERS):
                self.client.log_batch(self.id, params=parameters[first : first + _MAX_PARAMETERS])
        shown = f"mlflow ui --backend-store-uri {uri}" if artifacts else uri
        return StartedTracking(f"{shown}, experiment {experiment}")

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Send metrics."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self.client.log_batch(self.id, metrics=[Metric(name, value, now, step) for name, value in metrics.items()])

    def summarise(self, summary: Summary) -> None:
        """Send the final metrics, and the pictures and the model card as artifacts."""
        self.log(summary.metrics, 0)
        self.client.log_artifact(self.id, str(summary.card))
        for path in summary.pictures.values():
            self.client.log_artifact(self.id, str(path), artifact_path="best")

    def close(self, status: Status) -> None:
        """Set the final state of the run."""
        self.client.set_terminated(self.id, _STATUS[status])
