"""The one definition of every file below ``runs/``: name, schema version, reading and writing.

Standard library only, so that whoever reads results loads neither torch nor anything else. Every
file is written atomically, or line by line.

::

    runs/
    |-- cache/                    image features and dataset indexes; may be deleted
    |-- mlflow.db                 MLflow's copy of all studies (.mlflow.lock: while it is created)
    |-- train/IDENTITY/           a run outside a study, a run folder like those below
    |-- imported/IDENTITY/        a run whose weights come from a published checkpoint
    |-- STUDY/
    |   |-- study.json            the manifest: variants, datasets, seeds, cells  (manifest.py)
    |   |-- .lock                 who works on the study, empty when nobody does
    |   |-- worker-N.log          what worker N printed outside its runs
    |   |-- mirror.log            what the mirror process printed (.mirror.lock: while it runs)
    |   |-- artifacts/            where MLflow would keep artifacts; stays empty
    |   |-- report/               what the report command made
    |   `-- IDENTITY/             a run folder, named by the identity of its run
    |       |-- config.gin        the resolved configuration, written first  (settings.py)
    |       |-- shots.json        the few-shot images  (shots.py)
    |       |-- log.jsonl         one line per epoch  (epochs.py)
    |       |-- output.log        what the run printed
    |       |-- weights.safetensors   what was learned
    |       |-- correct.json      which test images were predicted correctly  (correct.py)
    |       |-- record.json       makes the run finished, written last  (record.py)
    |       |-- record.json.previous  of a run that was run again on request
    |       `-- record.json.damaged   of a run that is run again because its record was torn
    |-- SEARCH/                   has run folders, .lock and logs as a study has
    |   |-- search.json           the definition: everything that the trials follow from
    |   |-- ledger.jsonl          what the sampler was asked and told: the truth of the search
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
    "RunRecord",
    "Trial",
    "has_config",
    "has_manifest",
    "is_search",
    "read_config",
    "read_correct_images",
    "read_definition",
    "read_manifest",
    "read_record",
    "read_records",
    "read_settings",
    "read_trials",
    "write_atomic",
    "write_config",
    "write_correct_images",
    "write_manifest",
    "write_record",
]
