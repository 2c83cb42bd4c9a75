"""SKOS vocabularies to labels: each ``skos:Concept`` is one, its URI the id.

Nothing is fetched: only the bytes of the file are read, and only the triples that make labels are kept. rdflib is
imported with this module, so import it where it is needed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from xml.sax import SAXParseException

from rdflib import OWL, RDF, SKOS, Graph, Literal, URIRef
from rdflib.parser import create_input_source
from rdflib.plugins.parsers.notation3 import BadSyntax
from rdflib.plugins.parsers.rdfxml import RDFXMLHandler, create_parser

from rayclf.errors import DataError, LabelError

# Relative addresses need a base, and rdflib's own would be the working folder: ids must not depend on where a file is.
_BASE = "http://labels.invalid/"
_KEPT = frozenset((SKOS.prefLabel, SKOS.altLabel, SKOS.definition, SKOS.scopeNote, OWL.deprecated))

Concept = dict[str, Any]  # name, id, alternatives, description


def read_concepts(place: str, data: bytes, *, xml: bool, language: str) -> Iterator[tuple[str, Concept]]:
    """Each concept's place in the file and its fields, in file order; deprecated ones are left out.

    ``data`` is RDF/XML, else Turtle or N-Triples, which is a part of Turtle. Of several labels or definitions the
    one in ``language`` is taken, else in a region's variety of it, else one without a language, else the first by
    language and text. Raises DataError for broken syntax, LabelError for a concept without a label.
    """
    graph = _parsed(place, data, xml)
    for subject in graph.concepts:
        values = graph.values.get(subject, {})
        if any(str(value).strip().lower() in ("true", "1") for value in values.get(OWL.deprecated, ())):
            continue
        uri = str(subject).removeprefix(_BASE) if isinstance(subject, URIRef) else None
        where = f"concept <{uri}>" if uri else "a concept without URI"
        name = _preferred(values.get(SKOS.prefLabel, []), language)
        if name is None:
            raise LabelError(f"{place}: {where}: has no skos:prefLabel; give it one, or mark it owl:deprecated")
        others = [
            value
            for value in sorted(values.get(SKOS.altLabel, []), key=lambda value: _order(value, language))
            if _order(value, language)[0] < 3 or value.language == name.language
        ]
        note = _preferred(values.get(SKOS.definition) or values.get(SKOS.scopeNote) or [], language)
        yield where, {"name": str(name), "id": uri, "alternatives": list(map(str, others)), "description": note}


def _order(value: Literal, language: str) -> tuple[int, str, str]:
    tag, wanted = (value.language or "").lower(), language.lower()
    rank = 0 if tag == wanted else 1 if tag.startswith(f"{wanted}-") else 2 if not tag else 3
    return rank, tag, str(value)


def _preferred(values: list[Literal], language: str) -> Literal | None:
    return min(values, key=lambda value: _order(value, language), default=None)


class _Concepts(Graph):
    """A graph that keeps only what labels are made of: a vocabulary's other triples would take gigabytes."""

    def __init__(self) -> None:
        super().__init__(bind_namespaces="none")
        self.concepts: dict[Any, None] = {}
        self.values: dict[Any, dict[Any, list[Literal]]] = {}

    def add(self, triple: Any) -> _Concepts:
        """Take or drop a triple."""
        subject, predicate, value = triple
        if predicate == RDF.type and value == SKOS.Concept:
            self.concepts[subject] = None
        elif predicate in _KEPT and isinstance(value, Literal):
            self.values.setdefault(subject, {}).setdefault(predicate, []).append(value)
        return self


class _Handler(RDFXMLHandler):
    """Joins text that comes in pieces. rdflib appends each to the last, which takes hours for the half a million
    pieces that nested entities ("billion laughs") make before expat, at 100 times the file's size, refuses them.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self._pieces: list[str] = []

    def characters(self, content: str) -> None:
        """Text, or a piece of it."""
        self._pieces.append(content)

    def _flush(self) -> None:
        if self._pieces:
            super().characters("".join(self._pieces))
            self._pieces.clear()

    def startElementNS(self, name: Any, qname: Any, attrs: Any) -> None:
        """An element begins."""
        self._flush()
        super().startElementNS(name, qname, attrs)

    def endElementNS(self, name: Any, qname: Any) -> None:
        """An element ends."""
        self._flush()
        super().endElementNS(name, qname)


def _parsed(place: str, data: bytes, xml: bool) -> _Concepts:
    graph = _Concepts()
    try:
        with _quiet():
            if xml:
                _parse_xml(data, graph)
            else:
                graph.parse(data=data.decode("utf-8-sig"), format="turtle", publicID=_BASE)
    except MemoryError:
        raise
    except UnicodeDecodeError as error:
        raise DataError(f"{place}: not UTF-8 ({error.reason}); convert the file to UTF-8") from None
    except BadSyntax as error:
        raise DataError(f"{place}: line {error.lines + 1}: broken Turtle ({error._why})") from None
    except SAXParseException as error:
        raise DataError(f"{place}: line {error.getLineNumber()}: broken XML ({error.getMessage()})") from None
    except RecursionError:
        raise DataError(f"{place}: broken RDF (nested too deeply)") from None
    except Exception as error:  # rdflib's parsers raise anything for what they do not expect
        reason = f"{type(error).__name__}: {error}"[:200]
        raise DataError(f"{place}: broken RDF ({reason})") from None
    return graph


def _parse_xml(data: bytes, graph: Graph) -> None:
    source = create_input_source(data=data, publicID=_BASE, format="xml")
    parser = create_parser(source, graph)
    handler = _Handler(graph)
    handler.setDocumentLocator(source)  # type: ignore[arg-type]  # rdflib does so too: it tells the base
    parser.setContentHandler(handler)
    parser.parse(source)


@contextmanager
def _quiet() -> Iterator[None]:
    """rdflib logs a traceback for each odd date or address, also of the triples that are dropped."""
    logger = logging.getLogger("rdflib")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
