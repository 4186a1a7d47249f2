"""onnx: a graph from pixels to logits, for runtimes without Python or torch; read back by onnxruntime."""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path

import torch

from mixdist.errors import UserError
from mixdist.serving.classifier import Classifier, FromPixels
from mixdist.serving.description import Description
from mixdist.serving.finished_run import FinishedRun
from mixdist.serving.layouts import Head, Net

FILE = "model.onnx"
MISSING = "the onnx layout needs onnx, onnxscript and onnxruntime: pip install 'mixdist[onnx]'"
EXAMPLES = 2  # images that the graph is traced with; of one, torch would take the batch for a constant


def write(folder: Path, run: FinishedRun, net: Classifier) -> Head:
    """Write the graph, its weights inside.

    Raises:
        UserError: onnx or onnxscript is not installed.
    """
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(MISSING) from error
    size = run.task.image_size
    pixels = torch.zeros(EXAMPLES, size, size, 3, dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own deprecations, which nobody who exports can do anything about
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            FromPixels(net, run.task),
            (pixels,),
            input_names=["pixels"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props["classes"] = json.dumps(run.task.classes, ensure_ascii=False)
    program.save(folder / FILE)
    return "inside"


def read(folder: Path, description: Description, device: torch.device) -> Net:
    """Open the graph in onnxruntime, which runs on the CPU.

    Raises:
        UserError: onnxruntime is not installed, or refuses the file.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(MISSING) from error
    try:
        session = onnxruntime.InferenceSession(folder / FILE, providers=["CPUExecutionProvider"])
    except Exception as error:  # a dozen types of its own
        raise UserError(f"onnxruntime cannot open {folder / FILE}: {' '.join(str(error).split())}") from error

    def run(pixels: torch.Tensor) -> torch.Tensor:
        (logits,) = session.run(None, {"pixels": pixels.cpu().numpy()})
        return torch.from_numpy(logits)

    return run
