"""The name of every file and folder below ``runs/``; the package docstring shows the tree."""

import re

# The folder of runs.
MLFLOW_NAME = "mlflow.db"
MLFLOW_LOCK_NAME = ".mlflow.lock"
CACHE_FOLDER = "cache"
TRAIN_FOLDER = "train"
IMPORTED_FOLDER = "imported"
PRETRAIN_FOLDER = "pretrain"
OWN_FOLDERS = (CACHE_FOLDER, TRAIN_FOLDER, IMPORTED_FOLDER, PRETRAIN_FOLDER)

# A run folder.
CONFIG_NAME = "config.gin"
CODE_NAME = "code.json"
OPERATIVE_NAME = "operative.json"
SHOTS_NAME = "shots.json"
EPOCHS_NAME = "log.jsonl"
WEIGHTS_NAME = "weights.safetensors"
TRAINING_NAME = "training.safetensors"
CORRECT_NAME = "correct.json"
PREDICTIONS_NAME = "predictions.json"
RECORD_NAME = "record.json"
OUTPUT_NAME = "output.log"
INSPECTION_NAME = "inspect"
INSPECTION_PAGE = "index.html"
PREVIOUS_SUFFIX = ".previous"
STALE_SUFFIX = ".stale"
RERUN_SUFFIX = ".rerun"
DAMAGED_SUFFIX = ".damaged"

# A study folder; a search folder has all of these but the manifest.
MANIFEST_NAME = "study.json"
LOCK_NAME = ".lock"
SHARE_FOLDER = ".share"
WORKER_LOG_NAME = "worker-{slot}.log"
MIRROR_LOCK_NAME = ".mirror.lock"
MIRROR_LOG_NAME = "mirror.log"
ARTIFACTS_NAME = "artifacts"
WANDB_FOLDER = "wandb"
WANDB_LEDGER_NAME = "mirrored.jsonl"
REPORT_FOLDER = "report"
FIGURES_FOLDER = "figures"

# A search folder.
DEFINITION_NAME = "search.json"
LEDGER_NAME = "ledger.jsonl"
TRIALS_NAME = "trials.json"
BEST_NAME = "best.gin"
IMPORTANCES_NAME = "importances.json"
RESULT_NAME = "result.json"
JOURNAL_NAME = "optuna.journal"
STORAGE_LOG_NAME = "storage.log"
FINAL_SUFFIX = "_final"
CONTROL_SUFFIX = "_random"

_STUDY_NAME = re.compile(r"\w[\w.-]*")
_MAX_NAME_BYTES = 200


def checked_study_name(name: str, setting: str) -> str:
    """The name of a study, which is its folder below the folder of runs.

    Raises ValueError, naming the setting, for what cannot name a folder on every system, and for
    the folders and files that other commands keep there, in any case of letters.
    """
    if not _STUDY_NAME.fullmatch(name) or name.endswith("."):
        raise ValueError(
            f"{setting} must be a folder name of letters, digits, '_', '-' and, inside, '.', "
            f"got {name!r}"
        )
    if len(name.encode()) > _MAX_NAME_BYTES:
        raise ValueError(
            f"{setting} must be a folder name of at most {_MAX_NAME_BYTES} bytes, got "
            f"{len(name.encode())}: {name[:40]}..."
        )
    if name.casefold() in OWN_FOLDERS or name.casefold().startswith(MLFLOW_NAME):
        raise ValueError(
            f"{setting} = {name!r} is a name that other commands use below the folder of runs "
            f"({', '.join((*OWN_FOLDERS, MLFLOW_NAME))}); choose another one"
        )
    return name
