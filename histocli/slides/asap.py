"""Read the annotations of ASAP's XML, as Camelyon has them."""

from array import array
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from histocli.errors import HistoError
from histocli.slides.classes import is_known_class
from histocli.slides.polygons import AnnotatedAreas, Polygon, check_polygons, describe_shapes, make_ring
from histocli.slides.xml import read_elements
from histocli.text import parse_number

_HINT = "export it again from ASAP"
_NO_GROUP = "none"  # the group of an annotation that is in no group
_WITHOUT_AREA = {"Dot": "points", "PointSet": "points", "Measurement": "lines"}  # types of annotations


class _Annotation(NamedTuple):
    """An annotation: its group, its type, and the coordinates x and y of its points, one after the other."""

    group: str
    kind: str
    coordinates: "array[float]"


def read_asap(path: Path) -> AnnotatedAreas:
    """Read the areas of ASAP's XML. The class of an area is its group, or the nearest group around it that is known.

    Points, lines and areas without a group are left out and counted.

    Raises:
        HistoError: it is not such a file, or no area has a group.
    """
    annotations: list[_Annotation] = []
    parents: dict[str, str] = {}
    has_root = False

    def on_element(name: str, attributes: dict[str, str]) -> None:
        nonlocal has_root
        if not has_root and name != "ASAP_Annotations":
            raise ValueError(f"it begins with <{name[:50]}>")
        has_root = True
        if name == "Group":
            parents[attributes.get("Name", "")] = attributes.get("PartOfGroup", "")
        elif name == "Annotation":
            group, kind = attributes.get("PartOfGroup", ""), attributes.get("Type", "")
            annotations.append(_Annotation(group, kind, array("d")))
        elif name == "Coordinate":
            if not annotations:
                raise ValueError("a point belongs to no annotation")
            annotations[-1].coordinates.extend((parse_number(attributes["X"]), parse_number(attributes["Y"])))

    try:
        with path.open("rb") as file:
            read_elements(file, on_element)
        return _sort(path, annotations, parents)
    except KeyError as error:
        raise HistoError(f"{path} is not an annotation of ASAP: a point has no {error}", _HINT) from error
    except (OSError, ValueError) as error:
        raise HistoError(f"{path} is not an annotation of ASAP: {error}", _HINT) from error


def _sort(path: Path, annotations: list[_Annotation], parents: dict[str, str]) -> AnnotatedAreas:
    """Return the areas, and count the other annotations."""
    polygons: list[Polygon] = []
    left_out: Counter[str] = Counter()
    for group, kind, coordinates in annotations:
        n_points = len(coordinates) // 2
        if kind in _WITHOUT_AREA or n_points < 3:
            left_out[_WITHOUT_AREA.get(kind, "points" if n_points < 2 else "lines")] += 1
        elif group.strip().lower() == _NO_GROUP:
            left_out["ungrouped areas"] += 1
        else:
            polygons.append(Polygon(make_ring(coordinates), [], _find_class(group, parents)))
    check_polygons(polygons, path)
    if left_out and not polygons:
        raise HistoError(
            f"{path} has {describe_shapes(left_out)}, and no area that belongs to a group",
            "draw areas in ASAP, and put them into the group Tumor or Exclusion",
        )
    return AnnotatedAreas(polygons, left_out)


def _find_class(group: str, parents: dict[str, str]) -> str:
    """Return the first known class among a group and the groups around it; the group itself if none is known."""
    seen: set[str] = set()
    name = group
    while name not in seen:
        if is_known_class(name) and name.strip().lower() not in ("", _NO_GROUP):
            return name
        seen.add(name)
        name = parents.get(name, "")
    return group
