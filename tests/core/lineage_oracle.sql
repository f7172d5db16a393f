-- SELECTs of all kinds, each with the name of its mart; the test says what is asked of them.

-- cte_chain
WITH a AS (SELECT shop, sum(amount) s FROM staging.sale GROUP BY shop), b AS MATERIALIZED (SELECT
    a.*, name FROM a JOIN staging.shop ON shop.id = a.shop) SELECT name, s, rank() OVER w AS r FROM
    b WINDOW w AS (ORDER BY s DESC);

-- lateral_limit
SELECT s.name, l.kind, l.amount FROM staging.shop s LEFT JOIN LATERAL (SELECT kind, amount FROM
    staging.sale x WHERE x.shop = s.id ORDER BY x.at DESC LIMIT 1) l ON true;

-- using_left
SELECT id, name, amount FROM staging.shop LEFT JOIN staging.sale USING (id);

-- using_right
SELECT id, name, amount FROM staging.shop RIGHT JOIN staging.sale USING (id);

-- natural
SELECT * FROM (SELECT id, name FROM staging.shop) a NATURAL JOIN (SELECT id, amount FROM
    staging.sale) b;

-- natural_full
SELECT * FROM (SELECT id, name FROM staging.shop) a NATURAL FULL JOIN (SELECT id, kind FROM
    staging.sale) b;

-- using_alias
SELECT j.id AS jid, name FROM (staging.shop JOIN (SELECT id, kind FROM staging.sale) k USING (id) AS
    j);

-- union_dist
SELECT kind, shop FROM staging.sale UNION SELECT name, id FROM staging.shop;

-- intersect
SELECT kind FROM staging.sale INTERSECT SELECT name FROM staging.shop;

-- except_all
SELECT kind FROM staging.sale EXCEPT ALL SELECT name FROM staging.shop;

-- nested_sets
(SELECT kind, amount FROM staging.sale UNION ALL SELECT city, id FROM staging.shop) EXCEPT (SELECT
    name, parent FROM staging.shop INTERSECT SELECT kind, shop FROM staging.sale);

-- agg_filter
SELECT shop, count(*) FILTER (WHERE flag) n, sum(amount) FILTER (WHERE kind = 'a') s, count(DISTINCT
    kind) d FROM staging.sale GROUP BY shop;

-- within_group
SELECT shop, percentile_disc(0.5) WITHIN GROUP (ORDER BY amount DESC) p, mode() WITHIN GROUP (ORDER
    BY kind) m, rank(5) WITHIN GROUP (ORDER BY amount) AS hr FROM staging.sale GROUP BY shop;

-- window_all
SELECT id, lag(amount, 1, 0) OVER (PARTITION BY shop ORDER BY at) l, sum(amount) OVER (ORDER BY at
    ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) s, first_value(kind) OVER (PARTITION BY flag ORDER BY
    amount, id) f, ntile(3) OVER (ORDER BY amount, id) n, count(*) OVER (PARTITION BY kind) c FROM
    staging.sale;

-- scalar_sub
SELECT name, (SELECT sum(amount) FROM staging.sale WHERE shop = s.id AND kind <> 'b') t,
    ARRAY(SELECT kind FROM staging.sale x WHERE x.shop = s.id ORDER BY amount, id) a, s.id IN
    (SELECT shop FROM staging.sale WHERE flag) i, s.id = ANY (SELECT parent FROM staging.shop) p,
    EXISTS (SELECT FROM staging.sale z WHERE z.kind = s.name) e FROM staging.shop s;

-- count_sub
SELECT name, (SELECT count(*) FROM staging.sale WHERE shop = s.id) n FROM staging.shop s;

-- stars
SELECT s.*, x.* FROM (SELECT id AS sid, city FROM staging.shop) s JOIN (SELECT id, kind, shop FROM
    staging.sale) x ON x.shop = s.sid;

-- star_one
SELECT * FROM (staging.shop AS s (a, b, c, d) JOIN (SELECT shop AS a, amount FROM staging.sale) t
    USING (a)) AS j;

-- recur
WITH RECURSIVE t(id, path, lvl) AS (SELECT id, name, 1 FROM staging.shop WHERE parent IS NULL UNION
    ALL SELECT s.id, t.path || '/' || s.city, lvl + 1 FROM staging.shop s JOIN t ON s.parent = t.id)
    SELECT id, path, lvl FROM t;

