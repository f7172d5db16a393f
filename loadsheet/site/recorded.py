"""All documents of the page at one time, so that it needs no server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from loadsheet.connections.lookup import Connections
from loadsheet.lineage.document import document as lineage_document
from loadsheet.lineage.graph import file_lineage, pipeline_lineage
from loadsheet.lineage.models import Dataset, Edge
from loadsheet.page import about, documents
from loadsheet.page.checks import checks_of
from loadsheet.page.documents import Document, described
from loadsheet.page.entries import unknown_entry
from loadsheet.postgres import connect_warehouse
from loadsheet.project.folder import display_path
from loadsheet.spec.models import Pipeline

# Most of the time is spent waiting for servers.
_AT_ONCE = 4
NOT_ASKED = "the site was written with --no-connect"
_ONLY_NAMES = "without the warehouse, which explains the SQL, only tables are shown"
_AGES = ("age_seconds", "open_seconds", "watermark_age_seconds")


def recorded(files: Sequence[Path], connections: Connections | None) -> Document:
    """The documents of the pipelines in `files`: `session`, and `overview`, in which each table and
    mart has all that is known of it. Without `connections`, that is what the files say.

    Two of them differ only in `at` if nothing has changed in between. A pipeline whose file is
    broken, or whose servers cannot be asked, is in them with the reason.
    """
    reader = documents.OverviewReader(connections, True) if connections else None
    recorder = _Recorder(connections, reader)
    with reader or nullcontext(), ThreadPoolExecutor(_AT_ONCE) as pool:
        entries = list(pool.map(recorder.pipeline, files))
    entries.sort(key=lambda entry: (entry["name"], entry["file"]))
    counts = Counter(entry["name"] for entry in entries if not entry["error"])
    for entry in entries:
        if counts[entry["name"]] > 1 and not entry["error"]:
            entry["error"] = f"{entry['file']}: other files have this name, too: `loadsheet check`"
            entry["targets"] = []
    at = datetime.now(UTC).replace(microsecond=0)
    overview = {"at": at, "asked_source": True, "pipelines": entries}
    return documents.finished({"session": documents.session("recorded"), "overview": overview})


class _Recorder:
    def __init__(self, connections: Connections | None, reader: documents.OverviewReader | None):
        self._connections = connections
        self._reader = reader

    def pipeline(self, file: Path) -> Document:
        """The pipeline's entry in the overview."""
        entry, pipeline = documents.begun_entry(file)
        if pipeline is None:
            return entry
        if self._reader:
            self._reader.add_state(entry, pipeline)
        else:
            entry["unknown"] = entry["source_unknown"] = NOT_ASKED
        if entry["unknown"]:
            entry["targets"] = _of_file(pipeline)
            if pipeline.patterns:
                names = ", ".join(pattern.name for pattern in pipeline.patterns)
                entry["notes"] = [f"only the warehouse knows which tables these match: {names}"]
        found = _Found(pipeline, entry)
        if self._connections and not entry["unknown"]:
            found.ask(self._connections)
        entry["lineage"] = found.lineage()
        targets = [target | found.about(target) for target in entry["targets"]]
        entry["targets"] = [_without_ages(target) for target in targets]
        return entry


class _Found:
    """What is known of a pipeline's tables and marts."""

    def __init__(self, pipeline: Pipeline, entry: Document):
        self._pipeline = pipeline
        self._entry = entry
        self._here: dict[str, Mapping[str, Document]] = {"table": {}, "transform": {}}
        self._sources: Mapping[str, Document] = {}
        self._tests, self._tests_unknown = documents.tests_of(pipeline)
        self._lineage = file_lineage(pipeline)
        self._lineage_unknown: str | None = _ONLY_NAMES
        self._tables: dict[Dataset, int] = {}
        self._edges: dict[Edge, int] = {}

    def ask(self, connections: Connections) -> None:
        """Ask both servers for columns, comments and lineage: once for all tables."""
        pipeline = self._pipeline
        names: dict[str, list[str]] = {"table": [], "transform": []}
        for target in self._entry["targets"]:
            names[target["kind"]].append(target["name"])
        schemas = {
            "table": pipeline.warehouse.schema,
            "transform": pipeline.warehouse.mart_schema,
        }
        try:
            with connect_warehouse(connections(pipeline.warehouse.conn_id)) as session:
                for kind, schema in schemas.items():
                    self._here[kind] = about.by_catalog(session, schema, names[kind])
                self._lineage = pipeline_lineage(session, pipeline)
                self._lineage_unknown = None
        except Exception as error:
            self._entry["unknown"] = described(error)
        if self._entry["source_unknown"]:
            return
        try:
            self._sources = about.from_source(pipeline, connections, names["table"])
        except Exception as error:
            self._entry["source_unknown"] = described(error)

    def lineage(self) -> Document:
        """The tables and edges of the whole pipeline."""
        lineage = self._lineage
        self._tables = {dataset: place for place, dataset in enumerate(lineage.datasets)}
        self._edges = {edge: place for place, edge in enumerate(lineage.edges)}
        whole = lineage_document(lineage, self._pipeline.name, False, display_path)
        return {"tables": whole["tables"], "edges": whole["edges"]}

    def about(self, target: Document) -> Document:
        """What is known of one of them, apart from its state."""
        pipeline, kind, name = self._pipeline, target["kind"], target["name"]
        document = documents.begun(pipeline, kind, name)
        here, source = self._here[kind].get(name), None
        if kind == "table":
            source = self._sources.get(name)
        document |= about.by_catalogs(pipeline, kind, name, here, source)
        document["unknown"] = self._entry["unknown"]
        if kind == "table":
            document["source_unknown"] = self._entry["source_unknown"]
        if not target["in_spec"]:
            document["lineage_unknown"] = documents.NOT_IN_FILE
            return document
        document["tests_unknown"] = self._tests_unknown
        document["checks"] = checks_of(pipeline, kind, name, self._tests)
        document["lineage_unknown"] = self._lineage_unknown
        dataset = about.dataset_of(pipeline, kind, name)
        document["upstream"] = self._reached(dataset, down=False)
        document["downstream"] = self._reached(dataset, down=True)
        return document

    def _reached(self, dataset: Dataset, down: bool) -> Document:
        """What a table or mart comes from, or reaches: numbers of tables and edges in `lineage`.
        Written out for each, they were four fifths of a site of 500 tables."""
        found = self._lineage.reached(self._lineage.columns_of(dataset), down)
        return {
            "tables": [self._tables[one] for one in found.datasets],
            "edges": [self._edges[one] for one in found.edges],
        }


def _of_file(pipeline: Pipeline) -> list[Document]:
    """Entries of the tables and marts that the file names, whose state is not known."""
    names = [("table", table.name) for table in pipeline.tables]
    names += [("transform", transform.name) for transform in pipeline.transforms]
    entries = []
    for kind, name in names:
        relation = about.relation_of(pipeline, kind, name)
        entries.append(unknown_entry(kind, name, str(relation)))
    return entries


def _without_ages(value: Any) -> Any:
    """The value without ages, at any depth: they are others every second."""
    if isinstance(value, Mapping):
        return {key: None if key in _AGES else _without_ages(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_ages(one) for one in value]
    return value
