"""Workers on a Ray cluster: Ray Data sends partition numbers to actors, each with one open model.

Ray places the actors, replaces those that die with their node, and reassigns their partitions. The actor writes a
partition under its own name, so a second attempt replaces the first, and returns only its counts.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from twincar_edge._version import __version__
from twincar_edge.errors import InputError, Parameter, TwincarError, require
from twincar_edge.files import is_file, sha256, write_bytes
from twincar_edge.runtime.scoring.file_systems import reason, shown
from twincar_edge.runtime.scoring.output import Counts
from twincar_edge.runtime.scoring.run_file import read_run
from twincar_edge.runtime.scoring.stage import Stage, StageConfig

logger = logging.getLogger(__name__)

RAY_EXTRA = "ray"
BLOCKS = 2000  # of partition numbers; each block costs the driver a few kilobytes
CHECK_S = 300  # timeout for a node to open the model: it starts a process, and a GPU's provider may build an engine


@dataclass(frozen=True)
class RayOptions:
    """The cluster's address, or `auto`, and the resources of one worker."""

    address: str
    num_cpus: float = 1.0
    num_gpus: float = 0.0


@dataclass(frozen=True)
class Shipped:
    """Sent to each worker once: its configuration, and the content of the files that it opens."""

    config: StageConfig
    model: bytes
    detector: bytes | None
    version: str = __version__

    def open(self) -> Stage:
        """Open the model on this machine.

        Raises:
            InputError: this machine has another version of twincar-edge, or does not see the run's output.
            TwincarError: see `Stage`.
        """
        if self.version != __version__:
            raise InputError(
                f"this node has twincar-edge {__version__}, the driver has {self.version}: install the same version"
            )
        run = read_run(self.config.output)
        if run is None or run.id != self.config.run:
            raise InputError(
                f"this node does not see the run in {shown(self.config.output)}: name an output that all nodes share"
            )
        model = _cached_file(self.config.model.name, self.model)
        detector = None if self.detector is None else _cached_file("detector.onnx", self.detector)
        return Stage(replace(self.config, model=model, detector=detector))


