"""Which columns draw their numbers from which sequences, as SQL on the catalogs: for the extractor,
which asks how far they have counted, and for its grants."""

from __future__ import annotations

DRAWING = """
SELECT refobjid, refobjsubid, objid, true FROM pg_depend
WHERE classid = 'pg_class'::regclass AND deptype IN ('a', 'i')
    AND refclassid = 'pg_class'::regclass
UNION
SELECT adrelid, adnum, refobjid, false FROM pg_attrdef d
JOIN pg_depend ON classid = 'pg_attrdef'::regclass AND objid = d.oid
WHERE refclassid = 'pg_class'::regclass
UNION
SELECT attrelid, attnum, refobjid, false FROM pg_depend
JOIN pg_attribute ON atttypid = objid AND NOT atthasdef AND attnum > 0
JOIN pg_class c ON c.oid = attrelid AND relkind IN ('r', 'p')
WHERE classid = 'pg_type'::regclass AND refclassid = 'pg_class'::regclass
UNION
SELECT tgrelid, a.attnum, c.oid, false FROM pg_trigger
JOIN place ON place.relation = tgrelid
JOIN pg_proc f ON f.oid = tgfoid AND strpos(lower(prosrc), 'nextval') > 0
JOIN pg_attribute a ON attrelid = tgrelid AND a.attnum = place.attnum
    AND strpos(prosrc, attname) > 0
JOIN pg_class c ON relkind = 'S' AND strpos(prosrc, relname) > 0
WHERE NOT tgisinternal
"""
"""Relation, number of the column, sequence, and whether the column owns it (serial, identity); the
others draw a default from it, also that of a domain. A trigger draws from the sequences that its
function names next to the column. It reads a table `place` (relation, attnum), and needs
search_path = pg_catalog."""
