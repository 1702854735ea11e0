"""From records to a report: frames, statistics, tables, plots. Never imports torch."""
