"""Many named models in one process: loaded when first asked for, evicted least recently used, never while in use.

Classifiers with a backbone of their own are loaded whole; those that share one are adapters over a single base network
(:mod:`rayclf.model.multi_adapter`). asyncio only, no Ray; a :class:`Host` belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Hashable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict
from weakref import WeakValueDictionary

from rayclf.errors import ResourceError, UserError
from rayclf.model.engine import Classifier
from rayclf.model.info import INFO, ArtifactInfo, find_artifact, read_info
from rayclf.model.low_rank import Unshareable
from rayclf.model.multi_adapter import AdapterBackbone, AdapterRuntime, share_key
from rayclf.model.packing import Batching
from rayclf.model.runtime import Precision, RuntimeName

_NAME = re.compile(r"\w[\w.-]*")
_ROWS = 1_000_000  # that a server's model is to classify: a runtime which takes time to prepare pays for itself


class UnknownModel(UserError):
    """A request names a model that is not served; HTTP 404."""


class LoadSettings(TypedDict, total=False):
    """Settings of :meth:`Classifier.load`, the same for all models."""

    device: str
    precision: Precision
    runtime: RuntimeName
    max_tokens: int | None
    batching: Batching


class ModelFolder(Mapping[str, str]):
    """The artifacts and runs in a folder by their own folders' names; those added later are found too."""

    def __init__(self, folder: Path) -> None:
        """Look into ``folder`` at each question."""
        self.folder = folder

    def __getitem__(self, name: str) -> str:
        if not _NAME.fullmatch(name) or not self._holds(self.folder / name):  # no way out of the folder by "../x"
            raise KeyError(name)
        return str(self.folder / name)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(p.name for p in self.folder.iterdir() if _NAME.fullmatch(p.name) and self._holds(p)))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    @staticmethod
    def _holds(path: Path) -> bool:
        return (path / INFO).is_file() or (path / "artifact" / INFO).is_file()


@dataclass(eq=False)
class _Slot:
    """A model that is loaded or being loaded."""

    load: asyncio.Task[Classifier]
    users: int = 0
    nbytes: int = 0


@dataclass
class LoadCounters:
    """What was loaded and let go so far, for metrics."""

    loads: int = 0
    load_failures: int = 0
    load_seconds: float = 0.0
    evictions: int = 0


