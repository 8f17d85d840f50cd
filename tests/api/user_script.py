"""A user's script. A test type-checks it without running it."""

from __future__ import annotations

from pathlib import Path
from typing import assert_type

import numpy as np
from numpy.typing import NDArray

import twincar_edge as tw
from twincar_edge.export import ConfidenceOptions, Int8Search, ParityLimits


def classify(image_bgr: NDArray[np.uint8], boxes: NDArray[np.float32], paths: list[Path]) -> list[dict[str, object]]:
    classifier = tw.Classifier("cars.int8.onnx", ep="openvino", threads=2)
    prediction = classifier(image_bgr)
    assert_type(prediction, tw.Prediction)
    assert_type(prediction.year, int | None)
    assert_type(prediction.top5, tuple[tw.Guess, ...])
    assert_type(classifier(paths), list[tw.Prediction])
    assert_type(classifier(["a.jpg", "b.jpg"]), list[tw.Prediction])
    assert_type(classifier([image_bgr, image_bgr]), list[tw.Prediction])
    assert_type(classifier(["a.jpg", Path("b.jpg"), image_bgr]), list[tw.Prediction])
    assert_type(classifier.embed(["a.jpg", Path("b.jpg")]), NDArray[np.float32])
    assert_type(classifier.embed(paths), NDArray[np.float32])
    assert_type(classifier(b"\xff\xd8"), tw.Prediction)
    assert_type(classifier(Path("a.jpg"), boxes=boxes), list[tw.Prediction])
    assert_type(classifier("a.jpg", boxes=[[0, 0, 10, 10]]), list[tw.Prediction])
    assert_type(tw.annotate("a.jpg", classifier("a.jpg", boxes=boxes), boxes), NDArray[np.uint8])
    return [one.to_dict() for one in classifier(tuple(paths))]


def watch() -> list[str]:
    names = []
    with tw.watch("rtsp://camera/stream", model=Path("cars.onnx"), zones=["0,0 1,1"], duration_s=10) as events:
        assert_type(events, tw.EventStream)
        for event in events:
            assert_type(event, tw.Event)
            names.append(event.name)
    camera = tw.CameraConfig(name="gate", source="0")
    next(tw.watch(tw.WatchConfig(cameras=(camera,)), model=tw.Classifier()))
    tw.watch(0, sirte=2)  # type: ignore[call-arg]
    assert_type(tw.resend_events("state", sink="webhook"), list[str])
    return names


def build() -> None:
    trained = tw.train("cars", Path("run"), recipe="lite0-cars196", changes={"epochs": 3})
    assert_type(trained, tw.TrainingResult)
    assert_type(tw.evaluate(trained.checkpoint, split="run"), tw.Evaluation)
    exported = tw.export(
        trained.checkpoint,
        "models",
        int8=Int8Search(target="x86-avx2"),
        limits=ParityLimits(agreement=0.99),
        confidence=ConfidenceOptions(false_accept=0.02),
    )
    assert_type(exported, tw.ExportResult)
    pictures = {"Rigel Nova Sedan 2024": [Path("a.jpg"), Path("b.jpg")]}
    assert_type(tw.enroll("new.onnx", pictures, model=exported.fp32), tw.EnrollReport)
    assert_type(tw.enroll("new.onnx", "folders", remove=["Rigel Nova Sedan 2024"]), tw.EnrollReport)
    assert_type(tw.score("s3://bucket/crops", Path("names"), resume=True, ray="auto"), tw.ScoreReport)
    assert_type(tw.explain("crop.jpg", trained.checkpoint), tw.Explanation)
    assert_type(tw.explain("crop.jpg", model=tw.Classifier()), tw.Explanation)
    assert_type(tw.benchmark([exported.fp32, "other.onnx"], eps=["cpu"], fps=25), tw.BenchmarkReport)
    assert_type(tw.read_manifest(tw.demo_model()), tw.Manifest)
    try:
        tw.Classifier("missing.onnx")
    except (tw.InputError, tw.ModelError, tw.GateError, tw.MissingExtraError) as error:
        assert_type(error.exit_code, int)
    except tw.TwincarError:
        raise SystemExit(tw.__version__) from None
    print(tw.demo_clip().name)  # noqa: T201
