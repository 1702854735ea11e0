"""What everything else stands on: types, configuration, records, the frozen model, data and training."""
