"""Models as files that run elsewhere: `export(model, folder, "onnx")` or `"torch"`."""

from subquad.hf.exporting.files import FORMATS, Exported, export, write
from subquad.hf.exporting.graphs import Graph, whole
from subquad.hf.exporting.steps import step

__all__ = ["FORMATS", "Exported", "Graph", "export", "step", "whole", "write"]
