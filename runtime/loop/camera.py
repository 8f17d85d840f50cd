"""One camera's thread: reads frames, locates and tracks vehicles, and queues crops of them for the model."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Sequence

from twincar_edge.cores import lower_priority
from twincar_edge.errors import ModelError, Parameter, TwincarError
from twincar_edge.runtime.configuration.config import CameraConfig
from twincar_edge.runtime.evidence import VehicleCrop, crop_vehicle
from twincar_edge.runtime.locating.boxes import Box, Detection
from twincar_edge.runtime.locating.choice import Choice
from twincar_edge.runtime.locating.detector import Detector
from twincar_edge.runtime.locating.locate import LocateOptions, make_locator
from twincar_edge.runtime.locating.zones import zone_of
from twincar_edge.runtime.loop.footage import Footage
from twincar_edge.runtime.loop.inbox import Crop, End, Handled, Inbox, Item, Shown
from twincar_edge.runtime.loop.recovery import Recovery
from twincar_edge.runtime.monitoring.stages import Stages
from twincar_edge.runtime.sources import Frame, Source
from twincar_edge.runtime.sources.base import size_of
from twincar_edge.runtime.tracking.ignored import IgnoredCounter
from twincar_edge.runtime.tracking.tracker import Track, Tracker, TrackingRules
from twincar_edge.runtime.visits import Visit, VisitMaker
from twincar_edge.wording import titled

logger = logging.getLogger(__name__)

LOST_S = 5.0  # a camera that is back after less time, as after a short loss of its network, continues its visits
Vehicles = tuple[tuple[int, Box, Visit], ...]


class CameraThread:
    """Tracks the vehicles of one source in a separate thread, until the source ends or `stop` is set.

    Attributes:
        name: the camera's name.
        config: how to find vehicles.
        choice: its locator, and the reason for this one.
        source: the source of its frames; not released here.
        maker: begins its visits here, and makes their events in the answering thread.
        frames: the number of frames read so far.
        in_view: the number of vehicles in the newest frame; 0 once the camera is lost or fails.
        ignored: counts the moving things that the locator ignored.
        busy_since_s: when it began to locate and track in its current frame, by the loop's timer; None in between.
        error: the error that ended it, or None.
        recovery: has the error that it is trying to get over, if any.
        finished: its source ended by itself.
        newest_only: the source is live, so the thread must not block; other sources must not lose anything.
    """

    def __init__(
        self,
        config: CameraConfig,
        source: Source,
        maker: VisitMaker,
        inbox: Inbox,
        stages: Stages,
        stop: threading.Event,
        *,
        choice: Choice,
        detector: Detector | None = None,
        footage: Footage | None = None,
        show: Callable[[str], bool] | None = None,
        alone: bool = False,
    ) -> None:
        """Prepare; nothing runs yet. `footage` records clips.

        `show` takes the camera's name, and returns whether to queue a frame for drawing; None queues none.

        `alone`: the run has no other camera. An error of this one then ends the run, which reports it.

        Raises:
            InputError: the options do not fit the source.
        """
        options = LocateOptions(
            config.zones,
            config.min_area,
            config.presence,
            source.stills,
            detector,
            config.detect_classes,
            config.detect_score,
        )
        self.name = config.name
        self.source = source
        self.maker = maker
        self.frames = 0
        self.in_view = 0
        self.busy_since_s: float | None = None
        self.error: TwincarError | None = None
        self.finished = False
        self.recovery = Recovery(config.name, live=source.live)
        self.config = config
        self.choice = choice
        self._locator = make_locator(choice.locator, options)
        self._tracker = Tracker(
            TrackingRules(
                confirm_hits=config.min_hits,
                lost_after_s=config.lost_after_s,
                parked_after_s=config.parked_after_s,
                parked_for_s=config.parked_for_s,
                fixed=not self._locator.moves,
            )
        )
        self.ignored = IgnoredCounter(config.min_hits, config.lost_after_s)
        self._visits: dict[int, Visit] = {}
        self._found = 0  # visits that have ended
        self._size_wh: tuple[int, int] | None = None  # of the newest frame
        self._advised = False
        self._inbox = inbox
        self.newest_only = source.live and not source.stills
        if self.newest_only:
            source.on_wait = self._wait_for_frame
        self._asked_s = self._taken_s = self._time_s = 0.0  # of the newest frame: when it was asked for, taken, filmed
        self._stages = stages
        self._stop = stop
        self._footage = None if source.stills else footage
        self._show = show
        self._alone = alone
        self._unexpected: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"camera {self.name}", daemon=True)

    @property
    def alive(self) -> bool:
        """Return whether the thread is running."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Start the thread."""
        self._inbox.add_writer()
        self._thread.start()

    def join(self, timeout_s: float | None = None) -> None:
        """Wait for the thread to end, and reraise its unexpected error, if any."""
        self._thread.join(timeout_s)
        if self._unexpected is not None:
            raise self._unexpected

    def _run(self) -> None:
        if not self.newest_only:
            lower_priority()  # the model has priority on the CPU; the bounded queue blocks this thread if it is ahead
        try:
            self._follow()
        except TwincarError as error:
            self.error = error
            if self.source.live and isinstance(error, ModelError):
                self._end_run(error)
            elif not self._alone:
                logger.error("%s has ended: %s", titled("camera", self.name), error)
        except BaseException as error:  # noqa: BLE001
            self._end_run(error)  # a bug
        finally:
            self._inbox.remove_writer()

    def _end_run(self, error: BaseException) -> None:
        """End the run of all cameras with this error: `join` raises it in the run's own thread."""
        self._unexpected = error
        self._stop.set()

    def _follow(self) -> None:
        frames = iter(self.source)
        try:
            while not self._stop.is_set():
                self._asked_s = self._stages.timer()
                frame = next(frames, None)
                if frame is None:
                    self.finished = not self._stop.is_set()
                    break
                self._taken_s, self._time_s = self._stages.timer(), frame.time_s
                self._stages.add("read", self._taken_s - self._asked_s)
                if not self.frames:
                    logger.info("%s: %dx%d from %s", titled("camera", self.name), *size_of(frame), self.source.name)
                self.frames += 1
                try:
                    self._take(frame, self._taken_s)
                except TwincarError as error:
                    pause_s = self.recovery.failed(error)
                    self._end_visits()
                    self._stop.wait(pause_s)
                else:
                    self.recovery.processed()
        finally:
            # Even if the source fails: the vehicles in view become visits.
            self._end_visits()
            self.ignored.flush()
            if self._footage is not None:
                self._footage.close()

    def _end_visits(self) -> None:
        ended = self._ended(self._tracker.flush(), self._stages.timer())
        self.in_view = 0
        self._inbox.put(ended, newest_only=self.newest_only)
        if self._footage is not None:
            self._footage.see(ended, -math.inf)

    def _wait_for_frame(self) -> None:
        """End the visits of a lost camera when they are lost too. The source calls it while it has no frame.

        Only the wait counts: a slow detector must not end visits. The source knows whether frames are late: a camera
        that is polled may give one every minute.
        """
        waited_s = self._stages.timer() - self._asked_s
        if not self.frames or waited_s <= LOST_S or self.source.status().state == "live":
            return
        time_s = self._time_s + waited_s
        ended = self._ended(self._tracker.expire(time_s), self._taken_s)
        self.in_view = 0
        self._inbox.put(ended, newest_only=True)
        if self._footage is not None:
            self._footage.see(ended, time_s)

    def _take(self, frame: Frame, taken_s: float) -> None:
        # The queue and the clips of a file may block for longer: they wait for threads that are checked themselves.
        self.busy_since_s = taken_s
        try:
            with self._stages.stage("locate"):
                detections = self._locator.locate(frame)
            follow = self._single_image if self.source.stills else self._moving
            items, shown = follow(frame, detections, taken_s)
        finally:
            self.busy_since_s = None
        self.in_view = len(shown)
        if self._footage is not None:
            with self._stages.stage("film"):
                self._footage.add(frame)
                self._footage.see(items, frame.time_s)
        if self._show is not None and self._show(self.name):
            items.append(Shown(self.name, frame, shown, tuple(self._locator.ignored)))
        self._inbox.put(items, newest_only=self.newest_only)

    def _single_image(
        self, frame: Frame, detections: Sequence[Detection], taken_s: float
    ) -> tuple[list[Item], Vehicles]:
        """Make a visit of every box of a single image."""
        items: list[Item] = []
        shown = []
        for number, detection in enumerate(detections, 1):
            visit = self.maker.begin(frame, detection.box_xyxy)
            visit.see(frame, detection.box_xyxy, detection.kind)
            visit.zone = zone_of(detection.box_xyxy, size_of(frame), self.config.zones)
            crop = self._crop_vehicle(frame, detection.box_xyxy, detection.score)
            items.append(Crop(self.name, visit, crop, False, taken_s))
            items.append(End(self.name, visit, counts=True))
            shown.append((number, detection.box_xyxy, visit))
        items.append(Handled(self.name, self.source, frame.index))
        return items, tuple(shown)

    def _moving(self, frame: Frame, detections: Sequence[Detection], taken_s: float) -> tuple[list[Item], Vehicles]:
        """Track the vehicles of a stream, and end the visits of those that have left."""
        size_wh = size_of(frame)
        # The boxes of open visits, parked ones too, are in pixels of the earlier size.
        resized = self._tracker.flush() if self._size_wh not in (None, size_wh) else []
        self._size_wh = size_wh
        items: list[Item] = [*self._ended(resized, taken_s)]
        with self._stages.stage("track"):
            discarded, driven_off = self._tracker.discard(self._locator.uncovered)
            found = self._tracker.update(detections, frame.time_s, size_wh)
            self.ignored.update(detections, self._locator.ignored, frame.time_s)
        self._advise(size_wh)
        items += [End(self.name, self._visits.pop(track.id), counts=False) for track in discarded]
        for track in found:
            visit = self._visits.get(track.id)
            if visit is None:
                visit = self._visits[track.id] = self.maker.begin(frame, track.box_xyxy)
            visit.see(frame, track.box_xyxy, track.kind)
            visit.zone = zone_of(track.box_xyxy, size_wh, self.config.zones) or visit.zone
            # Only confirmed tracks are worth an inference, and get the first one at once.
            if track.confirmed and (track.hits - self.config.min_hits) % self.config.classify_every == 0:
                crop = self._crop_vehicle(frame, track.box_xyxy, track.score)
                items.append(Crop(self.name, visit, crop, self._is_confirmed(track, visit), taken_s))
        items += self._ended([*driven_off, *self._tracker.lost], taken_s)
        return items, tuple((track.id, track.box_xyxy, self._visits[track.id]) for track in found)

    def _advise(self, size_wh: tuple[int, int]) -> None:
        """Log once if nearly all moving things are below `min_area`, with a value that would include most."""
        if self._advised or (better := self.ignored.better_area(self._found, size_wh[0] * size_wh[1])) is None:
            return
        self._advised = True
        logger.warning(
            "%s: %d moving things were smaller than %s, and %d vehicles large enough; if the small ones are vehicles, "
            "%s counts most of them",
            titled("camera", self.name),
            self.ignored.counts["small"],
            Parameter("min_area", self.config.min_area),
            self._found,
            Parameter("min_area", better),
        )

    def _crop_vehicle(self, frame: Frame, box: Box, score: float) -> VehicleCrop:
        with self._stages.stage("cut"):
            return crop_vehicle(frame, box, score, place=not self._locator.moves)

    def _counts(self, track: Track) -> bool:
        """Return whether a track is a visit. It stays one even if its box grows later."""
        traveled = track.travel >= self.config.min_travel or not self._locator.moves
        return track.confirmed and (traveled or self._visits[track.id].confirmed)

    def _is_confirmed(self, track: Track, visit: Visit) -> bool:
        """Return whether a track is a visit and will remain one, so that its events may be published."""
        visit.confirmed = visit.confirmed or (self._counts(track) and not self._tracker.may_be_piece(track))
        return visit.confirmed

    def _ended(self, tracks: Sequence[Track], ended_s: float) -> list[End]:
        for track in tracks:
            self._visits[track.id].ended_s = ended_s
            if not self._counts(track):
                logger.debug("track %d is not a visit: %d hits, travel %.2f", track.id, track.hits, track.travel)
        counts = [self._counts(track) for track in tracks]
        self._found += sum(counts)
        return [End(self.name, self._visits.pop(track.id), one) for track, one in zip(tracks, counts, strict=True)]
