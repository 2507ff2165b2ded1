"""What stands between a CTC model and text: paths, beams, language models, times."""
