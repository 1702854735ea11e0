"""The one definition of every file below ``runs/``: name, schema version, reading and writing.

Standard library only, so that reading results does not load torch or other libraries. Every file is
written atomically, or line by line, and carries a checksum or is covered by one. A file whose
checksum does not match is named with the way out, or, in the cache, made anew with a warning; a
file of a newer version is refused and left as it is.

::

    runs/
    |-- cache/                    image features and dataset indexes; may be deleted
    |-- mlflow.db                 MLflow's copy of all studies (.mlflow.lock: while it is created)
    |-- train/IDENTITY/           a run outside a study, a run folder like those below
    |-- imported/IDENTITY/        a run whose weights come from a published checkpoint
    |-- STUDY/
    |   |-- study.json            the manifest: variants, datasets, seeds, cells  (manifest.py)
    |   |-- .lock                 the process that works on the study; empty if there is none
    |   |-- .share/               of several drivers on one study: who they are, what each has
    |   |                         claimed, and runs in progress; removed when all is done
    |   |-- slurm/                output of the Slurm jobs that work on the study
    |   |-- IDENTITY.rerun/         a run that is being repeated, on request or with other code
    |   |-- worker-N.log          output of worker N outside its runs
    |   |-- mirror.log            output of the mirror process (.mirror.lock: while it runs)
    |   |-- artifacts/            MLflow: configuration, log and figures of every run
    |   |-- wandb/                W&B: runs kept offline, and the ledger of what was written
    |   |-- report/               output of the report command
    |   `-- IDENTITY/             a run folder, named by the identity of its run
    |       |-- config.gin        the resolved configuration, written first  (settings.py)
    |       |-- code.json         the definitions of the code that it ran  (code.py)
    |       |-- operative.json    the settings in force, defaults included; older runs lack it
    |       |-- shots.json        the few-shot images  (shots.py)
    |       |-- log.jsonl         one line per epoch  (epochs.py)
    |       |-- output.log        what the run printed
    |       |-- weights.safetensors   what was learned
    |       |-- training.safetensors  the state of a training under way, with checkpoint_every
    |       |-- correct.json      which test images were predicted correctly  (correct.py)
    |       |-- predictions.json  the predicted class of every test image, and its confidence
    |       |                     (predictions.py); runs made by old versions lack it
    |       |-- record.json       makes the run finished, written last  (record.py); it has the
    |       |                     checksums of the other files  (own_files.py)
    |       |-- inspect/          output of the inspect command
    |       |-- record.json.previous  the old record of a run that was rerun on request
    |       |-- record.json.stale   the old record of a run that was made again with other code;
    |       |                       further ones are record.json.stale-2, ...
    |       `-- record.json.damaged   the torn record of a run that is rerun
    |-- SEARCH/                   has run folders, .lock and logs as a study has
    |   |-- search.json           the definition: everything that determines the trials
    |   |-- ledger.jsonl          proposals and outcomes: the authoritative log of the search
    |   |-- ledger.jsonl.damaged  a copy from before a torn end was cut off
    |   |-- trials.json           the ledger as a table for readers  (search.py, as those below)
    |   |-- best.gin              the winner as a configuration
    |   |-- importances.json      how much each setting mattered
    |   |-- result.json           the winner on test images
    |   |-- optuna.journal        a copy for Optuna's dashboard
    |   `-- storage.log           why a copy in another Optuna storage is behind
    |-- SEARCH_random/            the random search of equal budget, a search folder
    `-- SEARCH_final/             the default and the winners on test images, a study folder
"""

from core.store.atomic import write_atomic
from core.store.correct import CorrectImages, read_correct_images, write_correct_images
from core.store.manifest import (
    CellKey,
    Manifest,
    ManifestCell,
    ManifestVariant,
    has_manifest,
    read_manifest,
    write_manifest,
)
from core.store.predictions import PredictedClasses, read_predictions, write_predictions
from core.store.record import (
    Cost,
    Evaluation,
    RunRecord,
    read_record,
    read_records,
    write_record,
)
from core.store.search import Trial, is_search, read_definition, read_trials
from core.store.settings import has_config, read_config, read_settings, write_config

__all__ = [
    "CellKey",
    "CorrectImages",
    "Cost",
    "Evaluation",
    "Manifest",
    "ManifestCell",
    "ManifestVariant",
    "PredictedClasses",
    "RunRecord",
    "Trial",
    "has_config",
    "has_manifest",
    "is_search",
    "read_config",
    "read_correct_images",
    "read_definition",
    "read_manifest",
    "read_predictions",
    "read_record",
    "read_records",
    "read_settings",
    "read_trials",
    "write_atomic",
    "write_config",
    "write_correct_images",
    "write_manifest",
    "write_predictions",
    "write_record",
]