class Host:
    """Models by name, as many in memory as may be."""

    def __init__(
        self,
        models: Mapping[str, str],
        *,
        find: Callable[[str], Path] = find_artifact,
        max_models: int | None = None,
        max_bytes: int | None = None,
        settings: LoadSettings | None = None,
    ) -> None:
        """Serve ``models``, where each lies by its name; looked up at each load, so that it may change.

        ``find`` makes a local artifact folder of such a place. No more than ``max_models`` and ``max_bytes`` of weights
        (backbones included) are held, except that a single model is never refused for what its backbone takes. One
        that is asked for while all others are in use waits.
        """
        self.counters = LoadCounters()
        self._models, self._find, self._settings = models, find, settings or LoadSettings()
        self._max_models, self._max_bytes = max_models, max_bytes
        self._slots: OrderedDict[str, _Slot] = OrderedDict()  # least recently used first
        self._backbones: WeakValueDictionary[Hashable, AdapterBackbone] = WeakValueDictionary()
        self._loading = asyncio.Lock()  # one at a time: Transformers' loading sets process-wide defaults
        self._released = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="rayclf-load")

    @property
    def loaded(self) -> list[str]:
        """Names of the models in memory, the least recently used first."""
        return [name for name, slot in self._slots.items() if slot.load.done()]

    def peek(self, name: str) -> Classifier | None:
        """The classifier of that name if it is in memory; this counts as no use of it."""
        slot = self._slots.get(name)
        ready = slot is not None and slot.load.done() and not slot.load.cancelled() and not slot.load.exception()
        return slot.load.result() if slot is not None and ready else None

    @property
    def nbytes(self) -> int:
        """Bytes of the weights in memory."""
        own = sum(slot.nbytes for slot in self._slots.values())
        return own + sum(backbone.nbytes for backbone in self._backbones.values())

    @asynccontextmanager
    async def use(self, name: str) -> AsyncIterator[Classifier]:
        """The classifier of that name, loaded if need be, and kept for the block.

        Those who wait for one model wait for one load. Raises UnknownModel, and what loading raises: ArtifactError,
        BackboneError, ResourceError, StorageError; the next request then tries again.
        """
        slot = self._slots.get(name)
        if slot is None:
            if name not in self._models:
                raise UnknownModel(f"model: {name!r} is not served here; GET /v1/models lists what is")
            slot = self._slots[name] = _Slot(asyncio.get_running_loop().create_task(self._load(name)))
            slot.load.add_done_callback(lambda load: load.cancelled() or load.exception())  # seen, if by nobody else
        self._slots.move_to_end(name)
        slot.users += 1
        try:
            yield await asyncio.shield(slot.load)  # the load goes on for others when this request is cancelled
        finally:
            slot.users -= 1
            self._released.set()

    def evict(self, name: str) -> bool:
        """Let a model go, as after it was replaced; requests that use it end with it. False when it was not there."""
        slot = self._slots.get(name)
        if slot is None or not slot.load.done():
            return False
        del self._slots[name]
        return True

    async def close(self) -> None:
        """End loads that have not begun, wait for the one that runs, and let all models go."""
        loads = [slot.load for slot in self._slots.values()]
        for load in loads:
            load.cancel()
        await asyncio.gather(*loads, return_exceptions=True)
        self._slots.clear()
        self._thread.shutdown()

    async def _load(self, name: str) -> Classifier:
        loop, begin = asyncio.get_running_loop(), time.monotonic()
        try:
            async with self._loading:
                folder, info, weight = await loop.run_in_executor(self._thread, self._look, name)
                backbone = self._backbones.get(share_key(info))  # held, whoever is evicted for this one
                await self._make_room(name, weight)
                classifier = await loop.run_in_executor(self._thread, self._read, folder, info, backbone)
                if isinstance(classifier.runtime, AdapterRuntime):
                    self._backbones[classifier.runtime.backbone.key] = classifier.runtime.backbone
                self._slots[name].nbytes = _weight(classifier, weight)
                await self._make_room(name, 0, wait=False)
        except BaseException as error:
            del self._slots[name]
            self.counters.load_failures += not isinstance(error, asyncio.CancelledError)
            raise
        self.counters.loads += 1
        self.counters.load_seconds += time.monotonic() - begin
        return classifier

    def _look(self, name: str) -> tuple[Path, ArtifactInfo, int]:
        """Where an artifact lies, what it is, and the bytes of its weights on disk."""
        try:
            folder = self._find(self._models[name])
        except KeyError:
            raise UnknownModel(f"model: {name!r} is not served here any more") from None
        weight = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
        if self._max_bytes is not None and weight > self._max_bytes:
            raise ResourceError(f"model: {name!r} alone has {weight} bytes of weights, the host {self._max_bytes}")
        return folder, read_info(folder), weight

    def _read(self, folder: Path, info: ArtifactInfo, backbone: AdapterBackbone | None) -> Classifier:
        settings: dict[str, Any] = dict(self._settings)
        runtime = settings.get("runtime", "auto")
        if info.tuning == "lora" and runtime != "onnx" and settings.get("precision") != "int8":
            shared = {key: value for key, value in settings.items() if key != "runtime"}
            try:
                return (backbone or AdapterBackbone.load(folder, **shared)).classifier(folder)
            except Unshareable:
                pass  # alone then, merged
        return Classifier.load(folder, expected_rows=_ROWS, **settings)

    async def _make_room(self, name: str, coming: int, wait: bool = True) -> None:
        """Evict until ``name`` fits; ``wait`` for models in use to be released."""
        while self._full(coming):
            idle = [other for other, slot in self._slots.items() if other != name and slot.load.done()]
            if not idle:
                return
            free = next((other for other in idle if not self._slots[other].users), None)
            if free is not None:
                self.counters.evictions += 1
                del self._slots[free]
            elif wait:
                self._released.clear()
                await self._released.wait()
                if not self._slots[name].users:
                    raise asyncio.CancelledError  # all who asked for it have gone
            else:
                return

    def _full(self, coming: int) -> bool:
        held = sum(slot.load.done() for slot in self._slots.values()) + 1
        many = self._max_models is not None and held > self._max_models
        return many or (self._max_bytes is not None and self.nbytes + coming > self._max_bytes)


def _weight(classifier: Classifier, on_disk: int) -> int:
    """Bytes of a classifier's weights, without those of a shared backbone."""
    runtime = classifier.runtime
    if isinstance(runtime, AdapterRuntime):
        return runtime.adapter.nbytes
    network = getattr(runtime, "network", None)
    return on_disk if network is None else sum(tensor.nbytes for tensor in network.state_dict().values())