-- recur_search
WITH RECURSIVE t(id, name) AS (SELECT id, name FROM staging.shop WHERE parent IS NULL UNION ALL
    SELECT s.id, s.name FROM staging.shop s JOIN t ON s.parent = t.id) SEARCH DEPTH FIRST BY id SET
    o SELECT id, name, o::text FROM t;

-- recur_order
WITH RECURSIVE t(id, name) AS (SELECT id, name FROM staging.shop WHERE parent IS NULL UNION ALL
    SELECT s.id, s.name FROM staging.shop s JOIN t ON s.parent = t.id) SEARCH BREADTH FIRST BY id
    SET o SELECT id, name, row_number() OVER (ORDER BY o) rn FROM t;

-- recur_cycle
WITH RECURSIVE t(id, name) AS (SELECT id, name FROM staging.shop WHERE parent IS NULL UNION ALL
    SELECT s.id, s.name FROM staging.shop s JOIN t ON s.parent = t.id) CYCLE id SET c USING p SELECT
    id, name, c, p::text AS pp FROM t;

-- recur_dist
WITH RECURSIVE t(id, up) AS (SELECT id, parent FROM staging.shop UNION SELECT t.id, s.parent FROM t
    JOIN staging.shop s ON s.id = t.up) SELECT id, count(*) n FROM t GROUP BY id;

-- gsets
SELECT kind, shop, grouping(kind, shop) g, sum(amount) s FROM staging.sale GROUP BY GROUPING SETS
    ((kind), (shop), ());

-- cube
SELECT coalesce(kind, '-') k, upper(kind) u, count(*) c FROM staging.sale GROUP BY CUBE (kind, flag);

-- group_expr
SELECT date_trunc('day', at) d, extract(dow FROM date_trunc('day', at)) w, sum(amount) s FROM
    staging.sale GROUP BY 1 HAVING count(*) > 1;

-- case_simple
SELECT id, CASE kind WHEN 'a' THEN amount WHEN 'b' THEN shop END v, CASE WHEN flag THEN 'x' ELSE 'y'
    END w FROM staging.sale;

-- coalesces
SELECT id, coalesce(kind, tags[1]) a, nullif(kind, tags[2]) b, greatest(amount, shop) c, (kind,
    shop) = ('a', 1) r, kind IS DISTINCT FROM tags[1] d, amount BETWEEN shop AND 5 e, kind LIKE 'a%'
    OR flag f FROM staging.sale;

-- jsonb
SELECT s.id, s.doc->>'k' k, e.value v, e.ordinality o, jsonb_path_query_first(doc, '$.l[0]') p,
    kv.key FROM staging.sale s, jsonb_array_elements(doc->'l') WITH ORDINALITY e, LATERAL
    jsonb_each(doc) kv;

-- srf
SELECT id, unnest(tags) t, generate_series(1, shop) g FROM staging.sale;

-- rows_from
SELECT r.* FROM staging.sale s, ROWS FROM (unnest(s.tags), generate_series(1, s.shop)) WITH
    ORDINALITY r (a, b, c);

-- rec_fn
SELECT r.x, r.y FROM staging.sale s, jsonb_to_record(s.doc) AS r (x text, y int, name text) WHERE
    r.name > 'a0';

-- values
SELECT v.n, s.name FROM (VALUES (1, 'one'), (2, 'two')) v (k, n) JOIN staging.shop s ON s.id = v.k;

-- values_sub
SELECT s.name, v.x FROM staging.shop s, LATERAL (VALUES (s.city), (s.name || '!')) v (x);

-- pure_values
VALUES (1, 'a'), (2, 'b');

-- renamed
SELECT x.b AS z FROM staging.shop AS x (a, b, c) WHERE x.c <> 'Rome';

-- dis_on
SELECT DISTINCT ON (shop, kind) shop, kind, amount FROM staging.sale ORDER BY shop, kind, at DESC;

-- dist
SELECT DISTINCT kind, flag FROM staging.sale;

-- limit_sub
SELECT kind FROM staging.sale ORDER BY amount, id LIMIT (SELECT count(*) FROM staging.shop WHERE
    city = 'Oslo');

