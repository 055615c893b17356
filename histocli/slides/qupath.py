"""What QuPath writes about an object in GeoJSON: its class, and what kind of object it is.

The keys that `histo` writes and reads are those of QuPath's own source (qupath.lib.io), by class:
`QuPathTypeAdapters.PathObjectCollectionTypeAdapter` (`features`), `QuPathTypeAdapters.PathObjectTypeAdapter` (`id`,
`objectType`, `name`), `GsonTools.PathClassTypeAdapter` (`classification`),
`QuPathTypeAdapters.MeasurementListTypeAdapter` (`measurements`), and `ROITypeAdapters.ROITypeAdapter` (`geometry`).
"""

from typing import Any

ANNOTATION = "annotation"
# QuPath's objects that programs make and people do not draw: the names of today, and of QuPath 0.2.
_OTHER_OBJECTS = {
    "tile": "tiles",
    "PathTileObject": "tiles",
    "detection": "detections",
    "PathDetectionObject": "detections",
    "cell": "cells",
    "PathCellObject": "cells",
    "tmaCore": "cores",
    "tma_core": "cores",
    "TMACoreObject": "cores",
    "root": "roots",
    "PathRootObject": "roots",
}


def parse_class(value: Any) -> str:
    """Return the name of a class as QuPath shows it: a derived class is "Tumor: Positive", no class is "".

    QuPath writes {"name": ...} or {"names": [...]}; it also reads a text, and {"name", "parentClass"} of QuPath 0.3.

    Raises:
        ValueError: a name is not text.
    """
    if value is None or value == {}:
        return ""
    if isinstance(value, str):
        return value
    names = value["names"] if "names" in value else [value.get("name") or ""]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("the name of a class is not text")
    parent = parse_class(value.get("parentClass"))
    return ": ".join([parent, *names] if parent else names)


def parse_object_kind(feature: Any, properties: Any) -> str:
    """Return `ANNOTATION`, or which of QuPath's other objects a feature is, such as "tiles"."""
    values = [properties.get(key) for key in ("objectType", "object_type", "type")] + [feature.get("id")]
    kind = next((value for value in values if isinstance(value, str)), "")
    return _OTHER_OBJECTS.get(kind, ANNOTATION)
