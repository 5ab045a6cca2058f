"""Telling the user what was done: records, the JSON report, the closing summary."""
