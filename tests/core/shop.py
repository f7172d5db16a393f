"""A small source, and what a spec and a mart make of it, for tests of the command line."""

from __future__ import annotations

SOURCE = """
CREATE TABLE customer (
    id int PRIMARY KEY, name text, at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE country (code char(2) PRIMARY KEY, name text);
INSERT INTO customer SELECT i, 'name ' || i FROM generate_series(1, 100) i;
INSERT INTO country VALUES ('no', 'Norway'), ('pe', 'Perú');
"""
TABLES = {"customer": {"incremental": "at"}, "country": None}
MART = {"names": "SELECT name FROM staging.customer"}
