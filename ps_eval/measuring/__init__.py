"""Questions to curve tables: sample, probe, grade, keep."""
