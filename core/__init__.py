"""The foundation: types, configuration, stored files, frozen model, data, training."""
