"""Read untrusted XML: one pass, in little memory, and without document type definitions.

The entities in a definition can expand without limit, and nested entities can crash the parser. Neither ASAP nor the
OME model has definitions.
"""

from collections.abc import Callable
from typing import IO
from xml.parsers import expat


def read_elements(content: str | IO[bytes], on_element: Callable[[str, dict[str, str]], None]) -> None:
    """Call `on_element` with the name, without its prefix, and the attributes of each element, in their order.

    Raises:
        ValueError: it is not XML, or has a document type definition.
    """

    def refuse(*_: object) -> None:
        raise ValueError("it has a document type definition (<!DOCTYPE>)")

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = lambda name, attributes: on_element(name.rpartition(":")[2], attributes)
    try:
        if isinstance(content, str):
            parser.Parse(content, True)
        else:
            parser.ParseFile(content)
    except expat.ExpatError as error:
        raise ValueError(str(error)) from error
