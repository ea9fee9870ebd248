"""`Light`: runs a torch module with its matrix products on a backend.

Products are caught below autograd, so that gradients pass straight through noise, quantisation and
ranges: they are those of exact products of the same operands. Products of the backward pass, and of
a forward pass that is computed again within it, stay digital.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from ...backends import Backend, Stats, open_backend, row_ids
from ...backends.address import HEAD_BITS, POSITION_BITS
from ...instruments import InputError
from ...scheduler import DEFAULT_POLICY, Placement
from ...scheduler.costs import BenchModel
from ...scheduler.runs.plan_record import PlanRecord
from ...scheduler.runs.report import Report, Run, bench_seconds
from .checks import check_module, check_operands, check_rounding
from .gradients import QuantisedGradients
from .light_runner import TORCH_STEP, Call, LightRunner
from .module_paths import evaluated
from .module_products import ModuleProducts, NamedProduct, as_heads, facts_of, unfused_attention
from .products import Operation, TensorProduct, operation_of, target_of
from .tags import Tag, changes_of, tensors_in, version_of

GRADIENTS = ("straight-through", "quantised")


class Light:
    """The products of a torch module on a backend, within a `with`; see `lightloom.torch.optics`.

    Attributes
    ----------
    backend : that multiplies
    products : of the module, by their names
    quantised : rounds the operands of gradients; None where they are exact
    remarks : what stays digital, and where ranges come from, as sentences
    """

    def __init__(
        self,
        model: torch.nn.Module,
        backend: Backend | str = "mock",
        placement: str | Path | Placement = DEFAULT_POLICY,
        seed: int = 0,
        calibration: Iterable[Any] = (),
        gradients: str = "straight-through",
    ) -> None:
        check_module(model)
        if gradients not in GRADIENTS:
            raise InputError(f"gradients = {gradients!r}: choose from {', '.join(GRADIENTS)}")
        self._is_own = not isinstance(backend, Backend)
        self.backend = open_backend(backend, seed) if isinstance(backend, str) else backend
        if not isinstance(self.backend, Backend):
            raise InputError(f"backend = {backend!r} is neither a backend nor the name of one")
        self._model = model
        self._seed = 0 if self._is_own else seed
        chosen = placement if isinstance(placement, Placement) else str(placement)
        self._placement = placement if isinstance(placement, str) else str(placement)
        self._is_wide = all(one.dtype.itemsize >= 4 for one in model.parameters())
        self._runner = LightRunner(self.backend, chosen)
        if isinstance(calibration, Mapping | torch.Tensor) or not isinstance(calibration, Iterable):
            raise InputError(
                f"calibration is {type(calibration).__name__}, not a list of inputs of passes; "
                "give [inputs] for one pass"
            )
        self._calibration = calibration
        self.products = ModuleProducts(model)
        self._sequences: np.ndarray | None = None
        self._passes_of: dict[int, int] = {}  # by sequence
        self._pass_number, self._calls = 0, Counter[str]()  # calls of each product in this pass
        self._macs, self._macs_on_light, self._macs_outside = 0, 0, 0
        self._left: Counter[str] = Counter()
        self._changes: dict[int, int] = {}  # of the operands of this operation, by storage
        self._passes = 0
        self._wall_s, self._product_s, self._call_start = 0.0, 0.0, 0.0
        self._product_start_s = 0.0
        self._stack: ExitStack | None = None
        self.quantised: QuantisedGradients | None = None
        if gradients == "quantised" and self.backend.is_optical:
            self.quantised = QuantisedGradients(self.backend.profile)

    # ------------------------------------------------------------------------- the context

    def __enter__(self) -> Self:
        if self._stack is not None:
            raise InputError("these optics are open already; leave their `with` first")
        with ExitStack() as stack:
            self.backend.open()
            if self._is_own:
                stack.callback(self.backend.close)
            stack.enter_context(self.products.paths.watched(self._begin_call, self._end_call))
            stack.enter_context(unfused_attention())
            if self.quantised is not None:
                stack.enter_context(self.quantised.followed())
            stack.enter_context(_ProductMode(self))
            self._runner.forget_weights()
            self.products.begin_pass()
            self.calibrate(*self._calibration)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        stack, self._stack = self._stack, None
        if stack is not None:
            stack.__exit__(*error)

    def calibrate(self, *inputs: Any) -> None:
        """Take read-out ranges, and the scales of dynamic operands, from digital passes.

        Parameters
        ----------
        inputs : of one pass each: a mapping of named arguments, a tuple of them, or one tensor
        """
        for given in inputs:
            if not isinstance(given, Mapping | tuple | list | torch.Tensor):
                raise InputError(
                    f"a calibration input is {type(given).__name__}, not a mapping of named "
                    "arguments, a tuple of them, or one tensor"
                )
        if not inputs:
            return
        self._runner.is_calibrating = True
        try:
            with evaluated(self._model), torch.no_grad():
                for given in inputs:
                    if isinstance(given, Mapping):
                        self._model(**given)
                    else:
                        self._model(*(given if isinstance(given, tuple | list) else (given,)))
        finally:
            self._runner.is_calibrating = False

    @contextmanager
    def sequences(self, ids: Sequence[int] | np.ndarray) -> Iterator[None]:
        """Name the rows of the batches within a `with`; without it they count from zero.

        The noise of a row depends on its id, not on the rows beside it. So a large batch can be
        computed in parts, with the same result.

        Parameters
        ----------
        ids : one for each row of a batch

        Raises
        ------
        InputError : for ids that are not different whole numbers from 0 to 2^24 - 1
        """
        before, self._sequences = self._sequences, _sequence_ids(ids)
        try:
            yield
        finally:
            self._sequences = before

    # --------------------------------------------------------------------------- results

    @property
    def stats(self) -> Stats:
        """Counted events of all products on light so far."""
        total = Stats()
        for record in self._runner.calls.values():
            total.add(record.stats)
        return total

    @property
    def optical_share(self) -> float:
        """MACs that went to the backend, over the MACs of all products of forward passes."""
        return self._macs_on_light / self._macs if self._macs else 0.0

    @property
    def remarks(self) -> tuple[str, ...]:
        """What stayed digital, and which ranges were not calibrated, as sentences."""
        remarks = []
        for name, macs in sorted(self._left.items(), key=lambda item: -item[1]):
            share = f"{macs / max(self._macs, 1):.2%} of all MACs" if macs else "MACs not counted"
            remarks.append(f"{name} stayed digital ({share})")
        if self._macs_outside:
            remarks.append(
                f"products outside of the module's calls stayed digital ({self._macs_outside:,} "
                "MACs, which are in no share)"
            )
        if self._runner.uncalibrated:
            remarks.append(
                f"the ranges of {len(self._runner.uncalibrated)} products come from their first "
                "call, since no calibration inputs were given"
            )
        if any(tensor.is_cuda for tensor in self._model.parameters()):
            remarks.append("operands were copied between the GPU and this computer's memory")
        return tuple(remarks)

    def report(self) -> Report:
        """Return the report of all forward passes so far, as that of `lightloom run`."""
        bench = BenchModel.of(self.backend)
        records = list(self._runner.calls.values())
        plan = PlanRecord(
            _Named(type(self._model).__name__),  # type: ignore[arg-type]
            self.backend,
            bench,
            self._placement,
            "products",
            (),
            (),
            Placement(self._placement, frozenset()),
        )
        predicted = bench_seconds(records, bench) if self.backend.is_optical else None
        throughput = {
            "unit": "forward passes per second",
            "here": self._passes / self._wall_s if self._wall_s else 0.0,
            "bench": self._passes / predicted if predicted else None,
        }
        quality = {
            "metric": "share of MACs on light",
            "digital": None,
            "optical": self.optical_share,
        }
        report = Run(plan, {}, quality, throughput, records, self._wall_s).report()
        return replace(report, remarks=(*report.remarks, *self.remarks))

    # -------------------------------------------------------------------- one operation

    def _begin_call(self) -> None:
        """Begin a pass of the outermost module: find its weights, which may be new tensors."""
        self.products.begin_pass()
        self._call_start, self._product_start_s = time.perf_counter(), self._product_s
        if not self._is_counted:
            return
        rows = np.arange(self.products.paths.batch) if self._sequences is None else self._sequences
        ids = rows.tolist()
        # a later number than that of each row, so that none draws the same noise twice
        self._pass_number = max((self._passes_of.get(row, 0) for row in ids), default=0)
        self._passes_of.update(dict.fromkeys(ids, self._pass_number + 1))
        self._calls.clear()

    @property
    def _is_counted(self) -> bool:
        """Whether the pass is a forward pass, neither calibration nor computed again backwards."""
        return not self._runner.is_calibrating and torch._C._current_graph_task_id() == -1

    def _end_call(self) -> None:
        if not self._is_counted:
            return
        wall = time.perf_counter() - self._call_start
        self._wall_s, self._passes = self._wall_s + wall, self._passes + 1
        batch, new = self.products.paths.batch_and_tokens
        sizes = {"batch": batch, "new": new, "past": 0}
        other_s = wall - (self._product_s - self._product_start_s)
        self._runner.count(TORCH_STEP, False, sizes, other_s)

    def on_light(self, operation: Operation, args: Any) -> torch.Tensor | None:
        """Return the result of an operation on light; None where all of it stays digital."""
        self._changes = {
            tensor.untyped_storage()._cdata: changes_of(tensor) for tensor in tensors_in(args)
        }
        start = time.perf_counter()
        results: list[torch.Tensor | None] = []
        for product in operation.products:
            results.append(self._product(product))
        if results and all(result is None for result in results):
            return None
        done = [
            product.x.float() @ product.w.float().mT if result is None else result
            for product, result in zip(operation.products, results, strict=True)
        ]
        result = operation.finish(done).to(operation.dtype)
        self._product_s += time.perf_counter() - start
        return result

    def is_within(self, args: Sequence[Any]) -> bool:
        """Return whether a product is the module's: within its calls, or with its weights."""
        return bool(self.products.paths.frames) or any(
            self.products.is_weight(tensor) for tensor in args if isinstance(tensor, torch.Tensor)
        )

    def _product(self, product: TensorProduct) -> torch.Tensor | None:
        """Return the result of one product in float32; None where it stays digital."""
        if not product.macs:
            return None
        named = self.products.named(product)
        check_operands(named.name, product.x, product.w)
        if self._is_wide:
            check_rounding(product.w)
        call = self._call(product, named)
        step = self._runner.step_of(call)
        is_on_light = self._runner.goes_to_light(step)
        if not self._runner.is_calibrating:
            self._macs += product.macs
            self._macs_on_light += product.macs if is_on_light else 0
        if not is_on_light:
            if not self._runner.is_calibrating:
                self._left[f"{named.kind} by the placement"] += product.macs
                self._runner.count(step, False, call.sizes, 0.0)
            return None
        y = torch.from_numpy(self._runner.multiply(step, call, self._seed))
        return y.reshape(*product.x.shape[:-1], product.w.shape[-2]).to(product.x.device)

    def _call(self, product: TensorProduct, named: NamedProduct) -> Call:
        is_weight = bool(named.w.weight)
        number = self._calls[named.name]
        if not self._runner.is_calibrating:
            self._calls[named.name] += 1
        x, w = product.x, product.w
        groups, tokens = 1, -2
        if not is_weight:
            tokens = -1 if named.kind == "attention x V" else -2
            x, w, groups = as_heads(x, w, named.kind, self.products.paths.batch)
        return Call(
            name=named.name,
            kind=named.kind,
            x=_array(x),
            w_shape=tuple(w.shape),
            read_w=lambda: _array(w),
            version=self._version(w, named.w) if is_weight else None,
            ids=self._ids(product, is_weight),
            number=(self._pass_number, number),
            tokens=tokens,
            groups=groups,
            non_negative=named.x.is_softmax,
        )

    def _version(self, w: torch.Tensor, tag: Tag) -> tuple[Any, ...]:
        return version_of(w, tag, self._changes.get(w.untyped_storage()._cdata))

    def _ids(self, product: TensorProduct, is_weight: bool) -> np.ndarray:
        """Return an id for each row, from sequence, head and position if the shape tells them."""
        shape, batch = product.x.shape[:-1], self.products.paths.batch
        sequences = np.arange(batch) if self._sequences is None else self._sequences
        if len(sequences) != batch:
            raise InputError(
                f"{len(sequences)} sequences were named, but the batch has {batch} rows"
            )
        rows, matrices = shape[-1], 1 if len(shape) == 1 else shape[0]
        if is_weight or product.role or len(shape) == 1:  # rows are (sequence, position)
            if rows % batch or product.role == "experts":
                sequences, batch = np.zeros(1, dtype=np.uint64), 1
            positions = product.first_row + np.arange(rows // batch)
            return row_ids(sequences, matrices, positions).swapaxes(0, 1)
        if matrices % batch:
            sequences, batch = np.zeros(1, dtype=np.uint64), 1
        return row_ids(sequences, matrices // batch, np.arange(rows))

    def leave(self, function: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Count the products of an operation that has no form for light."""
        if self._runner.is_calibrating:
            return
        name = function._schema.name.partition("::")[2]
        formula = flop_registry.get(function.overloadpacket)
        macs = int(formula(*args, **kwargs, out_val=result)) // 2 if formula else 0
        if not self.is_within(args):
            self._macs_outside += macs
            return
        self._macs += macs
        self._left[name] += macs


class _ProductMode(TorchDispatchMode):
    """Gives every product of a forward pass to a `Light`."""

    supports_higher_order_operators = True

    def __init__(self, light: Light) -> None:
        super().__init__()
        self._light = light

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        facts = facts_of(function)
        if facts.is_plain or torch._C._current_graph_task_id() != -1:  # within a backward pass
            return function(*args, **kwargs)
        light = self._light
        if facts.is_product and light.is_within(args):
            operation = operation_of(function, args, kwargs, light.products.is_weight)
            if operation is not None:
                result = light.on_light(operation, args)
                if result is not None and light.quantised is not None:
                    light.quantised.mark(function, args)
                if result is None:
                    result = function(*args, **kwargs)
                elif (target := target_of(function, args, kwargs)) is not None:
                    result = target.resize_(result.shape).copy_(result)
                light.products.follow(function, args, kwargs, result, facts.written)
                return result
        elif facts.is_composite:
            with self:
                result = function.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = function(*args, **kwargs)
        if facts.holds_products or facts.is_product:
            light.leave(function, args, kwargs, result)
        light.products.follow(function, args, kwargs, result, facts.written)
        return result


def _array(tensor: torch.Tensor) -> np.ndarray:
    """Return a tensor as a float32 array, a view where possible."""
    return tensor.detach().to("cpu", torch.float32).numpy()


def _sequence_ids(ids: Any) -> np.ndarray:
    found = np.asarray(ids)
    most = 1 << (64 - POSITION_BITS - HEAD_BITS)
    is_whole = found.ndim == 1 and (found.dtype.kind in "iu" or not found.size)
    if not is_whole or (found.size and not 0 <= int(found.min()) <= int(found.max()) < most):
        raise InputError(
            f"the ids of sequences are {ids!r}; give one whole number from 0 to {most - 1} for "
            "each row"
        )
    if len(np.unique(found)) != len(found):
        raise InputError(
            f"the ids of sequences name one twice, which would draw the same noise: {ids!r}"
        )
    return found.astype(np.uint64)


class _Named:
    """What a report needs of a model that has no program."""

    task = "language"

    def __init__(self, name: str) -> None:
        self.name = name
