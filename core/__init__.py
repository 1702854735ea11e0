"""What everything stands on: types, configuration, records, frozen model, data, training."""
