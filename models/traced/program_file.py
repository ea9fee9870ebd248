"""A traced program in files: `program.json` and `weights.safetensors`; no pickle, no code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from safetensors.numpy import save_file

from ...instruments import InputError
from ...instruments.files import whole_output
from ...scheduler.program import HostStep, OpticalMatmul, Program, Shape, Size, Step
from .aten_steps import register_steps
from .traced_weights import TracedWeights

SCHEMA = 1
KIND = "lightloom program"
PROGRAM, WEIGHTS = "program.json", "weights.safetensors"


def write_program(
    folder: Path, program: Program, weights: Mapping[str, np.ndarray], about: Mapping[str, Any]
) -> None:
    """Write a program into a folder, which is made if it is not there.

    Raises
    ------
    InputError : when a file cannot be written, or the folder holds a program of something else
    """
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {name: np.array(weights[name], order="C") for name in weights}
    with whole_output(folder / WEIGHTS, "safetensors") as draft:
        save_file(arrays, draft)
    document = {"schema": SCHEMA, "kind": KIND, **about, "program": document_of(program)}
    with whole_output(folder / PROGRAM, KIND) as draft:
        draft.write_text(json.dumps(document, indent=1), encoding="utf-8")


def read_program(folder: Path) -> tuple[Program, TracedWeights, dict[str, Any]]:
    """Return the program of a folder, its weights, and what else was written with it.

    Raises
    ------
    InputError : for files that are damaged, of another kind, or of a newer lightloom
    """
    path = folder / PROGRAM
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document.get("kind") != KIND:
            raise InputError(f"{path} is not a program of lightloom")
        if document["schema"] != SCHEMA:
            raise InputError(
                f"{path} has schema {document['schema']}, and this lightloom reads {SCHEMA}; use "
                "the lightloom that wrote it, or trace the model again"
            )
        program = program_of(document.pop("program"))
        weights = _stored(folder / WEIGHTS)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} cannot be read as a program ({error}); trace it again") from None
    for name, shape in program.weight_shapes.items():
        if name not in weights or weights.shape_of(name) != shape:
            raise InputError(
                f"{folder / WEIGHTS}: tensor {name!r} is missing or not of shape {list(shape)}, so "
                "that the weights do not belong to the program; trace it again"
            )
    register_steps(program)
    return program, weights, document


def _stored(path: Path) -> TracedWeights:
    """Return the tensors of a file, each read when it is needed."""
    try:
        opened: Any = safetensors.safe_open(path, framework="numpy")
        shapes = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise InputError(f"{path} is damaged ({error}); trace the model again") from None

    def reader(name: str) -> Any:
        return lambda: opened.get_tensor(name)

    return TracedWeights(path, {name: (shape, reader(name)) for name, shape in shapes.items()})


def document_of(program: Program) -> dict[str, Any]:
    """Return a program as data for JSON."""
    return {
        "inputs": program.inputs,
        "states": program.states,
        "outputs": program.outputs,
        "shapes": {name: _terms(shape) for name, shape in program.shapes.items()},
        "weight_shapes": program.weight_shapes,
        "steps": [_step_document(step) for step in program.steps],
    }


def _terms(shape: Shape) -> list[Any]:
    return [list(size.terms) for size in shape]


def _step_document(step: Step) -> dict[str, Any]:
    if isinstance(step, OpticalMatmul):
        shapes = {"x_shape": _terms(step.x_shape), "w_shape": _terms(step.w_shape)}
        return {"matmul": {**vars(step), **shapes}}
    shapes = {
        "in_shapes": [_terms(shape) for shape in step.in_shapes],
        "out_shapes": [_terms(shape) for shape in step.out_shapes],
    }
    return {"host": {**vars(step), **shapes}}


def program_of(document: Mapping[str, Any]) -> Program:
    """Return the program that `document_of` wrote."""
    return Program(
        tuple(_step(one) for one in document["steps"]),
        tuple(document["inputs"]),
        tuple(document["states"]),
        tuple(document["outputs"]),
        {name: _shape(shape) for name, shape in document["shapes"].items()},
        {name: tuple(shape) for name, shape in document["weight_shapes"].items()},
    )


def _shape(terms: Any) -> Shape:
    return tuple(
        Size(tuple((factor, tuple(symbols)) for factor, symbols in size)) for size in terms
    )


def _step(document: Mapping[str, Any]) -> Step:
    ((kind, given),) = document.items()
    if kind == "matmul":
        of_product = {key: _shape(given[key]) for key in ("x_shape", "w_shape")}
        return OpticalMatmul(**{**given, **of_product})
    if kind != "host":
        raise ValueError(f"a step of kind {kind!r} is unknown")
    shapes = {
        key: tuple(_shape(shape) for shape in given[key]) for key in ("in_shapes", "out_shapes")
    }
    names = {key: tuple(given[key]) for key in ("inputs", "outputs")}
    return HostStep(**{**given, **shapes, **names})