-- ties
SELECT id FROM staging.sale ORDER BY amount FETCH FIRST 3 ROWS WITH TIES;

-- whole_row
SELECT row_to_json(x) j, count(x) OVER () n, x::text t FROM staging.sale x;

-- whole_join
SELECT j::text AS t FROM (staging.shop a JOIN (SELECT shop, amount FROM staging.sale) b ON a.id =
    b.shop) AS j;

-- composite
SELECT (s).name, (ROW(id, kind)).f1 FROM (SELECT s, x.id, x.kind FROM staging.shop s JOIN
    staging.sale x ON x.shop = s.id) q;

-- cte_row
WITH q AS (SELECT id, name || city AS nc FROM staging.shop) SELECT to_jsonb(q) d, q IS NULL n FROM q;

-- agg_of_sub_outer
SELECT s.name, (SELECT max(x.amount + s.id) FROM staging.sale x) m FROM staging.shop s;

-- outer_agg
SELECT shop, (SELECT max(t.amount) || min(b.name) FROM staging.shop b WHERE b.id = t.shop) z FROM
    staging.sale t GROUP BY shop;

-- outer_count
SELECT shop, (SELECT count(t.id) + b.id FROM staging.shop b WHERE b.id = t.shop) z FROM staging.sale
    t GROUP BY shop;

-- quant
SELECT id FROM staging.sale WHERE amount > ALL (SELECT id FROM staging.shop WHERE city = 'Oslo') OR
    (shop, kind) IN (SELECT id, name FROM staging.shop);

-- notexists
SELECT name FROM staging.shop s WHERE NOT EXISTS (SELECT 1 FROM staging.sale x WHERE x.shop = s.id
    AND x.amount > 3);

-- anti
SELECT s.name FROM staging.shop s LEFT JOIN staging.sale x ON x.shop = s.id WHERE x.id IS NULL;

-- semi_count
SELECT count(*) n FROM (SELECT DISTINCT kind, flag FROM staging.sale WHERE amount > 2) q;

-- count_join
SELECT count(*) n FROM staging.sale JOIN staging.shop ON shop.id = sale.shop AND city = kind OR flag;

-- exists_agg
SELECT bool_or(flag) b, every(amount > 2) e FROM staging.sale;

-- param_arr
SELECT ARRAY[kind, tags[shop]] a, tags[1:shop] sl, amount::int::text c, (ARRAY[amount, id])[1] m
    FROM staging.sale;

-- tz
SELECT at AT TIME ZONE 'UTC' a, to_char(at, 'YYYY') y, make_interval(days => shop) i FROM
    staging.sale;

-- order_by_window
SELECT id FROM staging.sale ORDER BY row_number() OVER (ORDER BY amount, id) LIMIT 2;

-- win_filter
SELECT id FROM (SELECT id, row_number() OVER (PARTITION BY shop ORDER BY at DESC) rn FROM
    staging.sale) q WHERE rn = 1;

-- odd
SELECT "Id", "a.b", "sel""ect" || "Ünï" AS "My ""Col.", "order" FROM staging."Odd Name" WHERE
    "order" > 2;

-- cte_unused_cols
WITH a AS (SELECT *, amount * shop AS p FROM staging.sale) SELECT p FROM a;

-- dup_sub
SELECT a.name AS n1, b.name AS n2 FROM staging.shop a JOIN staging.shop b ON b.parent = a.id;

-- nested_cte
WITH o AS (WITH i AS (SELECT kind k FROM staging.sale) SELECT k FROM i), i AS (SELECT name k FROM
    staging.shop) SELECT o.k || i.k z FROM o, i;

-- cte_in_sub
WITH o AS (SELECT id, name FROM staging.shop) SELECT (SELECT max(o.name) FROM o WHERE o.id = s.shop)
    m FROM staging.sale s;

-- fetch_off
SELECT kind FROM staging.sale ORDER BY at OFFSET 2;

-- setop_sub_order
SELECT k FROM ((SELECT kind k, amount a FROM staging.sale ORDER BY a, id LIMIT 3) UNION ALL (SELECT
    name, id FROM staging.shop ORDER BY city, id LIMIT 2)) q WHERE a < 9;

