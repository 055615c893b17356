"""What `histo eval` has written of a run."""

from typing import Any

from histocli.data.manifest import file_sha256
from histocli.workspace import Workspace, read_json


def evaluations_of(workspace: Workspace, run: str) -> list[dict[str, Any]]:
    """Every evaluation of a run's `best.pt`, as it is now, that is in the workspace."""
    best = file_sha256(workspace.run_dir(run) / "best.pt")
    files = [read_json(path) for path in sorted(workspace.metrics_dir.glob(f"{run}-*.json"))]
    return [made for made in files if isinstance(made, dict) and made.get("checkpoint_sha256") == best]
