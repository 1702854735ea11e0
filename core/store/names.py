"""The name of every file and folder below ``runs/``; the package docstring shows the tree."""

# The folder of runs.
MLFLOW_NAME = "mlflow.db"
MLFLOW_LOCK_NAME = ".mlflow.lock"

# A run folder.
CONFIG_NAME = "config.gin"
SHOTS_NAME = "shots.json"
EPOCHS_NAME = "log.jsonl"
WEIGHTS_NAME = "weights.safetensors"
CORRECT_NAME = "correct.json"
PREDICTIONS_NAME = "predictions.json"
RECORD_NAME = "record.json"
OUTPUT_NAME = "output.log"
INSPECTION_NAME = "inspect"
INSPECTION_PAGE = "index.html"
PREVIOUS_SUFFIX = ".previous"
RERUN_SUFFIX = ".rerun"
DAMAGED_SUFFIX = ".damaged"

# A study folder; a search folder has all of these but the manifest.
MANIFEST_NAME = "study.json"
LOCK_NAME = ".lock"
WORKER_LOG_NAME = "worker-{slot}.log"
MIRROR_LOCK_NAME = ".mirror.lock"
MIRROR_LOG_NAME = "mirror.log"
ARTIFACTS_NAME = "artifacts"

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