-- bool_test
SELECT id, flag IS NOT TRUE a, kind IS NULL b, shop = ANY (ARRAY[1, id]) c, amount = ANY (SELECT id
    FROM staging.shop WHERE city='Oslo') d FROM staging.sale;

-- casearr
SELECT id, CASE WHEN tags && ARRAY['a'] THEN (SELECT name FROM staging.shop WHERE id = sale.shop)
    END z FROM staging.sale;

-- merge_support
SELECT sum(sum(amount)) OVER (ORDER BY shop) c, shop FROM staging.sale GROUP BY shop;

-- win_frame
SELECT id, sum(amount) OVER (ORDER BY at RANGE BETWEEN make_interval(hours => 10) PRECEDING AND
    CURRENT ROW EXCLUDE TIES) z FROM staging.sale;

-- join_unused
SELECT s.name FROM staging.shop s CROSS JOIN staging.sale;

-- sub_const
SELECT q.n FROM (SELECT 1 AS n FROM staging.sale WHERE flag) q;

-- agg_nogroup
SELECT 1 AS one FROM staging.sale HAVING count(*) > 2;

-- group_const
SELECT count(*) c, max(x) m FROM (SELECT CASE WHEN flag THEN 1 END x FROM staging.sale) q;

-- exists_limit
SELECT EXISTS (SELECT 1 FROM staging.sale GROUP BY kind HAVING sum(amount) > 10) e;

-- sub_offset
SELECT (SELECT name FROM staging.shop ORDER BY city, id LIMIT 1) f;

-- arr_sub_order
SELECT (SELECT string_agg(name, ',') FROM (SELECT name FROM staging.shop ORDER BY parent NULLS
    FIRST, id) q) f;

-- agg_ordered_sub
SELECT array_agg(k) z, first_value(k) OVER () fv FROM (SELECT kind k FROM staging.sale ORDER BY
    amount, id) q GROUP BY k;

-- row_num_nothing
SELECT kind, row_number() OVER () r FROM (SELECT kind FROM staging.sale ORDER BY amount, id) q;

-- json_made
SELECT shop, json_object_agg(id, kind ORDER BY amount) o, jsonb_agg(DISTINCT tags) t FROM
    staging.sale GROUP BY shop;

-- having_count
SELECT kind, sum(amount) s FROM staging.sale GROUP BY kind HAVING count(*) > 2;

-- top_count
SELECT kind, count(*) n FROM staging.sale GROUP BY kind ORDER BY count(*) DESC, kind LIMIT 2;

-- dist_count
SELECT DISTINCT count(*) n FROM staging.sale GROUP BY kind;

-- dist_window
SELECT DISTINCT shop, count(*) OVER (PARTITION BY kind) n FROM staging.sale;

-- having_in_cte
WITH c AS (SELECT kind FROM staging.sale GROUP BY kind HAVING count(*) > 2) SELECT count(*) n FROM c;

-- ordered_then_cut
SELECT k FROM (SELECT kind k FROM staging.sale ORDER BY amount, id) q LIMIT 3;

-- intersect_all
SELECT kind FROM staging.sale INTERSECT ALL SELECT name FROM staging.shop;

-- exists_bare
SELECT name, EXISTS (SELECT FROM staging.sale) e, CASE WHEN NOT EXISTS (SELECT FROM staging.sale)
    THEN city END c FROM staging.shop;

-- count_where_exists
SELECT count(*) n FROM staging.shop s WHERE EXISTS (SELECT FROM staging.sale x WHERE x.shop = s.id
    AND amount > 8);

-- rows_gset_count
SELECT kind, count(*) n FROM staging.sale GROUP BY GROUPING SETS ((kind), ()) HAVING grouping(kind)
    = 1 OR count(*) > 2;

-- full_where
SELECT coalesce(a.id, b.id) id FROM staging.sale a FULL JOIN staging.shop b ON a.amount = b.id AND
    b.city = 'Oslo' WHERE a.flag IS DISTINCT FROM true;

-- union_in_recursion
WITH RECURSIVE r AS (SELECT id, parent FROM staging.shop WHERE city = 'Oslo' UNION (SELECT s.id,
    s.parent FROM r JOIN staging.shop s ON s.parent = r.id)) SELECT count(*) n, max(parent) p FROM r;
