"""Sources of data, one file per kind. A leaf: it knows nothing of models or tasks."""
