-- Refused by both.
--! error UNDEFINED_COLUMN
SELECT nope FROM messages;
--! error UNDEFINED_COLUMN
SELECT m.nope FROM messages m;
--! error UNDEFINED_TABLE
SELECT x.msg_id FROM messages m;
--! error UNDEFINED_TABLE
SELECT messages.msg_id FROM messages m;
--! error UNDEFINED_TABLE
SELECT * FROM nope;
--! error UNDEFINED_COLUMN
SELECT conversation_id FROM messages a JOIN messages b ON true;
--! error UNDEFINED_FUNCTION
SELECT nope(1);
--! error UNDEFINED_FUNCTION
SELECT lower(1);
--! error UNDEFINED_FUNCTION
SELECT length(metadata) FROM messages;
--! error INVALID_VALUE
SELECT 1 / 0;
--! error INVALID_VALUE
SELECT 1 % 0;
--! error INVALID_VALUE
SELECT 1.0 / 0;
--! error INVALID_VALUE
SELECT 1::float8 / 0;
--! error INVALID_VALUE
SELECT mod(5, 0);
--! error INVALID_VALUE
SELECT msg_id / (msg_id - 1000) FROM messages;
--! error INVALID_VALUE
SELECT 2147483647 + 1;
--! error INVALID_VALUE
SELECT 9223372036854775807 + 1;
--! error INVALID_VALUE
SELECT 'abc'::int;
--! error INVALID_VALUE
SELECT '1.5'::int;
--! error INVALID_VALUE
SELECT content::int FROM messages;
--! error INVALID_VALUE
SELECT '99999999999'::int;
--! error INVALID_VALUE
SELECT 3000000000::int;
--! error INVALID_VALUE
SELECT 'maybe'::bool;
--! error INVALID_VALUE
SELECT msg_id FROM messages WHERE msg_id = 'abc';
--! error INVALID_VALUE
SELECT msg_id FROM messages WHERE timestamp > 'yesterdayish';
--! error INVALID_VALUE
SELECT '{bad'::jsonb;
--! error INVALID_VALUE
SELECT interval 'three days';
--! error INVALID_VALUE
SELECT sqrt(-1);
--! error INVALID_VALUE
SELECT ln(0);
--! error INVALID_VALUE
SELECT substring('abc', 1, -1);
--! error INVALID_VALUE
SELECT split_part('a', ',', 0);
--! error INVALID_VALUE
SELECT extract(nope FROM timestamp) FROM messages;
--! error INVALID_VALUE
SELECT date_trunc('nope', timestamp) FROM messages;
--! error INVALID_VALUE
SELECT (SELECT msg_id FROM messages);
--! error INVALID_VALUE
SELECT msg_id FROM messages LIMIT -1;
--! error TYPE_MISMATCH
SELECT msg_id FROM messages WHERE msg_id = content;
--! error TYPE_MISMATCH
SELECT msg_id + content FROM messages;
--! error TYPE_MISMATCH
SELECT msg_id FROM messages WHERE content;
--! error TYPE_MISMATCH
SELECT msg_id FROM messages WHERE msg_id AND true;
--! error TYPE_MISMATCH
SELECT 1 || 2;
--! error TYPE_MISMATCH
SELECT CASE WHEN true THEN msg_id ELSE content END FROM messages;
--! error TYPE_MISMATCH
SELECT COALESCE(msg_id, content) FROM messages;
--! error TYPE_MISMATCH
SELECT msg_id FROM messages WHERE metadata->'n' = 1;
--! error TYPE_MISMATCH
SELECT timestamp::int FROM messages;
--! error TYPE_MISMATCH
SELECT msg_id LIKE '1%' FROM messages;
--! error SYNTAX_ERROR
SELECT content, count(*) FROM messages GROUP BY conversation_id;
--! error SYNTAX_ERROR
SELECT msg_id FROM messages WHERE count(*) > 1;
--! error SYNTAX_ERROR
SELECT FROM WHERE;
--! error SYNTAX_ERROR
SELECT row_number() FROM messages;
--! error SYNTAX_ERROR
SELECT lower(content) OVER () FROM messages;
--! error SYNTAX_ERROR
SELECT * FROM (SELECT 1);
--! error SYNTAX_ERROR
SELECT * FROM messages m, conversations m;
--! error SYNTAX_ERROR
SELECT *;
--! error UNDEFINED_COLUMN
SELECT msg_id FROM messages ORDER BY 5;
--! error SYNTAX_ERROR
SELECT 1 UNION SELECT 1, 2;
--! error SYNTAX_ERROR
SELECT (SELECT 1, 2);
--! error UNDEFINED_COLUMN
SELECT msg_id AS m FROM messages WHERE m > 1;
--! error UNDEFINED_COLUMN
SELECT 1 AS one, one + 1;
--! error UNDEFINED_TABLE
SELECT * FROM conversations c, (SELECT * FROM messages m WHERE m.conversation_id = c.conversation_id) s;
--! error SYNTAX_ERROR
SELECT sum(x) OVER w FROM (SELECT 1 AS x) t;
-- Refused by us alone: documented limits.
--! error UNSUPPORTED
SELECT 'a' COLLATE "en_US" FROM (SELECT 1) t;
--! only UNSUPPORTED
SELECT * FROM messages FOR UPDATE;
--! only UNSUPPORTED
SELECT * FROM messages TABLESAMPLE SYSTEM (10);
--! only UNSUPPORTED
SELECT msg_id FROM messages ORDER BY 1 FETCH FIRST 2 ROWS WITH TIES;
--! only UNSUPPORTED
SELECT 1::money;
--! only UNSUPPORTED
SELECT 1::oid;
--! only UNDEFINED_FUNCTION
SELECT pg_sleep(0);
--! only UNDEFINED_FUNCTION
SELECT current_setting('port');
--! only UNDEFINED_FUNCTION
SELECT version();
--! only UNDEFINED_FUNCTION
SELECT pg_read_file('PG_VERSION');
--! only UNDEFINED_FUNCTION
SELECT pg_backend_pid();
--! only UNDEFINED_FUNCTION
SELECT txid_current();
--! only UNSUPPORTED
SELECT current_catalog;
--! error INVALID_VALUE
SELECT jsonb_array_elements('{"a":1}'::jsonb);
--! error INVALID_VALUE
SELECT jsonb_array_length('5'::jsonb);
--! error INVALID_VALUE
SELECT * FROM generate_series(1, 5, 0);
--! error INVALID_VALUE
SELECT date '2025-02-30';
--! error INVALID_VALUE
SELECT timestamptz '2025-13-01';
--! error UNDEFINED_FUNCTION
SELECT sum(content) FROM messages;
--! error INVALID_VALUE
SELECT power(0, -1);
--! error INVALID_VALUE
SELECT 'abc' ~ '(';
--! error SYNTAX_ERROR
SELECT sum(count(*)) FROM messages;
--! error SYNTAX_ERROR
SELECT DISTINCT content FROM messages ORDER BY msg_id;
--! error SYNTAX_ERROR
SELECT DISTINCT ON (conversation_id) conversation_id, msg_id FROM messages ORDER BY msg_id;
--! error TYPE_MISMATCH
SELECT content FROM messages UNION SELECT msg_id FROM messages;
--! error INVALID_VALUE
SELECT timestamp AT TIME ZONE 'Nowhere' FROM messages;
--! error INVALID_VALUE
SELECT content::jsonb FROM messages;
--! error INVALID_VALUE
SELECT 123456::numeric(4,2);
--! error INVALID_VALUE
SELECT percentile_cont(2) WITHIN GROUP (ORDER BY msg_id) FROM messages;
--! error SYNTAX_ERROR
SELECT msg_id FROM messages WHERE row_number() OVER () = 1;
--! error INVALID_VALUE
SELECT (metadata->>'role')::int FROM messages;
--! error INVALID_VALUE
SELECT msg_id * 9223372036854775807 FROM messages;
--! error INVALID_VALUE
SELECT 1 UNION SELECT 'x';
--! error UNDEFINED_COLUMN
SELECT msg_id FROM messages LIMIT msg_id;
--! error SYNTAX_ERROR
SELECT msg_id FROM messages LIMIT count(*);
