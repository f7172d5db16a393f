-- A web shop: what the tutorial's source holds. Times are stamped by the database, as triggers or defaults do.
CREATE TABLE countries (code char(2) PRIMARY KEY, name text NOT NULL);
INSERT INTO countries VALUES ('NO', 'Norway'), ('PE', 'Peru'), ('VN', 'Viet Nam');

CREATE TABLE customers (
    customer_id int PRIMARY KEY,
    name text NOT NULL,
    country char(2) NOT NULL REFERENCES countries,
    internal_note text,
    updated_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO customers
SELECT i, 'Customer ' || i, (ARRAY['NO', 'PE', 'VN'])[1 + i % 3], 'only for us' FROM generate_series(1, 500) AS i;

CREATE TABLE orders (
    order_id int PRIMARY KEY,
    customer_id int NOT NULL REFERENCES customers,
    amount numeric(10, 2) NOT NULL,
    status text NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO orders
SELECT i, 1 + i % 500, (i * 7919 % 50000) / 100.0, CASE WHEN i % 10 = 0 THEN 'open' ELSE 'paid' END
FROM generate_series(1, 20000) AS i;
CREATE INDEX ON orders (updated_at);
