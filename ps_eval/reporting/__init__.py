"""Results to tables, pictures and pages."""
