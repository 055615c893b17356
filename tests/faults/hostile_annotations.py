"""Annotations of slides, and masks, that are no such thing or take too much: a seeded stream of variants."""

import json
import struct

from tests.faults.hostile_images import zeros

SQUARE = [[100, 100], [900, 100], [900, 900], [100, 900]]
NUMBERS = ["NaN", "1e400", "1e308", "1" * 400, "1" * 5000, '"12"', "true", "null", "[]", "{}", "-1e9", "4194305"]
NAMES = [3, None, ["Tumor"], {}, True, "\x1b]0;pwn\7", "x" * 200_000, "\ud800", "Tumour\0"]


def polygon(x="100", y="100"):
    return f'{{"type": "Polygon", "coordinates": [[[{x}, {y}], [900, 100], [900, 900], [100, 900]]]}}'


def coordinates(rng):
    return "x.geojson", polygon(rng.choice(NUMBERS)) if rng.random() < 0.8 else polygon().replace(", 100]", "]")


def names(rng):
    classification = {"classification": {"name": rng.choice(NAMES)}}
    geometry = {"type": "Polygon", "coordinates": [SQUARE]}
    return "x.geojson", json.dumps({"type": "Feature", "properties": classification, "geometry": geometry})


def nested(rng):
    depth, inner = rng.choice([300, 900, 100_000]), rng.choice([polygon(), "[]"])
    head, tail = rng.choice([("[", "]"), ('{"type": "GeometryCollection", "geometries": [', "]}"), ('{"a":', "}")])
    return "x.json", head * depth + inner + tail * depth


def shape(rng):
    other = ["3", "null", "[]", '"x"', "", "\0" * 100, '{"type": ["Polygon"]}', '{"type": "Polygon"}', "{}"]
    other += ['{"type": "Feature", "properties": [1], "geometry": 3}', '{"type": "MultiPolygon", "coordinates": [[3]]}']
    return "x.geojson", rng.choice(other)


def asap(body, before=""):
    return f"<?xml version='1.0'?>{before}<ASAP_Annotations><Annotations>{body}</Annotations></ASAP_Annotations>"


def annotation(x="100", group="_0"):
    points = "".join(f'<Coordinate X="{x if i == 0 else x0}" Y="{y0}"/>' for i, (x0, y0) in enumerate(SQUARE))
    return f'<Annotation PartOfGroup="{group}"><Coordinates>{points}</Coordinates></Annotation>'


def entities(rng):
    """Entities that expand without end, one in the other, or to another file."""
    count = rng.choice([12, 3000, 60_000])
    link, text = ("&a{};", "ha") if count > 12 else ("&a{};" * 10, "ha")
    chain = "".join(f'<!ENTITY a{i} "{link.replace("{}", str(i - 1))}">' for i in range(1, count))
    bodies = [f"&a{count - 1};", f'<Annotation PartOfGroup="&a{count - 1};"/>', "&e;"]
    external = rng.choice(["file:///etc/passwd", "pipe", "http://127.0.0.1:9/"])
    before = f'<!DOCTYPE x SYSTEM "{external}" [<!ENTITY a0 "{text}"><!ENTITY e SYSTEM "{external}">{chain}]>'
    text = asap(rng.choice(bodies), before)
    return "x.xml", text.replace("'1.0'", "'1.0' encoding='utf-16'").encode("utf-16") if rng.random() < 0.3 else text


def deep_xml(rng):
    count = rng.choice([1000, 100_000])
    name = rng.choice(["Annotation", "Coordinate", "a"])
    return "x.xml", asap(f"<{name}>" * count + annotation() + f"</{name}>" * count)


def xml_numbers(rng):
    number = rng.choice(["nan", "inf", "1_0", "1e308", "1,5", "", "0x10", "1" * 400, "\u0661"])
    return "x.xml", asap(annotation(number)) if rng.random() < 0.8 else asap(annotation(group="\U0001f600" * 9999))


def mask(rng):
    """A TIFF whose only strip or tile is enormous, or whose tags contradict each other."""
    width, height = rng.choice([(1 << 16, 1 << 16), (1 << 31, 1), (1 << 20, 1 << 11), (0, 0), (8192, 8192)])
    strip = zeros(rng.choice([1 << 20, 64 << 20]))
    tags = {256: width, 257: height, 258: 8, 259: 8, 262: 1, 273: 0, 277: 1, 278: height, 279: len(strip)}
    if rng.random() < 0.3:
        tags |= {322: width, 323: height, 324: tags.pop(273), 325: tags.pop(279)}
    for _ in range(rng.choice([0, 0, 1, 2])):
        tags[rng.choice(list(tags))] = rng.choice([0, 1, 7, 255, 65535, (1 << 32) - 1])
    begin = 8 + 2 + 12 * len(tags) + 4
    tags[273 if 273 in tags else 324] = begin
    entries = [struct.pack("<2H2I", tag, 4, 1, tags[tag]) for tag in sorted(tags)]
    data = bytearray(b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(entries) + bytes(4) + strip)
    for _ in range(rng.choice([0, 0, 1, 3])):
        data[rng.randrange(begin)] = rng.randrange(256)
    return "x.tif", bytes(data)


def sound(rng):
    return rng.choice([("x.geojson", polygon()), ("x.xml", asap(annotation())), ("x.json", f"[{polygon()}]")])


VARIANTS = [coordinates, names, nested, shape, entities, entities, deep_xml, xml_numbers, mask, mask, mask, sound]
ALWAYS = {"coordinates", "shape", "entities", "xml_numbers"}  # which are never read


def write(rng, folder, number):
    """Write a variant into a folder; return its path and name."""
    variant = rng.choice(VARIANTS)
    name, content = variant(rng)
    path = folder / f"{number}{name}"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    return path, "sound as it should be" if variant is sound else variant.__name__