class Worker:
    """The actor: scores one partition at a time."""

    def __init__(self, shipped: Any) -> None:
        """Open the model; `shipped` refers to a `Shipped` in Ray's object store."""
        ray: Any = require("ray", RAY_EXTRA)
        self._stage = ray.get(shipped).open()

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Score the partitions of a batch and return their counts."""
        numbers = [int(number) for number in batch["partition"]]
        return {"partition": numbers, "counts": [self._stage.score(number).to_json() for number in numbers]}


def score_on_ray(
    numbers: Iterable[int], count: int, config: StageConfig, options: RayOptions, workers: int | None
) -> Generator[tuple[int, Counts]]:
    """Score partitions on a cluster; yield the number and counts of each one after it is written.

    Args:
        numbers: the numbers of the partitions.
        count: how many there are.
        config: the stage's configuration; model and detector are sent to the nodes.
        options: the cluster, and the resources of one worker.
        workers: the maximum of actors; None for as many as fit the cluster.

    Raises:
        InputError: the cluster cannot be reached, has another version of Ray or Python, or lacks resources; a node
            cannot open the model or the output; or the storage fails.
        TwincarError: see `Stage`.
        MissingExtraError: Ray is not installed.
    """
    ray: Any = require("ray", RAY_EXTRA)
    data: Any = require("ray.data", RAY_EXTRA)
    with _connected(ray, options):
        detector = None if config.detector is None else config.detector.read_bytes()
        shipped = ray.put(Shipped(config, config.model.read_bytes(), detector))
        fits = places(ray.nodes(), options)
        _check_nodes(ray, shipped, options, list(fits))
        most = min(count, workers or sum(fits.values()))
        context = data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = False
        # A retried block skips the partitions that are written already, so its size costs little.
        blocks = min(count, max(BLOCKS, 8 * most))
        items = data.from_items([{"partition": number} for number in numbers], override_num_blocks=blocks)
        scored = items.map_batches(
            Worker,
            batch_size=1,
            # Start all actors that fit; one is enough to begin, and to continue after nodes have died.
            compute=data.ActorPoolStrategy(
                min_size=1, initial_size=most, max_size=most, max_tasks_in_flight_per_actor=2
            ),
            num_cpus=options.num_cpus,
            num_gpus=options.num_gpus,
            fn_constructor_args=[shipped],
        )
        try:
            for row in scored.iter_rows():
                yield int(row["partition"]), Counts.from_json(row["counts"])
        except ray.exceptions.RayError as error:
            raise _translated(error) from error


@contextmanager
def _connected(ray: Any, options: RayOptions) -> Generator[None]:
    if ray.is_initialized():  # by a program that uses Ray itself
        yield
        return
    # Keep Ray's own log lines out of this program's output.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        ray.init(address=options.address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
        raise _not_connected(options.address, error) from error
    try:
        yield
    finally:
        ray.shutdown()


def _not_connected(address: str, error: Exception) -> InputError:
    text = " ".join(str(error).split())
    if "ersion mismatch" in text:
        return InputError(f"the Ray cluster at {address} runs another version than this machine: {text[:240]}")
    if isinstance(error, ConnectionError) and address == "auto":
        return InputError("no Ray cluster is running on this machine: start one with `ray start --head`, or give ",
                          Parameter("ray", "HOST:PORT"))  # fmt: skip
    return InputError(f"cannot connect to the Ray cluster at {address}: {reason(Exception(text))}")


def places(nodes: list[dict[str, Any]], options: RayOptions) -> dict[str, int]:
    """Return how many workers fit each node of `ray.nodes()`, by its id, without nodes that are dead or too small.

    Raises:
        InputError: no node is large enough for a worker. Ray would wait for one without an end.
    """
    found: dict[str, int] = {}
    for node in nodes:
        shares = [
            node["Resources"].get(name, 0) / wanted
            for name, wanted in (("CPU", options.num_cpus), ("GPU", options.num_gpus))
            if wanted
        ]
        if node["Alive"] and (fit := int(min(shares, default=1))):
            found[node["NodeID"]] = fit
    if not found:
        raise InputError(
            f"no node of the Ray cluster fits a worker of {options.num_cpus:g} CPU and {options.num_gpus:g} GPU: add "
            "larger nodes, or request less"
        )
    return found


def _check_nodes(ray: Any, shipped: Any, options: RayOptions, nodes: list[str]) -> None:
    """Open the model on each node that can run a worker, so that a fault is reported before the work begins.

    Ray lists a dead node for some seconds. Such a node is skipped: its work goes to the others.

    Raises:
        TwincarError: a node cannot open the model or the output, or all nodes are dead.
    """
    strategies: Any = require("ray.util.scheduling_strategies", RAY_EXTRA)
    check = ray.remote(num_cpus=options.num_cpus, num_gpus=options.num_gpus, max_retries=0)(_check)
    running = [
        check.options(scheduling_strategy=strategies.NodeAffinitySchedulingStrategy(node, soft=False)).remote([shipped])
        for node in nodes
    ]
    deadline_s = time.monotonic() + CHECK_S
    dead = 0
    for node, checked in zip(nodes, running, strict=True):
        try:
            ray.get(checked, timeout=max(0.0, deadline_s - time.monotonic()))
        except (ray.exceptions.TaskUnschedulableError, ray.exceptions.NodeDiedError) as error:
            dead += 1
            logger.warning("node %s of the Ray cluster is gone: continuing without it", node[:8])
            if dead == len(nodes):
                raise _translated(error) from error
        except ray.exceptions.RayError as error:
            raise _translated(error) from error


def _check(shipped: list[Any]) -> None:
    ray: Any = require("ray", RAY_EXTRA)
    try:
        ray.get(shipped[0]).open()
    except TwincarError as error:
        raise InputError(f"node {os.uname().nodename}: ", *error.args) from None


def _translated(error: Exception) -> TwincarError:
    """Return the error of ours that caused Ray's error; otherwise Ray's message, shortened to one line."""
    exceptions: Any = require("ray.exceptions", RAY_EXTRA)
    seen: BaseException | None = error
    while seen is not None:
        # A task error of Ray also has its cause's type, but its message is a traceback.
        if isinstance(seen, TwincarError) and not isinstance(seen, exceptions.RayError):
            return seen
        seen = getattr(seen, "cause", None) or seen.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    ours = [line for line in lines if line.startswith("twincar_edge.errors.")]
    if ours:
        return InputError(ours[-1].partition(": ")[2])
    return InputError(f"the Ray cluster failed: {reason(Exception(lines[-1]) if lines else error)}")


def _cached_file(name: str, data: bytes) -> Path:
    """Return the path of a file with these bytes on this machine; the workers of a node share it."""
    digest = hashlib.sha256(data).hexdigest()
    path = Path(tempfile.gettempdir()) / f"twincar-edge-{os.getuid()}" / digest / name
    if not is_file(path) or sha256(path) != digest:
        path.parent.parent.mkdir(mode=0o700, exist_ok=True)
        if path.parent.parent.stat().st_uid != os.getuid():  # the other user could replace the files
            raise InputError(f"{path.parent.parent} belongs to another user: remove it, or set TMPDIR")
        write_bytes(path, data)
    return path
